package plane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// openAuthority loads or makes the authority, and this process's own certificate.
func (p *Plane) openAuthority(ctx context.Context) error {
	if err := p.openCA(ctx); err != nil {
		return err
	}
	p.source = trust.NewSource(p.clock)
	bundles, err := trust.NewBundles(p.ca.Bundle())
	if err != nil {
		return err
	}
	return errors.Join(p.source.Update(nil, bundles), p.issueOwn())
}

func (p *Plane) issueOwn() error {
	key, err := trust.NewPrivateKey()
	if err != nil {
		return err
	}
	svid, err := p.ca.SelfIssue(key, peer.IdentityOf(p.cfg.TrustDomain()))
	if err != nil {
		return err
	}
	return p.source.Update(svid, nil)
}

// keepCertificate renews the own certificate at the same point of its life as proxies
// do.
func (p *Plane) keepCertificate(ctx context.Context) error {
	for {
		leaf := p.source.Current().SVID.Leaf
		due := trust.RenewAt(leaf.NotBefore, leaf.NotAfter, random())
		// In short looks, because the wall clock may be set meanwhile.
		if wait := due.Sub(p.clock.Now()); wait > 0 {
			if err := clock.Wait(ctx, p.clock, min(wait, time.Minute)); err != nil {
				return err
			}
			continue
		}
		if err := p.issueOwn(); err != nil {
			p.log.Error("the control plane's own certificate could not be renewed", "error", err)
			if err := clock.Wait(ctx, p.clock, 10*time.Second); err != nil {
				return err
			}
		}
	}
}

// believe takes bundles of other trust domains into this process's own trust.
func (p *Plane) believe(updates []xds.Update) {
	for _, u := range updates {
		if u.Type != string(ir.TypeBundle) || u.Name == "*" || u.Name == string(p.cfg.TrustDomain()) {
			continue
		}
		now := p.source.Current().Bundles
		var err error
		if u.Resource == nil {
			err = p.source.Update(nil, now.Without(mesh.TrustDomain(u.Name)))
		} else {
			var v any
			if v, err = wire.Decode(ir.TypeBundle, u.Resource.Body); err == nil {
				if now, err = now.With(*v.(*mesh.Bundle)); err == nil {
					err = p.source.Update(nil, now)
				}
			}
		}
		if err != nil {
			p.log.Error("a bundle could not be put in force", "trustDomain", u.Name, "error", err)
		}
	}
}

// identify is who is at the other end of a gRPC connection.
func identify(ctx context.Context) (mesh.Identity, error) {
	pr, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return mesh.Identity{}, errors.New("a call without a connection")
	}
	info, ok := pr.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return mesh.Identity{}, errors.New("a connection without TLS")
	}
	return trust.PeerIdentity(info.State)
}

// signer issues certificates (the service Identity).
type signer struct {
	wirepb.UnimplementedIdentityServer
	plane *Plane
}

// Sign answers a first contact by its token, and a renewal by the certificate of the
// connection.
func (s *signer) Sign(ctx context.Context, r *wirepb.SignRequest) (*wirepb.SignResponse, error) {
	p := s.plane
	issued, err := s.issue(ctx, r)
	if err != nil {
		var refused *ca.RefusedError
		if errors.As(err, &refused) {
			p.log.Warn("a certificate was refused", "error", err)
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
		return nil, status.Error(codes.Internal, err.Error())
	}
	out := &wirepb.SignResponse{Chain: issued.Chain}
	own := p.ca.Bundle()
	out.Bundles = append(out.Bundles, wire.FromBundle(&own))
	return out, nil
}

func (s *signer) issue(ctx context.Context, r *wirepb.SignRequest) (ca.Issued, error) {
	p := s.plane
	if r.Token != "" {
		t, err := trust.ParseToken(r.Token)
		if err != nil {
			return ca.Issued{}, status.Error(codes.InvalidArgument, err.Error())
		}
		return p.tokens.Join(ctx, t.ID, t.Secret, r.Csr)
	}
	id, err := identify(ctx)
	if err != nil {
		return ca.Issued{}, status.Error(codes.Unauthenticated, fmt.Sprintf("neither a token nor a certificate: %v", err))
	}
	who, err := p.ca.Attest(id)
	if err != nil {
		return ca.Issued{}, err
	}
	return p.ca.Sign(r.Csr, who)
}

// authorityTries bounds how often replicas that start at once read again what another was first to write.
const authorityTries = 5

// openCA opens the authority where it is kept: in the store, where that is shared by replicas.
func (p *Plane) openCA(ctx context.Context) (err error) {
	file := ca.NewSealedKeys(p.cfg.path("authority.sealed"), p.sealKey, p.clock)
	c := ca.Config{TrustDomain: p.cfg.TrustDomain(), TTL: p.cfg.CertificateTTL, Clock: p.clock, Log: p.log, Keys: file}
	if !p.cfg.shared() {
		if p.ca, err = ca.Open(ctx, c); err != nil {
			return err
		}
		// Tokens live in memory: a restart spoils those not used, and who needs one asks again.
		p.tokens = ca.NewJoinTokens(p.ca, &ca.MemoryTokens{})
		return nil
	}
	for range authorityTries {
		c.Keys = ca.NewSharedKeys(ca.SharedConfig{Objects: p.claim, Key: p.sealKey, Copy: file, Clock: p.clock, Log: p.log})
		if p.ca, err = ca.Open(ctx, c); !errors.Is(err, ca.ErrMoved) {
			break
		}
	}
	if err != nil {
		return err
	}
	p.tokens = ca.NewJoinTokens(p.ca, ca.NewSharedTokens(p.store))
	return nil
}

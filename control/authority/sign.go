package authority

import (
	"context"
	"errors"
	"fmt"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Believe takes bundles of other trust domains into this process's own trust.
func (a *Authority) Believe(updates []xds.Update) {
	for _, u := range updates {
		if u.Type != string(ir.TypeBundle) || u.Name == "*" || u.Name == string(a.cfg.TrustDomain) {
			continue
		}
		now := a.Source.Current().Bundles
		var err error
		if u.Resource == nil {
			err = a.Source.Update(nil, now.Without(mesh.TrustDomain(u.Name)))
		} else {
			var v any
			if v, err = wire.Decode(ir.TypeBundle, u.Resource.Body); err == nil {
				if now, err = now.With(*v.(*mesh.Bundle)); err == nil {
					err = a.Source.Update(nil, now)
				}
			}
		}
		if err != nil {
			a.cfg.Log.Error("a bundle could not be put in force", "trustDomain", u.Name, "error", err)
		}
	}
}

// Published takes what proxies have just been sent.
func (a *Authority) Published(updates []xds.Update) {
	for _, u := range updates {
		if u.Type != string(ir.TypeBundle) || u.Name == "*" {
			continue
		}
		td := mesh.TrustDomain(u.Name)
		generation, roots := uint64(0), 0
		if u.Resource != nil {
			if v, err := wire.Decode(ir.TypeBundle, u.Resource.Body); err == nil {
				generation, roots = v.(*mesh.Bundle).Generation, len(v.(*mesh.Bundle).Roots)
			}
		}
		a.mu.Lock()
		a.published[td] = generation
		if a.several[td] = roots > 1; roots < 2 {
			delete(a.several, td)
		}
		if roots == 0 {
			delete(a.published, td)
		}
		a.mu.Unlock()
	}
}

// Identify is who is at the other end of a gRPC connection.
func Identify(ctx context.Context) (mesh.Identity, error) {
	info, err := connection(ctx)
	if err != nil {
		return mesh.Identity{}, err
	}
	return trust.PeerIdentity(info.State)
}

func connection(ctx context.Context) (credentials.TLSInfo, error) {
	pr, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return credentials.TLSInfo{}, errors.New("a call without a connection")
	}
	info, ok := pr.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return credentials.TLSInfo{}, errors.New("a connection without TLS")
	}
	return info, nil
}

// Signer issues certificates (the service Identity).
type Signer struct {
	wirepb.UnimplementedIdentityServer
	Authority *Authority
}

// Sign answers a first contact by its token, and a renewal by the certificate of the
// connection.
func (s *Signer) Sign(ctx context.Context, r *wirepb.SignRequest) (*wirepb.SignResponse, error) {
	a := s.Authority
	issued, err := a.issue(ctx, r)
	if err != nil {
		var refused *ca.RefusedError
		switch {
		case errors.As(err, &refused):
			a.cfg.Log.Warn("a certificate was refused", "error", err)
			return nil, status.Error(codes.PermissionDenied, err.Error())
		case errors.Is(err, ca.ErrKeyLost):
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return nil, status.Error(codes.Internal, err.Error())
	}
	out := &wirepb.SignResponse{Chain: issued.Chain}
	own := a.CA.Bundle()
	out.Bundles = append(out.Bundles, wire.FromBundle(&own))
	return out, nil
}

func (a *Authority) issue(ctx context.Context, r *wirepb.SignRequest) (ca.Issued, error) {
	if r.Token != "" {
		t, err := trust.ParseToken(r.Token)
		if err != nil {
			return ca.Issued{}, status.Error(codes.InvalidArgument, err.Error())
		}
		return a.Tokens.Join(ctx, t.ID, t.Secret, r.Csr)
	}
	id, err := Identify(ctx)
	if err != nil {
		return ca.Issued{}, status.Error(codes.Unauthenticated, fmt.Sprintf("neither a token nor a certificate: %v", err))
	}
	who, err := a.CA.Attest(id)
	if err != nil {
		return ca.Issued{}, err
	}
	if info, err := connection(ctx); err == nil && len(info.State.PeerCertificates) > 0 {
		who.Replaces = info.State.PeerCertificates[0].SerialNumber.Text(16)
	}
	return a.CA.Sign(r.Csr, who)
}

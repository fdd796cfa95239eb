package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// controlALPN is what the control-plane port speaks.
const controlALPN = "h2"

// upstream is the way to the control planes: addresses in turn, verified as the cluster's own
// control plane.
type upstream struct {
	cfg    *Config
	source *trust.Source
	clock  clock.Clock
	next   atomic.Uint32
	// streaming is the connection of the discovery stream; others may use it.
	streaming atomic.Pointer[grpc.ClientConn]

	join sync.Mutex // guards joinPipe
	// joinPipe is kept: a file that is collected closes its descriptor.
	joinPipe *os.File
}

// controlPlane is the one identity that may answer on the control-plane port.
func controlPlane(td mesh.TrustDomain) mesh.Identity {
	return mesh.Identity{TrustDomain: td, Namespace: "isthmus-system", ServiceAccount: "control-plane"}
}

func (u *upstream) name() string { return "control-plane." + string(u.cfg.TrustDomain) }

// dial connects with a TLS configuration to the next control plane.
func (u *upstream) dial(c *tls.Config) (*grpc.ClientConn, error) {
	addr := u.cfg.ControlPlanes[int(u.next.Add(1)-1)%len(u.cfg.ControlPlanes)]
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	if u.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(u.cfg.Local, 0))
	}
	opts := append(xds.DialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(c)),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", target)
		}))
	return grpc.NewClient("passthrough:///"+addr.String(), opts...)
}

// stream dials for the discovery stream (xds.ClientConfig.Dial).
func (u *upstream) stream(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
	if u.source.Current().SVID == nil {
		return nil, nil, errors.New("no certificate yet")
	}
	td := u.cfg.TrustDomain
	conn, err := u.dial(trust.ClientConfig(u.source, trust.AcceptServers(td, controlPlane(td)), u.name(), controlALPN))
	if err == nil {
		u.streaming.Store(conn)
	}
	return conn, conn, err
}

// Sign gets a certificate (trust.Signer): with the one still held, or by a join token at
// first contact.
func (u *upstream) Sign(ctx context.Context, csr []byte) ([][]byte, *trust.Bundles, error) {
	td := u.cfg.TrustDomain
	config, token := trust.ClientConfig(u.source, trust.AcceptServers(td, controlPlane(td)), u.name(), controlALPN), ""
	if m := u.source.Current(); m.SVID == nil || u.clock.Now().After(m.SVID.Leaf.NotAfter) {
		t, err := u.token(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("ask for a certificate: %w", err)
		}
		config, token = trust.JoinClientConfig(u.clock, t, "join."+string(td), []mesh.Identity{controlPlane(td)}, controlALPN), t.Text()
	}
	conn, err := u.dial(config)
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	defer conn.Close()
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	r, err := wirepb.NewIdentityClient(conn).Sign(ctx, &wirepb.SignRequest{Csr: csr, Token: token}, grpc.WaitForReady(true))
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s for a certificate: %w", conn.Target(), err)
	}
	bundles := u.source.Current().Bundles
	if bundles != nil {
		return r.Chain, nil, nil // the stream keeps them; a copy from before it could undo it
	}
	bundles = new(trust.Bundles)
	for _, b := range r.Bundles {
		if next, err := bundles.With(*wire.ToBundle(b)); err == nil { // one that is older is no news
			bundles = next
		}
	}
	return r.Chain, bundles, nil
}

// token is the join token of the configuration, or a fresh one from whoever started the
// proxy.
func (u *upstream) token(context.Context) (trust.Token, error) {
	if u.cfg.JoinFD == 0 {
		if u.cfg.Join == "" {
			return trust.Token{}, errors.New("no certificate, no snapshot and no join token: give one with join")
		}
		return trust.ParseToken(u.cfg.Join)
	}
	u.join.Lock()
	defer u.join.Unlock()
	if u.joinPipe == nil {
		_ = syscall.SetNonblock(u.cfg.JoinFD, true) // so that it has deadlines
		u.joinPipe = os.NewFile(uintptr(u.cfg.JoinFD), "join")
	}
	f := u.joinPipe
	if f == nil {
		return trust.Token{}, fmt.Errorf("descriptor %d is not open", u.cfg.JoinFD)
	}
	if _, err := f.WriteString("join\n"); err != nil {
		return trust.Token{}, fmt.Errorf("ask for a join token: %w", err)
	}
	_ = f.SetReadDeadline(time.Now().Add(5 * time.Second)) // a plain file answers at once
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return trust.Token{}, fmt.Errorf("read a join token: %w", err)
	}
	return trust.ParseToken(line)
}

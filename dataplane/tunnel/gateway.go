package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// GatewayConfig is what a Gateway works with; all fields but Local are required.
type GatewayConfig struct {
	// Route finds the server proxy behind a slot; false for what is unknown or not
	// exported. It must not block.
	Route func(mesh.SNI) (netip.AddrPort, bool)
	// Source is the gateway's own identity, for its own name only.
	Source *trust.Source
	// Domain is the trust domain of the cluster.
	Domain func() mesh.TrustDomain
	// Local binds connections to server proxies; invalid is any.
	Local netip.Addr
	Log   *slog.Logger
}

// Gateway passes connections into its cluster by the server name they ask for. It holds
// no key for what it passes and cannot read it.
type Gateway struct {
	cfg GatewayConfig
	own *tls.Config

	passing, refused atomic.Int64
	bytesIn          atomic.Int64
	bytesOut         atomic.Int64
}

const (
	helloTimeout   = 5 * time.Second
	endpointDial   = time.Second
	gatewayConnMax = 16 << 10
	// spliceAfter is how much goes one way before the kernel copies: splice holds six
	// descriptors and is dear for small messages.
	spliceAfter = 256 << 10
)

// NewGateway returns a gateway without connections.
func NewGateway(cfg GatewayConfig) *Gateway {
	return &Gateway{cfg: cfg, own: trust.ServerConfig(cfg.Source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2", ALPN}})}
}

// Serve accepts on ln until ctx ends; connections that pass then are closed. It closes ln.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	places := make(chan struct{}, gatewayConnMax)
	for {
		c, err := accept(ctx, ln)
		if err != nil {
			return err
		}
		select {
		case places <- struct{}{}:
		default:
			g.refused.Add(1)
			c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-places }()
			g.serve(ctx, c)
		})
	}
}

func (g *Gateway) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	raw, name, err := readHello(c, make([]byte, 0, 2048))
	_ = c.SetReadDeadline(time.Time{})
	if err != nil {
		g.refuse(c, alertUnrecognizedName, name, err)
		return
	}
	if name == GatewayName(g.cfg.Domain()) {
		g.answer(ctx, &replay{Conn: c, first: raw})
		return
	}
	sni, err := mesh.ParseSNI(name)
	if err != nil {
		g.refuse(c, alertUnrecognizedName, name, err)
		return
	}
	addr, ok := g.cfg.Route(sni)
	if !ok {
		g.refuse(c, alertUnrecognizedName, name, errors.New("no such slot is exported"))
		return
	}
	dialer := net.Dialer{Timeout: endpointDial}
	if g.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.cfg.Local, 0))
	}
	up, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		g.refuse(c, alertInternalError, name, err)
		return
	}
	defer up.Close()
	stopUp := context.AfterFunc(ctx, func() { up.Close() })
	defer stopUp()
	if _, err := up.Write(raw); err != nil {
		g.refuse(c, alertInternalError, name, err)
		return
	}
	g.passing.Add(1)
	defer g.passing.Add(-1)
	g.bytesIn.Add(int64(len(raw)))
	g.pass(c, up)
}

// refuse says why in the only words that a client of TLS reads before a handshake.
func (g *Gateway) refuse(c net.Conn, alert byte, name string, err error) {
	g.refused.Add(1)
	g.cfg.Log.Info("a connection was refused", "remote", c.RemoteAddr().String(), "sni", name, "error", err)
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, alert}) // RFC 8446 §6: a fatal alert, in the clear
}

// pass copies both ways until both directions have ended.
func (g *Gateway) pass(down, up net.Conn) {
	var in sync.WaitGroup
	in.Go(func() { copyHalf(up, down, &g.bytesIn) })
	copyHalf(down, up, &g.bytesOut)
	in.Wait()
}

// copyHalf copies one direction and closes the far side's half after it; an error closes
// both ends.
func copyHalf(to, from net.Conn, count *atomic.Int64) {
	buf := make([]byte, 8<<10)
	sum := 0
	for sum < spliceAfter {
		n, err := from.Read(buf)
		if n > 0 {
			sum += n
			count.Add(int64(n))
			if _, werr := to.Write(buf[:n]); werr != nil {
				abandon(to, from)
				return
			}
		}
		if err != nil {
			finish(to, from, err)
			return
		}
	}
	n, err := io.Copy(to, from) // splice(2) between two TCP connections
	count.Add(n)
	if err == nil {
		err = io.EOF
	}
	finish(to, from, err)
}

func finish(to, from net.Conn, err error) {
	if w, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
		if w.CloseWrite() == nil {
			return
		}
	}
	abandon(to, from)
}

func abandon(to, from net.Conn) {
	to.Close()
	from.Close()
}

// answer serves the gateway's own name: to be pinged, nothing else.
func (g *Gateway) answer(ctx context.Context, c net.Conn) {
	tc := tls.Server(c, g.own)
	hctx, stop := context.WithTimeout(ctx, handshakeTimeout)
	defer stop()
	if err := tc.HandshakeContext(hctx); err != nil {
		g.cfg.Log.Warn("a connection to the gateway itself was refused", "remote", c.RemoteAddr().String(), "error", err)
		return
	}
	err := http2.ServeConn(ctx, tc, http2.Config{ControlRate: 200, DrainTimeout: time.Second}, func(ex message.Exchange) {
		var h message.Head
		h.Reset()
		h.Status = 404
		_ = ex.Respond(&h, true)
	})
	if err != nil {
		g.cfg.Log.Debug("a connection to the gateway itself ended", "error", err)
	}
}

// Stats is what a gateway has done.
type Stats struct {
	Passing, Refused, BytesIn, BytesOut int64
}

// Stats counts since the start; Passing is now.
func (g *Gateway) Stats() Stats {
	return Stats{g.passing.Load(), g.refused.Load(), g.bytesIn.Load(), g.bytesOut.Load()}
}

// replay is a connection whose first bytes have been read already.
type replay struct {
	net.Conn
	first []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

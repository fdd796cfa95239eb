package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// GatewayConfig is what a Gateway works with; Route, Source, Domain and Log are
// required.
type GatewayConfig struct {
	// Route finds the server proxy behind a slot; false for what is unknown or not
	// exported. It must not block.
	Route func(mesh.SNI) (netip.AddrPort, bool)
	// Onward are the gateways of the clusters of another trust domain, to which a connection may be passed on that asks for
	// it (mesh.PassOn): none of those that are not joined, or not reached from here. It must not block; nil passes nothing on.
	Onward func(mesh.TrustDomain) []netip.AddrPort
	// Source is the gateway's own identity, for its own name only.
	Source *trust.Source
	// Domain is the trust domain of the cluster.
	Domain func() mesh.TrustDomain
	// Local binds connections to server proxies; invalid is any.
	Local netip.Addr
	// MaxConns bounds the connections; 0 is 16,384. A quarter may come from one address.
	MaxConns int
	// IdleTimeout ends what has passed nothing in either direction; 0 is 10 min. Dialers
	// leave much earlier, and ask every few seconds while they carry streams.
	IdleTimeout time.Duration
	// DrainTime is how long connections may go on once Serve's context has ended; 0 is 30 s.
	DrainTime time.Duration
	Log       *slog.Logger
}

// Gateway passes connections into its cluster by the server name they ask for. It holds
// no key for what it passes and cannot read it.
type Gateway struct {
	cfg GatewayConfig
	own *tls.Config

	door door.Door

	// leaving ends when Leave is called, or Serve's context has ended.
	leaving context.Context
	leave   context.CancelFunc

	passing, refused  atomic.Int64
	onward            onward
	bytesIn, bytesOut atomic.Int64

	complaints complaints
}

const (
	helloTimeout = 5 * time.Second
	endpointDial = time.Second
	// routeWait is how long an unknown slot is waited for, looked up every routeLook. With the
	// default ConnectTimeout a client has time for a second gateway.
	routeWait       = 400 * time.Millisecond
	routeLook       = 20 * time.Millisecond
	gatewayConnsMax = 16 << 10
	gatewayIdle     = 10 * time.Minute
	gatewayDrain    = 30 * time.Second
	// quietFor is how long a connection of a gateway that drains must have passed nothing to be ended: longer
	// than a Dialer with open streams leaves it unasked (quietMax).
	quietFor = quietMax + 2*time.Second
)

// NewGateway returns a gateway without connections.
func NewGateway(cfg GatewayConfig) *Gateway {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = gatewayConnsMax
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = gatewayIdle
	}
	if cfg.DrainTime == 0 {
		cfg.DrainTime = gatewayDrain
	}
	leaving, leave := context.WithCancel(context.Background())
	return &Gateway{cfg: cfg, door: door.Door{Most: cfg.MaxConns, Each: max(1, cfg.MaxConns/4), Log: cfg.Log, Now: time.Now}, leaving: leaving, leave: leave, own: trust.ServerConfig(cfg.Source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2", ALPN}}),
		onward: onward{most: int64(max(1, cfg.MaxConns/onwardPart))}}
}

// Leave tells those who ping the gateway that it will end: by GOAWAY (RFC 9113 §6.8), also to whoever comes to
// ask. It goes on to accept and to pass until Serve's context ends: they need time to tell the clients.
func (g *Gateway) Leave() { g.leave() }

// Serve accepts on ln until ctx ends, and closes it. Connections that pass then go on until they have
// been quiet for some seconds, which those with open streams never are, or for DrainTime: a gateway cannot
// say goodbye on what it cannot read.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener) error {
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, func() {
		g.leave()
		ln.Close()
		late := time.AfterFunc(g.cfg.DrainTime, cut)
		<-hard.Done()
		late.Stop()
	})
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := accept(ctx, ln)
		if err != nil {
			return err
		}
		leave, ok := g.door.Enter(c)
		if !ok {
			g.refused.Add(1)
			continue
		}
		w := awaitHello(hard, c)
		conns.Go(func() {
			defer leave()
			g.serve(ctx, hard, c, w, w.pieces.Gather()) // nothing deeper may call that
		})
	}
}

// wait is for a ClientHello. What it takes is readied by whoever accepts: thousands may wait for what never comes, each on a
// stack that is as small as stacks begin.
type wait struct {
	pieces *socket.Whole // a peer that dribbles is waited for, and not listened to
	begins beginning
	stop   func() bool // of what closes the connection
}

// awaitHello readies the wait, which ends when hard does.
func awaitHello(hard context.Context, c net.Conn) *wait {
	w := &wait{pieces: socket.NewWhole(c), stop: context.AfterFunc(hard, func() { c.Close() })}
	w.pieces.Ready(w.begins.total)
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	return w
}

// serve carries one connection, of whose first words w waited until err, until hard ends; ctx ends when the gateway drains.
func (g *Gateway) serve(ctx, hard context.Context, c net.Conn, w *wait, err error) {
	defer c.Close()
	defer func() {
		if v := recover(); v != nil { // a fault of ours costs this connection, not those beside it
			g.cfg.Log.Error("a connection met a fault of this gateway", "remote", c.RemoteAddr().String(), "panic", v, "stack", string(debug.Stack()))
		}
	}()
	defer w.stop()
	raw, name := w.pieces.Gathered(), ""
	by, lead := mesh.PassedBy(raw)
	if raw = raw[lead:]; err == nil {
		_, name, err = readHello(bytes.NewReader(raw), make([]byte, 0, len(raw)))
	}
	w.pieces.Close()
	_ = c.SetReadDeadline(time.Time{})
	if err != nil {
		g.refuse(c, alertUnrecognizedName, name, err)
		return
	}
	if by == "" && name == GatewayName(g.cfg.Domain()) {
		g.answer(hard, socket.Replay(c, raw))
		return
	}
	up, word, err := g.place(hard, by, name)
	if err != nil {
		g.refuse(c, word, name, err)
		return
	}
	defer up.Close()
	if by != "" {
		defer g.onward.leave()
	}
	stopUp := context.AfterFunc(hard, func() { up.Close() })
	defer stopUp()
	if _, err := up.Write(raw); err != nil {
		g.refuse(c, alertInternalError, name, err)
		return
	}
	g.passing.Add(1)
	defer g.passing.Add(-1)
	g.bytesIn.Add(int64(len(raw)))
	p := NewPair(End{Conn: c}, End{Conn: up}, g.cfg.IdleTimeout)
	over, end := context.WithCancel(hard)
	defer end()
	stopQuiet := context.AfterFunc(ctx, func() {
		p.untilQuiet(over)
		c.Close()
		up.Close()
	})
	defer stopQuiet()
	_ = p.Run(&g.bytesIn, &g.bytesOut) // how it ended is between the two ends
}

// place connects to where a connection leads that asks for a name: behind a slot, or, if a gateway of by is asked to pass it
// on, to another cluster. The word is what the client is told with the error.
func (g *Gateway) place(ctx context.Context, by mesh.TrustDomain, name string) (up net.Conn, word tls.AlertError, err error) {
	if by != "" {
		return g.further(ctx, by, name)
	}
	sni, err := mesh.ParseSNI(name)
	if err != nil {
		return nil, alertUnrecognizedName, err
	}
	addr, ok := g.route(ctx, sni)
	if !ok {
		return nil, alertUnrecognizedName, errors.New("no such slot is exported")
	}
	ctx, stop := context.WithTimeout(ctx, endpointDial)
	defer stop()
	up, err = socket.Dial(ctx, nil, g.cfg.Local, addr.String())
	return up, alertInternalError, err
}

// route asks for the place behind a slot, and again for a while if there is none: a client may
// have learnt of a slot before we have. Were it refused at once, then after a service has grown from
// one endpoint to twenty the client would find nineteen closed doors.
func (g *Gateway) route(ctx context.Context, sni mesh.SNI) (netip.AddrPort, bool) {
	addr, ok := g.cfg.Route(sni)
	if ok {
		return addr, true
	}
	again := time.NewTicker(routeLook)
	defer again.Stop()
	for end := time.Now().Add(routeWait); time.Now().Before(end); {
		select {
		case <-again.C:
		case <-ctx.Done():
			return netip.AddrPort{}, false
		}
		if addr, ok = g.cfg.Route(sni); ok {
			return addr, true
		}
	}
	return netip.AddrPort{}, false
}

// refuse says why in the only words that a client of TLS reads before a handshake.
func (g *Gateway) refuse(c net.Conn, a tls.AlertError, name string, err error) {
	g.refused.Add(1)
	g.cfg.Log.Info("a connection was refused", "remote", c.RemoteAddr().String(), "sni", name, "error", err)
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(alert(a))
}

// answer serves the gateway's own name: to be pinged, nothing else. What is begun when the gateway
// is leaving is told so after the handshake.
func (g *Gateway) answer(ctx context.Context, c net.Conn) {
	tc := tls.Server(c, g.own)
	hctx, stop := context.WithTimeout(ctx, handshakeTimeout)
	defer stop()
	if err := tc.HandshakeContext(hctx); err != nil {
		g.complaints.handshake(ctx, g.cfg.Log, time.Now(), c.RemoteAddr(), err)
		return
	}
	err := http2.ServeConn(g.leaving, tc, http2.Config{ControlRate: 200, DrainTimeout: time.Second, IdleTimeout: serverIdle}, func(ex message.Exchange) {
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
	// Onward of those that pass now go to another cluster, PassedOn is how many did so far.
	Onward, PassedOn int64
}

// Stats counts since the start; Passing is now.
func (g *Gateway) Stats() Stats {
	return Stats{g.passing.Load(), g.refused.Load(), g.bytesIn.Load(), g.bytesOut.Load(), g.onward.now.Load(), g.onward.all.Load()}
}

// KeptOut counts the connections that were refused when they came, before anything was read of them.
func (g *Gateway) KeptOut() int64 { return g.door.Refused() }

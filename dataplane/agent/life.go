package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/handover"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/trust"
)

// A proxy starts, serves, drains, and ends. It drains when it is told to end, when it is asked to
// (POST /drain), and when a successor has taken its ports; in that order of haste the ports stay open
// for DrainDelay, or close at once, or are somebody else's.

// ErrReplaced is what Run returns when a successor serves and all that was in progress here has
// ended.
var ErrReplaced = handover.ErrReplaced

// Main runs a proxy and, for each value of replace, a successor of it: the same executable started
// again with args. It is what commands call.
func (a *Agent) Main(ctx context.Context, executable string, args, env []string, replace <-chan os.Signal) error {
	s := &handover.Succession{Executable: executable, Args: args, Env: env, Log: a.log}
	if err := a.keeper.ledger.Watch(); err != nil {
		a.log.Warn("what this proxy was told cannot be held against a crash of it", "error", err)
	}
	if a.cfg.SealFD != 0 {
		s.Secrets = map[int][]byte{a.cfg.SealFD: a.keeper.key.Reveal()}
	}
	return s.Run(ctx, replace, a.Run)
}

var (
	errDrain  = errors.New("the proxy was asked to drain")
	errCutOff = errors.New("a request or connection did not end in time")
)

// Patience of a proxy that drains.
const (
	// idleGrace is how long an idle connection of the application may still send a request.
	idleGrace = 500 * time.Millisecond
	// idleGraceReplaced is that where a successor has the ports, and nobody waits for the end.
	idleGraceReplaced = 5 * time.Second
	// drainTime is how long requests and connections may take to end, unless Config says otherwise.
	drainTime = 30 * time.Second
	// settleTime is how long a successor may take to be ready; the old process waits a little longer.
	settleTime = handover.SettleTime - 5*time.Second
)

// life is where a proxy stands.
type life struct {
	replaces bool
	// accepting is set while Run accepts and does not drain.
	accepting atomic.Bool
	draining  atomic.Bool
	// leave ends it the gentle way, with the cause: errDrain or ErrReplaced, each once.
	leave chan error
	drain sync.Once
	// drained is closed when all has ended that was in progress.
	drained chan struct{}
}

func newLife(replaces bool) *life {
	return &life{replaces: replaces, leave: make(chan error, 2), drained: make(chan struct{})}
}

// Drain asks the proxy to become unready, accept no more and end what is in progress. It returns
// at once; Drained tells when it is done. The process goes on, its admin port too, until Run's
// context ends.
func (a *Agent) Drain() {
	a.life.drain.Do(func() { a.life.leave <- errDrain })
}

// Drained is closed when the proxy has drained.
func (a *Agent) Drained() <-chan struct{} { return a.life.drained }

// Ready reports whether requests are served: see Unready.
func (a *Agent) Ready() bool { return a.Unready() == nil }

// Unready says why requests are not served, or nil: it takes a complete configuration, a
// certificate that is in force, and ports that are open and to stay so.
func (a *Agent) Unready() error {
	switch {
	case a.life.draining.Load():
		return errors.New("the proxy is draining")
	case !a.life.accepting.Load():
		return errors.New("the proxy does not accept yet")
	}
	return a.unable()
}

// unable is what a proxy lacks to serve.
func (a *Agent) unable() error {
	svid := a.source.Current().SVID
	switch {
	case svid == nil:
		return errors.New("no certificate yet")
	case !a.clock.Now().Before(svid.Leaf.NotAfter):
		return fmt.Errorf("the certificate ended at %s", svid.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case !a.store.state.Load().Ready:
		return errors.New("no complete configuration has arrived yet")
	}
	return nil
}

// parts are the goroutines of Run.
type parts struct {
	agent *Agent
	// stop ends all, with a cause.
	stop context.CancelCauseFunc
	// serving accept and answer, until accept ends; leaning is what they lean on, until base does. Names
	// and the admin port are among it: until shown ends.
	serving, leaning    sync.WaitGroup
	accept, shown, base context.Context
}

func (p *parts) run(of *sync.WaitGroup, until context.Context, name string, f func(context.Context) error) {
	of.Go(func() {
		if err := f(until); err != nil && until.Err() == nil {
			p.stop(fmt.Errorf("proxy %s: %s: %w", p.agent.cfg.ID, name, err))
		}
	})
}

func (p *parts) serve(name string, f func(context.Context) error) {
	p.run(&p.serving, p.accept, name, f)
}
func (p *parts) lean(name string, f func(context.Context) error) { p.run(&p.leaning, p.base, name, f) }

// Run serves until ctx ends, and returns when every request has ended, or DrainTime after. The
// first part that fails ends the others.
//
// The end goes from the outside in: nothing new is accepted, requests in progress end, and
// only then end the connections, the discovery and the snapshot that they lean on.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hard, cut := context.WithCancelCause(context.Background())
	defer cut(nil)
	base, end := context.WithCancel(context.Background())
	defer end()
	accept, shut := context.WithCancel(context.Background())
	defer shut()
	shown, hide := context.WithCancel(base)
	defer hide()
	renewer, err := trust.NewRenewer(trust.RenewerConfig{Source: a.source, Signer: a.up, Clock: a.clock, Random: rand.Float64, Log: a.log,
		Identity: a.cfg.Identity()})
	if err != nil {
		return err
	}
	taken, listeners, offer, err := a.openPorts(ctx)
	if err != nil {
		return err
	}
	a.front = &front{cfg: &a.cfg, proxy: a.proxy, log: a.log, panicked: a.seen.panicked, ports: &a.ports, ctx: accept, hard: hard,
		opened: map[netip.AddrPort]*listener{}, failed: map[netip.AddrPort]string{}}
	a.front.doors(a.clock.Now)
	a.front.http = &downstream.Server{HTTP1: a.frontHTTP1(), HTTP2: a.frontHTTP2(), Refused: a.seen.refused, Log: a.log, Go: a.front.start}
	defer a.front.http.End(accept, hard, a.front.patience)()
	a.datagrams, a.outside = a.newDatagrams(a.front), a.newOutside(a.front)
	defer a.outside.http.End(accept, hard, a.front.patience)()
	defer context.AfterFunc(accept, a.apps.Drain)()
	p := &parts{agent: a, stop: stop, accept: accept, shown: shown, base: base}
	p.lean("certificates", renewer.Run)
	p.lean("discovery", a.discover)
	p.lean("snapshot", a.keeper.run)
	p.lean("access log", a.seen.lines.Run)
	p.lean("telemetry", a.report)
	p.lean("connections", a.dialer.Run)
	p.lean("health checks", a.health.Run)
	p.lean("probes", a.prober.Run)
	p.lean("gateways", a.followGateways)
	p.lean("load", a.reportLoad)
	p.lean("regions of clients", a.regions.Run)
	p.lean("open tunnels", a.judge)
	defer context.AfterFunc(hard, a.proxy.CutTunnels)() // closing their clients' connections wakes not all that wait
	p.lean("application connections", a.apps.Run)
	if err := a.begin(ctx, p, taken, listeners); err != nil {
		stop(err)
	} else if offer != nil {
		p.leaning.Go(func() { a.offer(base, offer) })
	}
	cause := a.await(ctx)
	a.front.grace.Store(int64(min(idleGrace, a.cfg.drainTime())))
	if errors.Is(cause, ErrReplaced) {
		a.front.grace.Store(int64(min(idleGraceReplaced, a.cfg.drainTime())))
		hide() // the successor answers people and probes
	}
	shut()
	patience := time.AfterFunc(a.cfg.drainTime(), func() { cut(errCutOff) })
	p.serving.Wait()
	a.front.conns.Wait()
	patience.Stop()
	close(a.life.drained)
	if errors.Is(cause, errDrain) {
		cause = a.rest(ctx)
	}
	end()
	p.leaning.Wait()
	a.proxy.Wait() // copies of requests: the connections they were on are gone
	closing, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	return errors.Join(cause, a.apps.Close(closing))
}

// openPorts takes the ports of the process before, if this one replaces one, and opens all that are to
// be served; or none.
func (a *Agent) openPorts(ctx context.Context) (taken *handover.Taken, listeners []bound, offer net.Listener, err error) {
	if a.life.replaces {
		if taken, err = handover.Take(ctx, a.cfg.Handover, a.handoverID(), &a.ports); err != nil {
			return nil, nil, nil, fmt.Errorf("proxy %s: %w", a.cfg.ID, err)
		}
	}
	listeners, err = a.listen(ctx)
	if err == nil && a.cfg.Handover != "" {
		if offer, err = a.offering().Open(ctx, a.cfg.Handover); err != nil {
			err = fmt.Errorf("proxy %s: %w", a.cfg.ID, err)
		}
	}
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		if taken != nil {
			taken.Close()
		}
		a.ports.Drop()
		return nil, nil, nil, err
	}
	return taken, listeners, offer, nil
}

// begin starts to accept: at once, or as a successor when this process is able to serve, which
// then has the ports to itself.
func (a *Agent) begin(ctx context.Context, p *parts, taken *handover.Taken, listeners []bound) error {
	if taken != nil {
		if err := a.settle(ctx); err != nil {
			taken.Close()
			a.ports.Drop()
			for _, l := range listeners {
				l.Close()
			}
			return err
		}
		a.front.follow(a.store.state.Load())
		a.datagrams.follow(a.store.state.Load())
		a.outside.follow(a.store.state.Load())
	}
	for _, l := range listeners {
		if l.name == "admin" || l.name == "dns" {
			p.run(&p.leaning, p.shown, l.name, l.serve)
			continue
		}
		p.serve(l.name, l.serve)
	}
	a.life.accepting.Store(true)
	var err error
	if taken != nil {
		err = taken.Serving()
		a.ports.Drop()
	}
	// Last: it tries again what the process before still held.
	p.serve("service addresses", a.follow)
	return err
}

// settle waits until this process is able to serve.
func (a *Agent) settle(ctx context.Context) error {
	late := time.NewTimer(settleTime)
	defer late.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		why := a.unable()
		if why == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return fmt.Errorf("proxy %s: take over: not ready within %s, and the process before goes on: %w", a.cfg.ID, settleTime, why)
		}
	}
}

func (a *Agent) handoverID() string { return string(a.cfg.Cluster) + "/" + a.cfg.Mode + "/" + a.cfg.ID }

func (a *Agent) offering() *handover.Offer {
	return &handover.Offer{Ports: &a.ports, ID: a.handoverID(), Log: a.log, Prepare: a.keeper.Write,
		Yield: func() {
			a.keeper.freeze() // the file is the successor's
			a.life.draining.Store(true)
			a.life.leave <- ErrReplaced
		}}
}

// offer answers successors until one has taken over.
func (a *Agent) offer(ctx context.Context, ln net.Listener) {
	if err := a.offering().Serve(ctx, ln); err != nil && ctx.Err() == nil {
		a.log.Error("this proxy cannot be replaced without a gap", "error", err)
	}
}

// await returns when the proxy is to drain, and why. It is unready from then on; before it returns
// it serves for DrainDelay, in which those who choose endpoints by readiness learn of it.
func (a *Agent) await(ctx context.Context) error {
	var cause error
	select {
	case cause = <-a.life.leave:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	a.life.draining.Store(true)
	a.life.accepting.Store(false)
	a.gate.Leave()
	a.log.Info("draining", "cause", cause, "delay", a.cfg.DrainDelay, "time", a.cfg.drainTime())
	if asked := errors.Is(cause, errDrain) || errors.Is(cause, context.Canceled); !asked || a.cfg.DrainDelay <= 0 {
		return cause
	}
	delay := time.NewTimer(a.cfg.DrainDelay)
	defer delay.Stop()
	select {
	case cause = <-a.life.leave: // replaced meanwhile
	case <-delay.C:
	}
	return cause
}

// followGateways tells the dialer which gateways there are, so that it moves what passes through one that is
// leaving.
func (a *Agent) followGateways(ctx context.Context) error {
	for {
		a.store.mu.Lock()
		changed, clusters := a.store.changed, a.store.state.Load().Clusters
		a.store.mu.Unlock()
		for _, c := range clusters {
			a.dialer.SetGateways(c.TrustDomain, c.Gateways)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// judge holds what lasts against each new state.
func (a *Agent) judge(ctx context.Context) error {
	for {
		changed := a.store.change()
		a.proxy.Judge()
		a.passing.judge(a.store.state.Load())
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rest keeps a proxy that has drained until it is told to end.
func (a *Agent) rest(ctx context.Context) error {
	for {
		select {
		case cause := <-a.life.leave:
			if errors.Is(cause, ErrReplaced) {
				return cause
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow keeps the service listeners in step with the names.
func (a *Agent) follow(ctx context.Context) error {
	defer a.front.close()
	defer a.outside.close()
	for {
		a.store.mu.Lock()
		changed := a.store.changed
		a.store.mu.Unlock()
		state := a.store.state.Load()
		a.front.follow(state)
		a.datagrams.follow(state)
		a.outside.follow(state)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bound is an open port and what serves it, which closes it.
type bound struct {
	io.Closer
	name  string
	serve func(context.Context) error
}

// listen opens all ports or none.
func (a *Agent) listen(ctx context.Context) ([]bound, error) {
	var out []bound
	var failed error
	open := func(name string, at netip.AddrPort, serve func(context.Context, net.Listener) error) {
		if !at.IsValid() || failed != nil {
			return
		}
		ln, err := a.ports.Listen(ctx, socket.ListenConfig(), "tcp", at.String())
		if err != nil {
			failed = fmt.Errorf("proxy %s: listen for %s: %w", a.cfg.ID, name, err)
			return
		}
		out = append(out, bound{ln, name, func(ctx context.Context) error { return serve(ctx, ln) }})
	}
	names := dns.New(dns.Config{Resolve: a.resolve, Log: a.log})
	if a.cfg.Mode == ModeIngress {
		names = dns.New(dns.Config{Hosts: a.hosts, Log: a.log})
	}
	open("outbound", a.cfg.Outbound, a.serveOutbound)
	open("inbound", a.cfg.Inbound, a.server.Serve)
	open("captured", a.cfg.Captured, a.serveCaptured)
	open("gateway", a.cfg.Gateway, a.gate.Serve)
	open("admin", a.cfg.Admin, a.serveAdmin)
	open("dns", a.cfg.DNS, names.ServeTCP)
	if a.cfg.DNS.IsValid() && failed == nil {
		c, err := a.ports.ListenPacket(ctx, net.ListenConfig{}, "udp", a.cfg.DNS.String())
		if err != nil {
			failed = fmt.Errorf("proxy %s: listen for dns: %w", a.cfg.ID, err)
		} else {
			out = append(out, bound{c, "dns", func(ctx context.Context) error { return names.ServeUDP(ctx, c) }})
		}
	}
	if failed != nil {
		for _, o := range out {
			o.Close()
		}
		return nil, failed
	}
	return out, nil
}

// Package healthcheck asks the own application how it is: over HTTP, gRPC or by a connection,
// as the policy of each service that is served here wants it. Its one idea is that a check is one
// goroutine and one question an interval, and that what the answers come to is told to the request
// pipeline by one word (health.Sign), which it reads without waiting.
//
// It does not judge (core/health does), and asks nobody but the own application. Read Checks first.
package healthcheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/health"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// Config is what Checks work with. All fields are required.
type Config struct {
	// State is the configuration in force; what Changed returns is closed when there is another.
	State   func() *proxy.State
	Changed func() <-chan struct{}
	// Dial connects to a place of the own application (ir.InboundPort.Place).
	Dial  func(ctx context.Context, place string, p mesh.Protocol) (net.Conn, error)
	Clock clock.Clock
	// Chance is in [0, 1): it spreads the questions of many proxies.
	Chance func() float64
	Log    *slog.Logger
}

// Checks are those of one proxy: one for each service that is served here and whose policy has a
// health check. Run is called once; the other methods may be called at any time, by anybody.
type Checks struct {
	cfg Config

	mu     sync.Mutex
	checks map[mesh.ServiceName]*check
}

// New returns checks that ask nothing until they run.
func New(cfg Config) *Checks { return &Checks{cfg: cfg} }

// check asks one question.
type check struct {
	service  mesh.ServiceName
	question question
	sign     *health.Sign
	stop     context.CancelFunc
	ended    chan struct{}

	mu    sync.Mutex
	state health.State
	last  error // of the last answer
}

// Run follows the configuration until ctx ends, and returns when nobody asks any more.
func (h *Checks) Run(ctx context.Context) error {
	for {
		changed := h.cfg.Changed()
		h.follow(ctx, h.cfg.State())
		select {
		case <-changed:
		case <-ctx.Done():
			h.follow(ctx, &proxy.State{})
			return ctx.Err()
		}
	}
}

// follow starts, ends and replaces checks until they are those of the state.
func (h *Checks) follow(ctx context.Context, state *proxy.State) {
	h.mu.Lock()
	checks := maps.Clone(h.checks) // it is read by others, and written here only
	h.mu.Unlock()
	if checks == nil {
		checks = map[mesh.ServiceName]*check{}
	}
	for n, c := range checks {
		if in := state.Inbound[n]; in == nil || in.Health != c.sign {
			c.end()
			delete(checks, n)
		}
	}
	for n, in := range state.Inbound {
		q, asks := questionOf(in, portsOf(state, n))
		old := checks[n]
		if old != nil && asks && old.question.equal(&q) {
			continue
		}
		next := &check{service: n, question: q, sign: in.Health, ended: make(chan struct{})}
		if old != nil {
			old.end()
			next.state, next.last = old.state.Renewed(), old.last
			delete(checks, n)
		}
		if !asks {
			in.Health.Admit()
			continue
		}
		var asking context.Context
		asking, next.stop = context.WithCancel(ctx)
		checks[n] = next
		go func() {
			defer close(next.ended)
			h.ask(asking, next)
		}()
	}
	h.mu.Lock()
	h.checks = checks
	h.mu.Unlock()
}

// end returns when the check asks no more.
func (c *check) end() {
	c.stop()
	<-c.ended
}

// ask is the life of one check.
func (h *Checks) ask(ctx context.Context, c *check) {
	q := &c.question
	timer := h.cfg.Clock.NewTimer(health.First(q.Interval, h.cfg.Chance()))
	defer timer.Stop()
	for {
		select {
		case <-timer.C():
		case <-ctx.Done():
			return
		}
		began := h.cfg.Clock.Now()
		err := q.ask(ctx, h.cfg.Dial)
		if ctx.Err() != nil {
			return // nothing is known: we broke it off
		}
		now := h.cfg.Clock.Now()
		h.answered(c, err, now)
		timer.Reset(max(health.Next(q.Interval, h.cfg.Chance())-now.Sub(began), 0))
	}
}

// answered takes an answer in and tells the pipeline.
func (h *Checks) answered(c *check, err error, now time.Time) {
	c.mu.Lock()
	was := c.state.Unhealthy
	c.state = c.state.Answered(err == nil, health.Thresholds{Healthy: c.question.Healthy, Unhealthy: c.question.Unhealthy}, now)
	is := c.state.Unhealthy
	c.last = err
	c.mu.Unlock()
	switch {
	case is && err != nil:
		c.sign.Refuse(err.Error())
	case !is:
		c.sign.Admit()
	}
	switch {
	case is && !was:
		h.cfg.Log.Warn("the application is unhealthy; its requests are refused, and served elsewhere", "service", c.service.String(), "error", err)
	case was && !is:
		h.cfg.Log.Info("the application is healthy again", "service", c.service.String())
	}
}

// Finding is what a health check has found, for people.
type Finding struct {
	Service  string
	Question string
	// State is "healthy", "unhealthy", or "not asked yet", which counts as healthy.
	State string
	// Since is when State changed, and Asked when the last answer came.
	Since, Asked time.Time `json:",omitzero"`
	// LastError says what was wrong with the last answer; empty if nothing.
	LastError string `json:",omitempty"`
}

// Found lists what the checks found, by service.
func (h *Checks) Found() []Finding {
	h.mu.Lock()
	checks := h.checks
	h.mu.Unlock()
	var out []Finding
	for _, n := range slices.SortedFunc(maps.Keys(checks), mesh.ServiceName.Compare) {
		c := checks[n]
		c.mu.Lock()
		a := Finding{Service: n.String(), Question: c.question.String(), State: "healthy", Since: c.state.Since, Asked: c.state.Asked}
		if c.last != nil {
			a.LastError = c.last.Error()
		}
		switch {
		case c.state.Unhealthy:
			a.State = "unhealthy"
		case c.state.Asked.IsZero():
			a.State = "not asked yet"
		}
		c.mu.Unlock()
		out = append(out, a)
	}
	return out
}

// Expose says a gauge of each check.
func (h *Checks) Expose(w *exposition.Writer) {
	found := h.Found()
	if len(found) == 0 {
		return
	}
	w.Family("isthmus_application_healthy", exposition.Gauge, "1 while the application's health check lets requests through, else 0.")
	for _, a := range found {
		n, _ := mesh.ParseServiceName(a.Service)
		up := 1.0
		if a.State == "unhealthy" {
			up = 0
		}
		w.Value(up, exposition.Label{Name: "destination_service", Value: n.Name}, exposition.Label{Name: "destination_namespace", Value: n.Namespace})
	}
}

// question is a health check and where it is asked.
type question struct {
	mesh.HealthCheck
	target string // address:port
	place  string // ir.InboundPort.Place
	// http2 says that the port was declared to speak HTTP/2.
	http2 bool
}

// kinds are those that this version asks. Another, of a newer control plane's, takes no
// application out.
var kinds = []mesh.HealthKind{mesh.HealthHTTP, mesh.HealthGRPC, mesh.HealthTCP}

// portsOf are a served service's ports in their order.
func portsOf(state *proxy.State, n mesh.ServiceName) []ir.InboundPort {
	if state.Self != nil {
		for i := range state.Self.Inbound {
			if state.Self.Inbound[i].Service == n {
				return state.Self.Inbound[i].Ports
			}
		}
	}
	return nil
}

// questionOf is the question that a service's policy has; false if it has none, or if the
// service has no port that is answered here: UDP has no answer to ask for.
func questionOf(in *proxy.Inbound, ports []ir.InboundPort) (question, bool) {
	asked := in.Traffic.Health
	i := slices.IndexFunc(ports, func(p ir.InboundPort) bool { return p.Target.IsValid() && p.Protocol != mesh.ProtocolUDP })
	if asked == nil || i < 0 || !slices.Contains(kinds, asked.Kind) {
		return question{}, false
	}
	at := ports[i]
	if asked.Port != 0 {
		at = ir.InboundPort{Target: netip.AddrPortFrom(at.Target.Addr(), asked.Port)}
		if i := slices.IndexFunc(ports, func(p ir.InboundPort) bool { return p.Target.Port() == asked.Port }); i >= 0 {
			at = ports[i]
		}
	}
	q := question{HealthCheck: *asked, target: at.Target.String(), place: at.Place(), http2: asked.Kind == mesh.HealthGRPC || at.Protocol.IsHTTP2()}
	// The control plane fills these in; an interval of zero from another version must not become a storm.
	if q.Interval <= 0 {
		q.Interval = mesh.DefaultHealthInterval
	}
	if q.Timeout <= 0 {
		q.Timeout = min(mesh.DefaultHealthTimeout, q.Interval)
	}
	q.Healthy, q.Unhealthy = cmp.Or(q.Healthy, mesh.DefaultHealthy), cmp.Or(q.Unhealthy, mesh.DefaultUnhealthy)
	return q, true
}

func (q *question) equal(o *question) bool {
	return q.Kind == o.Kind && q.place == o.place && q.http2 == o.http2 && q.Path == o.Path && q.Host == o.Host && q.Service == o.Service &&
		q.Interval == o.Interval && q.Timeout == o.Timeout && q.Healthy == o.Healthy && q.Unhealthy == o.Unhealthy && slices.Equal(q.Statuses, o.Statuses)
}

// String is the question in words.
func (q *question) String() string {
	switch q.Kind {
	case mesh.HealthHTTP:
		return "GET " + cmp.Or(q.Path, "/") + " at " + q.target
	case mesh.HealthGRPC:
		return fmt.Sprintf("grpc.health.v1.Health/Check of %q at %s", q.Service, q.target)
	}
	return "a connection to " + q.target
}

// ask is nil if the application is well. It takes no longer than the check's timeout, and ends when
// ctx does.
func (q *question) ask(ctx context.Context, dial func(context.Context, string, mesh.Protocol) (net.Conn, error)) error {
	ctx, stop := context.WithTimeoutCause(ctx, q.Timeout, errNoAnswer)
	defer stop()
	err := q.put(ctx, dial)
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		err = fmt.Errorf("%w within %s", errNoAnswer, q.Timeout)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", q, err)
	}
	return nil
}

var errNoAnswer = errors.New("no answer")

package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/admin"
	"github.com/isthmus-mesh/isthmus/dataplane/fallback"
	"github.com/isthmus-mesh/isthmus/dataplane/healthcheck"
	"github.com/isthmus-mesh/isthmus/dataplane/intake"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// serveAdmin answers on the admin port: for people, probes and the control plane's
// console. It is bound to an address of the workload itself.
func (a *Agent) serveAdmin(ctx context.Context, ln net.Listener) error {
	title := "Proxy " + a.cfg.ID + " of cluster " + string(a.cfg.Cluster) + " (" + a.cfg.Mode + "), " + a.cfg.Identity().String()
	return admin.Serve(ctx, ln, title, a.pages())
}

// pages are what the admin port answers (docs/guides/proxy.md).
func (a *Agent) pages() []admin.Page {
	json := func(v func() any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { admin.JSON(w, v()) }
	}
	return []admin.Page{
		{Method: "GET", Path: "/ready", Says: "200 when requests are served, else 503 and why not", Serve: func(w http.ResponseWriter, _ *http.Request) {
			if why := a.Unready(); why != nil {
				http.Error(w, why.Error(), http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, "ready\n")
		}},
		{Method: "GET", Path: "/healthz", Says: "200 while the process works, whatever it lacks", Serve: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ok\n")
		}},
		{Method: "GET", Path: "/config", Says: "the resources in force, with their versions, the health of the own application, and what admission lets into it", Serve: json(func() any { return a.Dump() })},
		{Method: "GET", Path: "/endpoints", Says: "candidates of each service, and why each is kept or dropped", Serve: json(func() any { return a.endpoints() })},
		{Method: "GET", Path: "/connections", Says: "connections to other proxies", Serve: json(func() any { return a.dialer.Conns() })},
		{Method: "GET", Path: "/stats", Says: "counters of the process, as JSON", Serve: json(func() any { return a.stats() })},
		{Method: "GET", Path: "/metrics", Says: "metrics for Prometheus, as text, or with native histograms in protobuf where Accept asks for it", Serve: a.metrics},
		{Method: "GET", Path: "/log-level", Says: "the level of the log", Serve: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, a.level.Level().String()+"\n")
		}},
		{Method: "POST", Path: "/log-level", Says: "sets it: ?level=debug, info, warn or error", Serve: a.setLevel},
		{Method: "POST", Path: "/drain", Says: "become unready, accept no more, end what is in progress; ?wait=true answers when that is done", Serve: a.serveDrain},
	}
}

func (a *Agent) setLevel(w http.ResponseWriter, r *http.Request) {
	var l slog.Level
	text := r.URL.Query().Get("level")
	if err := l.UnmarshalText([]byte(text)); err != nil {
		http.Error(w, fmt.Sprintf("level=%q: want debug, info, warn or error", text), http.StatusBadRequest)
		return
	}
	old := a.level.Level()
	a.level.Set(l)
	a.log.Warn("the log's level was set", "from", old.String(), "to", l.String())
	_, _ = io.WriteString(w, l.String()+"\n")
}

func (a *Agent) serveDrain(w http.ResponseWriter, r *http.Request) {
	a.Drain()
	if wait := r.URL.Query().Get("wait"); wait == "" || wait == "false" {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "draining\n")
		return
	}
	select {
	case <-a.Drained():
		_, _ = io.WriteString(w, "drained\n")
	case <-r.Context().Done(): // he asks no more; the proxy drains on
	}
}

// Stats are counters of the process, for people and scripts.
type Stats struct {
	Version    string
	Uptime     string
	State      string // "ready", or why not
	Goroutines int
	HeapBytes  uint64
	Services   int
	Series     int
	Upstream   []tunnel.ConnInfo
	Gateway    tunnel.Stats
	Server     tunnel.ServerStats
}

func (a *Agent) stats() Stats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := Stats{Version: a.version, Uptime: a.clock.Now().Sub(a.born).Round(time.Second).String(), State: "ready", Goroutines: runtime.NumGoroutine(),
		HeapBytes: m.HeapAlloc, Services: len(a.store.state.Load().Services), Series: a.seen.metrics.Series(), Upstream: a.dialer.Conns(), Gateway: a.gate.Stats(), Server: a.server.Stats()}
	if why := a.Unready(); why != nil {
		s.State = why.Error()
	}
	return s
}

// Dump is what the proxy runs, for people.
type Dump struct {
	ID        string
	Identity  string
	Ready     bool
	Connected bool
	Vector    string
	NotAfter  time.Time
	// Health is what health checks found of the own application.
	Health []healthcheck.Finding `json:",omitempty"`
	// Admission is what the ways into the own application learnt, and what they let in just now.
	Admission []intake.State `json:",omitempty"`
	Resources []DumpResource
}

// DumpResource is one resource in force.
type DumpResource struct{ Type, Name, Version string }

// Dump reads the configuration in force.
func (a *Agent) Dump() Dump {
	s := a.store.state.Load()
	d := Dump{ID: a.cfg.ID, Identity: a.cfg.Identity().String(), Ready: a.Ready(), Connected: a.client.Connected(), Vector: s.Vector.String(), Health: a.health.Found(), Admission: intake.States(a.gates())}
	if svid := a.source.Current().SVID; svid != nil {
		d.NotAfter = svid.Leaf.NotAfter
	}
	for _, r := range a.store.snapshot().Resources {
		d.Resources = append(d.Resources, DumpResource{r.Type, r.Name, r.Version})
	}
	return d
}

// endpoints explains, for each service, where a request would go now and why.
func (a *Agent) endpoints() map[string][]balance.Candidate {
	out := map[string][]balance.Candidate{}
	s := a.store.state.Load()
	names := make([]mesh.ServiceName, 0, len(s.Services))
	for n := range s.Services {
		names = append(names, n)
	}
	slices.SortFunc(names, mesh.ServiceName.Compare)
	for _, n := range names {
		if v := s.Services[n].View; v != nil {
			out[n.String()] = v.Explain(&balance.Ask{Now: a.clock.Now().UnixNano(), Strategy: s.Services[n].Traffic.Strategy})
		}
	}
	return out
}

func (a *Agent) metrics(w http.ResponseWriter, r *http.Request) {
	format := exposition.Accepted(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", format.ContentType())
	w.Header().Set("Vary", "Accept")
	e := exposition.New(w, format)
	a.seen.metrics.Expose(e)
	a.seen.drops(e)
	a.keptOut(e)
	a.health.Expose(e)
	if svid := a.source.Current().SVID; svid != nil {
		e.Family("isthmus_certificate_expiry_timestamp_seconds", exposition.Gauge, "When the proxy's certificate ends, in seconds since 1970; it is renewed at 35 to 45 % of its life.")
		e.Value(float64(svid.Leaf.NotAfter.Unix()))
	}
	a.store.state.Load().Ingress.Expose(e)
	intake.Expose(e, a.gates())
	a.proxy.Said().Expose(e)
	plans := map[mesh.ServiceName]*fallback.Plan{}
	for n, s := range a.store.state.Load().Services {
		plans[n] = s.Fallback
	}
	fallback.Expose(e, plans)
	_, _ = e.Close() // a scraper that left needs no answer
}

// gates are the ways into the own application, by service; nil where everything is let in.
func (a *Agent) gates() map[mesh.ServiceName]*intake.Gate {
	out := map[mesh.ServiceName]*intake.Gate{}
	for n, in := range a.store.state.Load().Inbound {
		out[n] = in.Gate
	}
	return out
}

// keptOut shows what was not let in.
func (a *Agent) keptOut(e *exposition.Writer) {
	s := a.server.Stats()
	e.Family("isthmus_connections_refused_total", exposition.Counter, "Connections that were not let in: full is beyond the bounds of a listener or of what an address may waste, flooded is of a peer that has lately flooded.")
	for _, refused := range []struct {
		listener, why string
		n             int64
	}{
		{"mesh", "full", s.Refused}, {"mesh", "flooded", s.TurnedAway}, {"gateway", "full", a.gate.KeptOut()},
		{"application", "full", a.front.own.Refused()}, {"captured", "full", a.front.strangers.Refused()}, {"ingress", "full", a.outside.door.Refused()},
	} {
		e.Value(float64(refused.n), exposition.Label{Name: "listener", Value: refused.listener}, exposition.Label{Name: "why", Value: refused.why})
	}
}

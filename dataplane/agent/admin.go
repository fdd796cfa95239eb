package agent

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// serveAdmin answers on the admin port: for people, probes and the control plane's
// console. It is bound to an address of the workload itself.
func (a *Agent) serveAdmin(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !a.Ready() {
			http.Error(w, "no complete configuration or no certificate yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Dump()) })
	mux.HandleFunc("GET /endpoints", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.endpoints()) })
	mux.HandleFunc("GET /connections", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.dialer.Conns()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = a.seen.metrics.WriteTo(w) // a scraper that left needs no answer
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return srv.Serve(ln)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

// Dump is what the proxy runs, for people.
type Dump struct {
	ID        string
	Identity  string
	Ready     bool
	Connected bool
	Vector    string
	NotAfter  time.Time
	Resources []DumpResource
}

// DumpResource is one resource in force.
type DumpResource struct{ Type, Name, Version string }

// Dump reads the configuration in force.
func (a *Agent) Dump() Dump {
	s := a.store.state.Load()
	d := Dump{ID: a.cfg.ID, Identity: a.cfg.Identity().String(), Ready: a.Ready(), Connected: a.client.Connected(), Vector: s.Vector.String()}
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

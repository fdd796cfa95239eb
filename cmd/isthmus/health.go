package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/isthmus-mesh/isthmus/api/authority"
	"github.com/isthmus-mesh/isthmus/api/capacities"
	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/dataplane/admin"
)

// serveHealth answers scrapers and probes on port 15014, who have no token: what is there can be read by everybody who reaches
// the address, and nothing can be changed. It answers before the store has been read. It returns when ctx ends.
func serveHealth(ctx context.Context, cfg plane.Config, p *plane.Plane) error {
	if !cfg.Metrics.IsValid() {
		return nil
	}
	ln, err := net.Listen("tcp", cfg.Metrics.String())
	if err != nil {
		return fmt.Errorf("listen for metrics and health: %w", err)
	}
	if err := admin.Serve(ctx, ln, "control plane of "+string(cfg.Cluster), healthPages(cfg, p)); ctx.Err() == nil {
		return fmt.Errorf("serve metrics and health: %w", err)
	}
	return nil
}

// beside runs side for as long as main runs. If side fails, main ends, with that as the cause. It returns what main does, when
// both have ended.
func beside(ctx context.Context, side, main func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := side(ctx); err != nil {
			stop(err)
		}
	}()
	err := main(ctx)
	stop(err)
	<-ended
	return err
}

func healthPages(cfg plane.Config, p *plane.Plane) []admin.Page {
	text := func(w http.ResponseWriter, kind, body string) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body) // who left needs no answer
	}
	return []admin.Page{
		{Method: "GET", Path: "/metrics", Says: "what there is to scrape, in Prometheus' text format", Serve: func(w http.ResponseWriter, _ *http.Request) {
			verdicts, _ := consistency.Judged(p.Verdicts(), time.Now())
			text(w, "text/plain; version=0.0.4; charset=utf-8", consistency.Metrics(cfg.Cluster, version, p.Proxies(), peers(p), verdicts)+moreMetrics(cfg, p))
		}},
		{Method: "GET", Path: "/healthz", Says: "200 while the process lives: for a probe that restarts it", Serve: func(w http.ResponseWriter, _ *http.Request) {
			text(w, "text/plain; charset=utf-8", "ok\n")
		}},
		{Method: "GET", Path: "/ready", Says: "200 once the store has been read and proxies are answered, else 503 and why", Serve: func(w http.ResponseWriter, _ *http.Request) {
			if err := p.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			text(w, "text/plain; charset=utf-8", "ready\n")
		}},
	}
}

// moreMetrics are those beside consistency.Metrics, of the API and of port 15014 alike.
func moreMetrics(cfg plane.Config, p *plane.Plane) string {
	return consistency.Process{Cluster: cfg.Cluster, Ready: p.Ready() == nil, Facts: p.World().Len(), Discovery: p.Discovery(), Roots: p.Bundle().Roots}.Text() +
		drains.Metrics(cfg.Cluster, p.Drains()) + returns.Metrics(cfg.Cluster, p.Load()) + capacities.Metrics(cfg.Cluster, p.Load()) + authority.Metrics(cfg.Cluster, p.Authority())
}

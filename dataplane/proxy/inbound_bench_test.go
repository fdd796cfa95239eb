package proxy_test

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// BenchmarkInbound is a request of a client proxy through the pipeline to an application in memory.
func BenchmarkInbound(b *testing.B) {
	w := serving(b)
	cfg := w.cfg
	cfg.Done = func(*proxy.Record) {}
	s := answer(200, "ok")
	var app message.Stream = bare{s}
	cfg.App = func(string, mesh.Protocol) (message.Stream, error) { s.read = 0; return app, nil }
	p := proxy.New(cfg)
	ex := &quiet{exchange: asked("/a/b").with("accept", "*/*").with("user-agent", "curl").with("x-request-id", "5e0c0f0e5e0c0f0e")}
	b.ReportAllocs()
	for b.Loop() {
		p.Inbound(ex, peer)
	}
}

package proxy

import (
	"sync"

	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A mirrored request is sent twice: to its service, and as a copy to another one whose answer
// nobody hears (Gateway API HTTPRequestMirrorFilter). The copy is a request of its own, with its own
// record; the first neither waits for it nor learns how it went.

const (
	// mirrorsMax bounds the copies under way; beyond it requests go without.
	mirrorsMax = 64
	// mirrorBody is the largest body that is copied, in bytes; a request with a larger one goes
	// without.
	mirrorBody = mesh.MaxReplayBody
)

// mirrors are the copies under way.
type mirrors struct {
	stages []stage // copying, which refers to itself
	gauge  limit.Gauge
	all    sync.WaitGroup
}

// copied is the side of a copied request on which a client would be.
type copied struct {
	message.Unheard
	to   mesh.ServiceName
	port uint16
}

// copying is the stages of a copy.
var copying = [...]stage{
	// It is a span beside that of the request it copies.
	{"continue the trace", (*request).trace},
	// What the pipeline wrote for the first request is not for this one.
	{"strip and complete the head", (*request).complete},
	{"find where the copy goes", (*request).copyTo},
	{"hold the service's limits", (*request).breakCircuit},
	{"forward", (*request).forward},
}

// mirror draws whether the request is copied, and sends off the copies whose body is known; of
// one that streams the upload keeps what passes.
func (r *request) mirror() {
	if r.rec.Mirror || r.rec.Fallback != "" || r.tunnels() || r.matched == nil {
		return
	}
	r.mirrorBy(r.matched.Filters)
	if r.backend != nil {
		r.mirrorBy(r.backend.Filters)
	}
	if len(r.copies) > 0 && !r.body.stream {
		r.sendCopies(r.body.small)
	}
}

func (r *request) mirrorBy(filters []mesh.RouteFilter) {
	for i := range filters {
		f := &filters[i]
		if f.Kind == mesh.FilterMirror && f.Backend != nil && below(r.proxy.cfg.Rand(), f.MirrorPerMille*(wholeMilliPercent/1000)) {
			r.copies = append(r.copies, f.Backend)
		}
	}
}

// keep adds what was uploaded to the body of the copies, up to its bound.
func (r *request) keep(p []byte) {
	switch {
	case len(r.copies) == 0:
	case len(r.kept)+len(p) > mirrorBody:
		for _, b := range r.copies {
			r.without(b, mesh.ReasonBodyTooLarge, "a body of this size is not copied")
		}
		r.copies, r.kept = r.copies[:0], nil
	default:
		r.kept = append(r.kept, p...)
	}
}

// sendCopies starts the copies. Their goroutines end with their requests, which a deadline
// bounds; Wait waits for them.
func (r *request) sendCopies(body []byte) {
	p := r.proxy
	for _, b := range r.copies {
		if !p.mirrors.gauge.Enter(mirrorsMax) {
			r.without(b, mesh.ReasonOverloaded, "as many requests are being copied as may be")
			continue
		}
		c := &copied{message.Unheard{Body: append([]byte(nil), body...)}, b.Service, b.Port}
		c.Head.CopyFrom(&r.head)
		c.Head.Length, c.Head.Expect100 = int64(len(body)), false
		if c.port == 0 {
			c.port = r.rec.Port
		}
		p.mirrors.all.Go(func() {
			defer p.mirrors.gauge.Leave()
			q := p.begin(c)
			q.rec.Mirror = true
			q.run(p.mirrors.stages)
		})
	}
	r.copies = r.copies[:0]
}

// without records a copy that was not made.
func (r *request) without(b *mesh.RouteBackend, why mesh.Reason, detail string) {
	now := r.proxy.cfg.Now()
	r.proxy.cfg.Done(&Record{Start: now, Mirror: true, Method: r.rec.Method, Host: r.rec.Host, Path: r.rec.Path, RequestID: r.rec.RequestID,
		Service: b.Service, Backend: b.Service, Port: b.Port, Route: r.rec.Route, Reason: why, Detail: detail})
}

// copyTo finds the service that the copy is for.
func (r *request) copyTo() *refusal {
	c := r.ex.(*copied)
	r.rec.Service, r.rec.Backend, r.rec.Port = c.to, c.to, c.port
	s, ref := r.find(c.to)
	if ref != nil {
		return ref
	}
	r.service, r.target, r.port = s, s, c.port
	return nil
}

// Wait returns when no copy of a request is under way. Copies end within their timeouts, at once
// when Open fails.
func (p *Proxy) Wait() { p.mirrors.all.Wait() }

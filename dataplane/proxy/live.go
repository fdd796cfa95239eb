package proxy

import (
	"sync"

	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// lives are the tunnels that carry bytes. A request ends under the configuration that it began with; a tunnel
// may last for days, and what denies it now ends it now.
type lives struct {
	mu  sync.Mutex
	all map[*request]struct{}
	// over is why there are to be none any more; nil while there may.
	over *verdict
}

// verdict is why a tunnel may not go on.
type verdict struct {
	refusal
	policy string
}

func (v *verdict) Error() string { return v.detail }

// Judge holds the open tunnels against the state in force, and cuts those that it would not let in: a service's
// rules deny their caller, or the mesh lets nothing out any more. One whose service is not served here any more, or
// whose rules have not arrived, goes on: that is no word against it. It costs a decision a tunnel whose rules changed.
func (p *Proxy) Judge() {
	s := p.cfg.State()
	p.lives.mu.Lock()
	defer p.lives.mu.Unlock()
	for r := range p.lives.all {
		r.judge(s)
	}
}

// CutTunnels ends the tunnels that are open, and those that would be.
func (p *Proxy) CutTunnels() {
	v := &verdict{refusal: *refuse(mesh.ReasonDraining, "the proxy is leaving, and the tunnel has not ended in time")}
	p.lives.mu.Lock()
	defer p.lives.mu.Unlock()
	p.lives.over = v
	for r := range p.lives.all {
		r.expel(v)
	}
}

// live adds a tunnel. What has changed since it was let in is looked at once more, as Judge has not seen it.
func (r *request) live() {
	l := &r.proxy.lives
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*request]struct{}{}
	}
	l.all[r] = struct{}{}
	if l.over != nil {
		r.expel(l.over)
		return
	}
	r.judge(r.proxy.cfg.State())
}

// dead takes it out; nobody looks at it afterwards.
func (r *request) dead() {
	l := &r.proxy.lives
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, r)
}

// judge is called under lives.mu, and reads of r only what is settled when a tunnel opens.
func (r *request) judge(s *State) {
	switch {
	case r.leaves:
		if s.Self == nil || !s.Self.OutboundAllowAny {
			r.expel(&verdict{refusal: *refuse(mesh.ReasonOutsideMesh, "the mesh lets nothing out any more")})
		}
	case r.at.IsValid():
		r.judgeClaims(s)
	case r.in != nil:
		in := s.Inbound[r.in.Service]
		if in == nil || in.Access == nil || in.Access == r.judgedBy {
			return
		}
		r.judgedBy = in.Access
		if object, ref := in.Access.admits(&r.asks, r.carriesBytes()); ref != nil {
			r.expel(&verdict{*ref, object})
		}
	}
}

// admits decides about a request, or about a connection of bytes. It names the policy that decided.
func (a *Access) admits(ask *policy.Request, bytes bool) (object string, ref *refusal) {
	d := a.Admit(*ask, bytes)
	if !d.Allowed {
		return d.Object, refuse(d.Reason, d.Why)
	}
	return d.Object, nil
}

// expel cuts a tunnel, whatever its directions wait for.
func (r *request) expel(v *verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutLocked(v)
	if r.pair == nil {
		r.ex.SetDeadline(past())
	}
}

// broke is why a tunnel was cut short from outside.
func (r *request) broke(gone error) *refusal {
	if v, ok := gone.(*verdict); ok {
		if v.policy != "" {
			r.rec.Policy = v.policy
		}
		return &v.refusal
	}
	return refuse(mesh.ReasonClientGone, "the tunnel broke: "+gone.Error())
}

package sim

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// certLife is the model's certificate life: renewal at 40 % leaves 60 % for a CA to
// be down.
const certLife = 4 * time.Minute

// proxy is a model of a proxy: it follows one replica of its cluster, shows what it
// knows, and keeps its last good configuration in a sealed snapshot.
type proxy struct {
	m        *simMesh
	cluster  mesh.ClusterName
	id       int
	up       bool
	life     int
	at       *node // the replica that it follows
	waiting  time.Time
	config   *config
	snapshot *config // on disk, sealed
}

// knowledge is what the state at a proxy knows of each owner: the revision vector,
// with what is held over.
type knowledge map[mesh.ClusterName]replica.Knowledge

// config is what a proxy runs.
type config struct {
	known   knowledge
	parts   map[mesh.ClusterName]*replica.Partition
	expires time.Time // of the certificate
	issued  time.Time
}

func (p *proxy) boot() {
	p.up = true
	p.life++
	p.at = nil
	p.config = p.snapshot
	if p.m.cfg.Without == NoSnapshot {
		p.config = nil
	}
	life := p.life
	p.m.clock.after(p.m.watchLag(), func() { p.tick(life) })
}

// serving reports whether requests would be served now.
func (p *proxy) serving() bool {
	return p.up && p.config != nil && p.m.clock.now.Before(p.config.expires)
}

func (p *proxy) tick(life int) {
	if !p.up || p.life != life {
		return
	}
	p.m.clock.after(150*time.Millisecond+p.m.watchLag(), func() { p.tick(life) })
	if p.at == nil || !p.at.up {
		p.move()
	}
	if p.at == nil {
		return
	}
	var shown knowledge
	if p.config != nil {
		shown = p.config.known
	}
	if !p.at.covers(shown) {
		if p.m.clock.now.Sub(p.waiting) > 3*time.Second {
			p.move()
		}
		return
	}
	p.waiting = p.m.clock.now
	p.update()
}

// update takes what the replica has.
func (p *proxy) update() {
	next := &config{known: p.at.knowledge(), parts: p.at.world()}
	now := p.m.clock.now
	caUp := !p.m.caDown[p.cluster]
	switch {
	case p.config != nil:
		next.issued, next.expires = p.config.issued, p.config.expires
		if caUp && now.Sub(p.config.issued) >= certLife*4/10 {
			next.issued, next.expires = now, now.Add(certLife)
		}
	case caUp:
		next.issued, next.expires = now, now.Add(certLife)
	default:
		return // nothing to serve with: first contact needs the CA
	}
	p.m.oracle.proxyUpdate(p, p.config, next)
	p.config, p.snapshot = next, next
}

// move goes to another replica of the cluster.
func (p *proxy) move() {
	var to []*node
	for _, n := range p.m.nodes {
		if n.up && n.cluster == p.cluster && n != p.at {
			to = append(to, n)
		}
	}
	if len(to) > 0 {
		p.at = to[p.m.rng.IntN(len(to))]
		p.m.count("proxy-moved")
	}
	p.waiting = p.m.clock.now
}

package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/catalog"
	"github.com/isthmus-mesh/isthmus/sim/defence"
)

// certLife is the model's certificate life: renewal at 40 % leaves 60 % for a CA to
// be down.
const certLife = 4 * time.Minute

// proxy is a model of a proxy: it follows one replica of its cluster, shows what it
// knows, takes changes in messages, and keeps its last good configuration in a sealed snapshot.
type proxy struct {
	m       *simMesh
	cluster mesh.ClusterName
	id      int
	called  string
	// whole proxies hold everything, and what it was made of; the others a few services and what those refer to.
	whole    bool
	up       bool
	life     int
	at       *node // the replica that it follows
	waiting  time.Time
	asked    map[mesh.ServiceName]bool
	config   *config
	snapshot *config // on disk, sealed
}

// knowledge is what the state at a proxy knows of each owner: the revision vector,
// with what is held over.
type knowledge map[mesh.ClusterName]replica.Knowledge

// config is what a proxy runs.
type config struct {
	from    *published
	known   knowledge
	parts   []*replica.Partition // by owner, as simMesh.names has them
	entries []catalog.Entry      // by catalog; of what it did not ask for, none. It is immutable
	expires time.Time            // of the certificate
	issued  time.Time
}

func (p *proxy) boot() {
	p.up = true
	p.life++
	p.at = nil
	p.config = p.snapshot
	if p.m.cfg.Without == defence.NoSnapshot {
		p.config = nil
	}
	life := p.life
	p.m.clock.After(p.m.watchLag(), func() { p.tick(life) })
}

// name is for complaints.
func (p *proxy) name() string {
	if p.called == "" {
		p.called = fmt.Sprintf("proxy %s/%d", p.cluster, p.id)
	}
	return p.called
}

// serving reports whether requests would be served now.
func (p *proxy) serving() bool {
	return p.up && p.config != nil && (!p.whole || p.m.clock.Now.Before(p.config.expires))
}

func (p *proxy) tick(life int) {
	if !p.up || p.life != life {
		return
	}
	p.m.clock.After(p.m.between(p.m.shape.Ticks), func() { p.tick(life) })
	if p.at == nil || !p.at.up {
		p.move()
	}
	if p.at == nil || p.at.pub == nil {
		return
	}
	c := p.config
	if c != nil && c.from == p.at.pub && (!p.whole || p.m.clock.Now.Sub(c.issued) < certLife*4/10) {
		p.waiting = p.m.clock.Now
		return
	}
	follows := c == nil || c.from.of == p.at && c.from.life == p.at.life
	if !follows && !p.at.covers(c.known) {
		if p.m.clock.Now.Sub(p.waiting) > 3*time.Second {
			p.move()
		}
		return
	}
	p.waiting = p.m.clock.Now
	p.update()
}

// update takes what the replica has.
func (p *proxy) update() {
	pub := p.at.pub
	next := &config{from: pub, known: pub.known, parts: pub.parts}
	now := p.m.clock.Now
	caUp := !p.m.caDown[p.cluster]
	switch {
	case !p.whole:
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
	if !p.receive(next) {
		return
	}
	p.m.oracle.proxyUpdate(p, p.config, next)
	p.config, p.snapshot = next, next
}

// receive takes the difference message by message, each in force as it comes; false if the stream ended before the
// last. A message that came stays in force.
func (p *proxy) receive(next *config) bool {
	have := p.m.nothing[:len(p.m.catalogs[p.cluster].Resources)]
	if p.config != nil {
		have = p.config.entries
		if was := p.config.from.entries; len(was) > 0 && &was[0] == &next.from.entries[0] {
			next.entries = have // nothing differs from what it took before
			return true
		}
	}
	p.ask(next)
	batches := p.batches(have, next)
	if len(batches) == 0 {
		next.entries = have
		return true
	}
	entries := append(p.m.workspace[:0], have...)
	p.m.workspace = entries
	for _, batch := range batches {
		for _, i := range batch {
			entries[i] = next.from.entries[i]
		}
		p.m.oracle.references(p, entries)
		if p.m.faulty("discovery-stream-cut") {
			if c := p.config; c != nil {
				torn := *c
				torn.entries = slices.Clone(entries)
				torn.from = &published{of: c.from.of, life: c.from.life - 1} // it is not what anybody published
				p.config, p.snapshot = &torn, &torn
			}
			p.move()
			return false
		}
	}
	if next.entries = next.from.entries; !p.whole {
		next.entries = slices.Clone(entries)
	}
	return true
}

// batches are the differences in the order of the server: additions of what is referred to first, removals in the
// reverse order, a message for each type.
func (p *proxy) batches(from []catalog.Entry, next *config) [][]int {
	cat := p.m.catalogs[p.cluster]
	var ups, downs [][]int
	add := func(to [][]int, i int) [][]int {
		if n := len(to); n > 0 && cat.Resources[to[n-1][0]].Type == cat.Resources[i].Type {
			to[n-1] = append(to[n-1], i)
			return to
		}
		return append(to, []int{i})
	}
	for i, want := range next.from.entries {
		have := from[i]
		switch {
		case have.Version == want.Version || !p.wants(&cat.Resources[i]):
		case want.Value != nil:
			ups = add(ups, i)
		default:
			downs = add(downs, i)
		}
	}
	slices.Reverse(downs)
	all := append(ups, downs...)
	if p.m.cfg.Without == defence.NoOrder {
		p.m.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

// wants reports whether the proxy asked for a resource.
func (p *proxy) wants(r *catalog.Resource) bool {
	if p.whole {
		return true
	}
	switch r.Type {
	case ir.TypeName, ir.TypeCluster, ir.TypeBundle:
		return true
	case ir.TypeEndpoints, ir.TypeService, ir.TypeSplit:
		return p.asked[r.Service]
	}
	return false
}

// ask asks for what the services refer to that it holds, or is about to hold.
func (p *proxy) ask(next *config) {
	if p.whole {
		return
	}
	if p.asked == nil {
		p.asked = map[mesh.ServiceName]bool{}
		all := p.m.services
		for range 1 + p.m.rng.IntN(3) {
			p.asked[all[p.m.rng.IntN(len(all))]] = true
		}
	}
	cat := p.m.catalogs[p.cluster]
	for more := true; more; {
		more = false
		for _, s := range p.m.services {
			if !p.asked[s] {
				continue
			}
			for _, b := range p.m.backends(next.from.entries[cat.Services[s]].Value) {
				if !p.asked[b] {
					p.asked[b], more = true, true
				}
			}
		}
	}
}

// backends lists what a service's routes refer to and may use.
func (m *simMesh) backends(v any) []mesh.ServiceName {
	svc, ok := v.(*ir.Service)
	if !ok {
		return nil
	}
	if known, ok := m.refers[svc]; ok {
		return known
	}
	m.refers[svc] = catalog.Backends(svc)
	return m.refers[svc]
}

// move goes to another replica of the cluster, or to the only one again.
func (p *proxy) move() {
	was := p.at
	var to []*node
	for _, n := range p.m.of(p.cluster) {
		if n.up && n != p.at {
			to = append(to, n)
		}
	}
	if len(to) > 0 {
		p.at = to[p.m.rng.IntN(len(to))]
	}
	if p.at != was {
		p.m.count("proxy-moved")
	}
	p.waiting = p.m.clock.Now
}

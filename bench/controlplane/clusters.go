package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// far is the cluster that is told of what changes in clusterName.
const far = "us-east"

// Two clusters of one network: each is told the other's endpoints and not only that there are some. The link
// between them delays a message by half of linkRTT.
const (
	linkRTT    = 20 * time.Millisecond
	meshOfTwo  = "apiVersion: isthmus.dev/v1alpha1\nkind: LocalMesh\nclusters: [{name: eu-west, network: flat}, {name: us-east, network: flat}]\nlinks: [{between: [eu-west, us-east], rtt: 20ms}]\n"
	groupOfTwo = 20 // changes, whose CPU is counted together
	// meshApart is one of two clusters of which each is told of slots behind the other's gateways (part hop-apart).
	meshApart = "apiVersion: isthmus.dev/v1alpha1\nkind: LocalMesh\nclusters: [{name: eu-west}, {name: us-east}]\nlinks: [{between: [eu-west, us-east], rtt: 20ms}]\n"
)

// clusters measures an endpoint change as proxies of its own cluster (L2) and of another (X1) see it, and what the
// way between costs (X2). Beside another build, and as the part hop or hop-apart, it is only what the way costs.
func (b *bench) clusters(ctx context.Context) (err error) {
	proxies := b.size.proxies / 5
	b.Say("two clusters, a link of %v, %d proxies in each", linkRTT, proxies)
	two, err := b.startPair(ctx, b.bin, "two", b.base+6)
	if err != nil {
		return err
	}
	p, there := two.here, two.there
	defer p.m.Down(&err)
	pairs := []*pair{two}
	if b.baseline != "" {
		old, err2 := b.startPair(ctx, b.baseline, "two-baseline", b.base+9)
		if err2 != nil {
			return err2
		}
		defer old.here.m.Down(&err)
		pairs = append(pairs, old)
	}
	cpu, err := b.hop(ctx, pairs)
	if err != nil {
		return err
	}
	row := report.Row{Row: "X2-hop-cpu-ms", Unit: "ms", Title: "X2: CPU of an endpoint change that crosses to a cluster, both control planes, beyond that of one that does not"}.Of(cpu[0]).Within(1)
	if len(cpu) > 1 {
		row = row.Against("baseline", cpu[1])
	}
	b.Add(row)
	if len(pairs) > 1 || !slices.Contains(b.parts, "clusters") {
		return nil
	}
	if err := b.quietLink(ctx, p, there); err != nil {
		return err
	}
	near, err := connect(ctx, p.serve, proxies)
	if err != nil {
		return err
	}
	defer near.close()
	away, err := connect(ctx, there.serve, proxies)
	if err != nil {
		return err
	}
	defer away.close()
	if err := b.crossing(ctx, p, near, away); err != nil {
		return err
	}
	near.close() // before the fleets that report
	away.close()
	return b.splits(ctx, p, there)
}

// pair are two clusters of a mesh: what changes here is told there.
type pair struct{ here, there *plane }

// startPair starts them, with services of which some are told to no other cluster.
func (b *bench) startPair(ctx context.Context, bin, name string, base int) (*pair, error) {
	file := meshOfTwo
	if slices.Contains(b.parts, "hop-apart") {
		file = meshApart
	}
	p, err := startPlane(ctx, rig.Options{Bin: bin, Dir: b.dir, Name: name, Base: base, File: file}, b.size.services, b.size.endpoints)
	if err != nil {
		return nil, err
	}
	there := &plane{m: p.m, door: p.m.API(far), ends: b.size.endpoints, name: far}
	if err = p.export(ctx, b.size.services); err == nil {
		if err = there.enter(ctx, b.size.services); err == nil {
			err = p.apply(ctx, local(b.size.services, b.size.endpoints))
		}
	}
	if err != nil {
		p.m.Down(&err)
		return nil, err
	}
	return &pair{p, there}, nil
}

// crossing changes endpoints and tells when those here and those there have them.
func (b *bench) crossing(ctx context.Context, p *plane, near, away *fleet) error {
	var l2, x1, last []float64
	c := b.ours(ctx, p)
	for round := range 4 * b.size.rounds { // versions of which no address is that of hop's last
		i := round % b.size.services
		took, err := spread(c.types["endpoint"], name(i), func() error { return c.endpoint(i, 1100+round) }, near, away)
		if err != nil {
			return err
		}
		here, there := took[0], took[1]
		l2 = append(l2, report.Milliseconds(report.Quantile(here, 0.99)))
		x1 = append(x1, report.Milliseconds(report.Quantile(there, 0.5)-report.Quantile(here, 0.5)-linkRTT/2))
		last = append(last, report.Milliseconds(there[len(there)-1]))
		if err := rig.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	n := len(near.conns)
	b.Add(report.Row{Row: "L2-endpoint-p99-ms", Unit: "ms", Title: fmt.Sprintf("L2: an endpoint changes → %d proxies, p99", n)}.Of(l2).Within(20))
	b.Add(report.Row{Row: "X1-crossing-ms", Unit: "ms", Title: fmt.Sprintf("X1: an endpoint changes → %d proxies of another cluster, median, beyond that of its own cluster and the link's delay", n)}.Of(x1).Within(5))
	b.Add(report.Row{Row: "X1-last-ms", Unit: "ms", Title: fmt.Sprintf("X1: … the last, over a link of %v there and back", linkRTT)}.Of(last))
	return nil
}

// hop is what a change costs both control planes beyond what it costs where nobody else is told: services that are exported,
// and others that are not, in turn, without proxies. Pairs have their turns one after the other.
func (b *bench) hop(ctx context.Context, pairs []*pair) ([][]float64, error) {
	out := make([][]float64, len(pairs))
	for round := range b.size.rounds {
		for k, two := range pairs {
			crosses, err := two.spend(ctx, 0, 1+round)
			if err != nil {
				return nil, err
			}
			stays, err := two.spend(ctx, b.size.services, 1+round)
			if err != nil {
				return nil, err
			}
			out[k] = append(out[k], report.Milliseconds(crosses-stays)/groupOfTwo)
		}
	}
	return out, nil
}

// spend is the CPU of both for a group of changes, from a service on.
func (two *pair) spend(ctx context.Context, from, version int) (time.Duration, error) {
	before, err := rig.Spent(two.here.pid, two.there.pid)
	if err != nil {
		return 0, err
	}
	for k := range groupOfTwo {
		if err := two.here.apply(ctx, workloadYAML(from+k, 0, version)); err != nil {
			return 0, err
		}
		if err := rig.Pause(ctx, 2*linkRTT); err != nil { // each by itself
			return 0, err
		}
	}
	after, err := rig.Spent(two.here.pid, two.there.pid)
	return after - before, err
}

// local are services that are told to no other cluster.
func local(from, endpoints int) string {
	var text string
	for k := range groupOfTwo {
		text += serviceYAML(from+k) + "---\n"
		for e := range endpoints {
			text += workloadYAML(from+k, e, 0) + "---\n"
		}
	}
	return text
}

// export tells the other clusters of the services.
func (p *plane) export(ctx context.Context, services int) error {
	for from := 0; from < services; from += batch {
		var text string
		for i := from; i < min(services, from+batch); i++ {
			text += fmt.Sprintf("apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: svc-%d, namespace: bench}\n---\n", i)
		}
		if err := p.apply(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The load of S2: proxies use some services, or stand before endpoints of two. What a service is asked for goes up and down
// between a fifth and seventeen tenths of what this cluster can serve, each at its own time, so that its split moves all the time.
const (
	usesEach            = 10
	lanesEach           = 4
	servesIn            = 10 * time.Millisecond
	wave                = 20 * time.Second
	splitsWarm          = 10 * time.Second
	leastFull, mostFull = 0.2, 1.7
	farOct              = 50
)

// splits measures a control plane whose proxies report load that moves, of services that another cluster serves too.
func (b *bench) splits(ctx context.Context, p, there *plane) error {
	b.Say("load of %d proxies that moves, %d services in two clusters, for %v", b.size.proxies, b.size.services, b.size.steady)
	if err := there.serveToo(ctx, b.size.services); err != nil {
		return err
	}
	if err := there.export(ctx, b.size.services); err != nil {
		return err
	}
	l := &loads{services: b.size.services, proxies: b.size.proxies, endpoints: b.size.endpoints, began: time.Now()}
	here, err := connect(ctx, p.uses(l), b.size.proxies)
	if err != nil {
		return err
	}
	defer here.close()
	few := max(b.size.proxies/20, 1) // of the other cluster, each before many endpoints
	away, err := connect(ctx, there.quiet(), few)
	if err != nil {
		return err
	}
	defer away.close()
	here.report(l.here)
	away.report(func(i int, _ time.Duration) []split.Sample { return l.there(i, few) })
	if err := rig.Pause(ctx, splitsWarm); err != nil {
		return err
	}
	before, err := rig.Spent(p.pid)
	if err != nil {
		return err
	}
	octets, err := crossed(ctx, p, there)
	if err != nil {
		return err
	}
	told, began := here.splits.Load(), time.Now()
	if err := rig.Pause(ctx, b.size.steady); err != nil {
		return err
	}
	after, err := rig.Spent(p.pid)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	if err := b.crossedSince(ctx, octets, began, "P1-moving-kbs", fmt.Sprintf("load of %d services moves", b.size.services), p, there); err != nil {
		return err
	}
	rate := float64(here.splits.Load()-told) / took
	for _, f := range []*fleet{here, away} {
		if err := f.failed.Load(); err != nil {
			return *err
		}
	}
	if rate == 0 {
		return errors.New("no split has moved: nothing was measured")
	}
	b.Add(report.Row{Row: "S2-splits-cores", Unit: "cores",
		Title: fmt.Sprintf("S2: %d services with moving load, %d proxies that report it twice a second and are told %.0f splits a second", b.size.services, b.size.proxies, rate)}.
		Of([]float64{(after - before).Seconds() / took}).Within(0.5))
	return nil
}

// serveToo gives a cluster an endpoint of each service.
func (p *plane) serveToo(ctx context.Context, services int) error {
	docs := []string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n"}
	for i := range services {
		docs = append(docs, serviceYAML(i), strings.Replace(workloadYAML(i, farOct, 0), fmt.Sprintf("name: svc-%d-%d,", i, farOct), fmt.Sprintf("name: svc-%d-far,", i), 1))
	}
	return p.applyAll(ctx, docs)
}

// uses is a fleet of which each proxy asks for the services that it uses.
func (p *plane) uses(l *loads) server {
	s := p.serve
	s.interests = []interest{{typ: string(ir.TypeBundle)}, {typ: string(ir.TypeCluster)}, {typ: string(ir.TypeName), want: l.services},
		{typ: string(ir.TypeEndpoints), of: l.uses, want: usesEach}, {typ: string(ir.TypeService), of: l.uses, want: usesEach}, {typ: string(ir.TypeSplit), of: l.uses}}
	return s
}

// quiet is a fleet that follows little.
func (p *plane) quiet() server {
	s := p.serve
	s.node = func(i int) []byte { return p.nodeOf(i, 2) }
	s.interests = []interest{{typ: string(ir.TypeBundle)}, {typ: string(ir.TypeCluster), want: 1}}
	return s
}

// loads are who asks for what, and when.
type loads struct {
	services, proxies, endpoints int
	began                        time.Time
}

func (l *loads) used(i, k int) int { return (i*usesEach + k) % l.services }

func (l *loads) uses(i int) []string {
	out := make([]string, min(usesEach, l.services))
	for k := range out {
		out[k] = name(l.used(i, k))
	}
	return out
}

// asked is what one of a service's users asks for, in requests a second.
func (l *loads) asked(service int, t time.Duration) float64 {
	phase := 2 * math.Pi * (t.Seconds()/wave.Seconds() + float64(service)/float64(l.services))
	full := (leastFull+mostFull)/2 + (mostFull-leastFull)/2*math.Sin(phase)
	users := float64(l.proxies*usesEach) / float64(l.services)
	return full * l.serves() * float64(l.endpoints) / users
}

// serves is what an endpoint can, in requests a second.
func (l *loads) serves() float64 { return lanesEach / servesIn.Seconds() }

func serviceName(i int) mesh.ServiceName {
	return mesh.ServiceName{Namespace: "bench", Name: fmt.Sprintf("svc-%d", i)}
}

// here are the samples of a proxy: every other one stands before endpoints of two services, and those between ask for what two use. One that
// did both would call what it asks for on behalf of whom it answers, and all services would call each other in circles.
func (l *loads) here(i int, t time.Duration) (out []split.Sample) {
	if i%2 == 0 {
		for own := i; own <= i+1; own++ {
			out = append(out, split.Sample{Service: serviceName(own % l.services), Served: l.serves() / 2, Lanes: lanesEach, Time: servesIn, Wait: time.Millisecond})
		}
		return out
	}
	for by := i - 1; by <= i; by++ {
		for k := range min(usesEach, l.services) {
			s := l.used(by, k)
			out = append(out, split.Sample{Service: serviceName(s), Asked: l.asked(s, t), Wait: -1})
		}
	}
	return out
}

// there are those of one of few proxies that stand before all endpoints of the other cluster.
func (l *loads) there(i, few int) (out []split.Sample) {
	for s := i; s < l.services; s += few {
		out = append(out, split.Sample{Service: serviceName(s), Served: l.serves() / 10, Lanes: lanesEach, Time: servesIn, Wait: 0})
	}
	return out
}

// report has every proxy of the fleet report load, as often as proxies do, until the fleet is closed.
func (f *fleet) report(samples func(i int, t time.Duration) []split.Sample) {
	began := time.Now()
	for i, conn := range f.conns {
		f.run.Go(func() {
			first := time.Duration(i) * load.Every / time.Duration(len(f.conns)) // not all at once
			for rig.Pause(f.ctx, first) == nil {
				first = load.Every
				if err := f.reportOne(conn, i, samples(i, time.Since(began))); err != nil && f.ctx.Err() == nil {
					err = fmt.Errorf("the load report of proxy %d: %w", i, err)
					f.failed.CompareAndSwap(nil, &err)
					f.stop()
				}
			}
		})
	}
}

func (f *fleet) reportOne(conn *client, i int, samples []split.Sample) error {
	q, err := proto.Marshal(&wirepb.LoadRequest{Node: fmt.Sprintf("bench/proxy-%d", i), Samples: wire.FromSamples(samples)})
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(f.ctx, 10*time.Second)
	defer stop()
	return conn.call(ctx, wirepb.Load_Report_FullMethodName, q)
}

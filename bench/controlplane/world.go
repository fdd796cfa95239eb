package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// worldSize is a mesh as one of its clusters knows it, on one shared network, so that every
// endpoint of every cluster is known: clusters × services × endpoints.
type worldSize struct{ clusters, services, endpoints int }

// worldFigures are what the child that holds the world prints.
type worldFigures struct {
	ColdSeconds float64 // from nothing to every name, endpoints and routes published
	Published   int
	RSSMB       float64
	FlipsMS     []float64 // from the edit of one endpoint to its publication
}

// world measures the world's engine in a process of its own, so that its memory is its own.
func (b *bench) world(ctx context.Context) error {
	b.Say("a world of %d clusters, %d services and %d endpoints in one process", b.size.world.clusters, b.size.world.clusters*b.size.world.services,
		b.size.world.clusters*b.size.world.services*b.size.world.endpoints)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w := b.size.world
	var cold, rss, flips []float64
	for range b.size.turns {
		c := exec.CommandContext(ctx, self, "-be", "world", "-clusters", fmt.Sprint(w.clusters), "-services", fmt.Sprint(w.services), "-endpoints", fmt.Sprint(w.endpoints))
		c.Stderr = os.Stderr
		text, err := c.Output()
		if err != nil {
			return fmt.Errorf("the world's process: %w", err)
		}
		var f worldFigures
		if err := json.Unmarshal(text, &f); err != nil {
			return fmt.Errorf("the world's process: %w", err)
		}
		cold, rss, flips = append(cold, f.ColdSeconds), append(rss, f.RSSMB), append(flips, f.FlipsMS...)
	}
	of := fmt.Sprintf("W1: %d services, %d endpoints, %d clusters in one process", w.clusters*w.services, w.clusters*w.services*w.endpoints, w.clusters)
	b.Add(report.Row{Row: "W1-cold-s", Unit: "s", Title: of + ": compiled from nothing"}.Of(cold).Within(5))
	b.Add(report.Row{Row: "W1-rss-mb", Unit: "MB", Title: of + ": resident"}.Of(rss).Within(2000))
	b.Add(report.Row{Row: "W1-flip-ms", Unit: "ms", Title: of + ": an endpoint changes → its resource is published"}.Of(flips).Within(1))
	return nil
}

// flips is how many endpoints change, one after the other.
const flips = 200

// worldMain holds a world and prints its figures.
func worldMain(ctx context.Context, out io.Writer, size worldSize) error {
	published := make(chan []xds.Update, 1024)
	ctx, stop := context.WithCancel(ctx)
	l := loop.New(loop.Config{Self: member(0), Network: "flat", Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Publish: func(_ mesh.Vector, u []xds.Update) {
			select {
			case published <- u:
			case <-ctx.Done():
			}
		},
		Export: func(loop.Export) {}, SaveSlots: func(mesh.SlotTable) {}})
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() { stop(); <-ended }()
	scope, services := string(member(0)), size.clusters*size.services
	l.Watch(scope, string(ir.TypeCluster), "*")
	l.Watch(scope, string(ir.TypeName), "*")
	for i := range services {
		l.Watch(scope, string(ir.TypeEndpoints), size.service(i).String())
		l.Watch(scope, string(ir.TypeService), size.service(i).String())
	}
	edits := size.facts()
	var f worldFigures
	began := time.Now()
	go func() {
		for ; len(edits) > 0; edits = edits[min(1000, len(edits)):] { // as the store and peers bring them
			if l.Edit(ctx, edits[:min(1000, len(edits))], nil) != nil {
				return // ctx has ended
			}
		}
	}()
	var err error
	if f.Published, err = all(published, 3*services+size.clusters); err != nil {
		return err
	}
	f.ColdSeconds = time.Since(began).Seconds()
	for i := range flips {
		service := i * (services / flips)
		began := time.Now()
		if err := l.Edit(ctx, []world.Edit{size.endpointsOf(service, 1+i)}, nil); err != nil {
			return err
		}
		for told := false; !told; {
			u, err := next(published)
			if err != nil {
				return fmt.Errorf("a change of an endpoint of service %d: %w", service, err)
			}
			told = slices.ContainsFunc(u, func(u xds.Update) bool {
				return u.Type == string(ir.TypeEndpoints) && u.Name == size.service(service).String()
			})
		}
		f.FlipsMS = append(f.FlipsMS, report.Milliseconds(time.Since(began)))
	}
	kib, err := rig.KiB("status", "VmRSS", os.Getpid())
	if err != nil {
		return err
	}
	f.RSSMB = kib * 1024 / 1e6
	return json.NewEncoder(out).Encode(&f)
}

// all waits for so many resources: names, endpoints and routes of every service, and the clusters. Of what was
// published before all was known, each counts once.
func all(published <-chan []xds.Update, want int) (int, error) {
	known := map[string]bool{}
	for len(known) < want {
		u, err := next(published)
		if err != nil {
			return 0, fmt.Errorf("%d of %d resources were published: %w", len(known), want, err)
		}
		for i := range u {
			if u[i].Resource != nil {
				known[u[i].Type+u[i].Name] = true
			}
		}
	}
	return len(known), nil
}

// next is what is published next.
func next(published <-chan []xds.Update) ([]xds.Update, error) {
	select {
	case u := <-published:
		return u, nil
	case <-time.After(30 * time.Second):
		return nil, errors.New("nothing more was published for 30 s")
	}
}

func member(c int) mesh.ClusterName { return mesh.ClusterName(fmt.Sprint("c", c)) }

// facts are all of the world: the first cluster's services with their workloads, and what the others
// tell of theirs.
func (s worldSize) facts() []world.Edit {
	var out []world.Edit
	put := func(kind mesh.Kind, origin mesh.ClusterName, namespace, name string, v any) {
		out = append(out, world.Put(&mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Namespace: namespace, Name: name}, Value: v}))
	}
	for c := range s.clusters {
		n := member(c)
		put(mesh.KindCluster, member(0), "", string(n), &mesh.Cluster{Name: n, Region: mesh.Region(n), Network: "flat", TrustDomain: mesh.TrustDomain(string(n) + ".isthmus.local")})
	}
	for i := range s.clusters * s.services {
		name := s.service(i)
		if c := i / s.services; c == 0 {
			put(mesh.KindService, member(0), name.Namespace, name.Name, &mesh.Service{ServiceName: name, Selector: map[string]string{"app": name.Name},
				Ports: []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.ProtocolHTTP, TargetPort: 8080}}})
			for e := range s.endpoints {
				out = append(out, s.workload(i, e, e))
			}
			continue
		}
		out = append(out, s.remote(i, 0))
	}
	return out
}

func (s worldSize) service(i int) mesh.ServiceName {
	return mesh.ServiceName{Namespace: "bench", Name: fmt.Sprint("svc-", i)}
}

// endpointsOf moves an endpoint of a service to another address.
func (s worldSize) endpointsOf(i, version int) world.Edit {
	if i/s.services == 0 {
		return s.workload(i, 0, 100+version%100)
	}
	return s.remote(i, version)
}

func at(i, octet int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(octet)}), 15008)
}

func (s worldSize) workload(i, e, octet int) world.Edit {
	name := fmt.Sprintf("svc-%d-%d", i, e)
	return world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindWorkload, Origin: member(0), Namespace: "bench", Name: name},
		Value: &mesh.Workload{Namespace: "bench", Name: name, Labels: map[string]string{"app": s.service(i).Name}, ServiceAccount: "svc",
			Address: at(i, octet).Addr(), Proxy: at(i, octet), Zone: "a"}, Digest: [16]byte{byte(octet)}})
}

func (s worldSize) remote(i, version int) world.Edit {
	c := member(i / s.services)
	name := s.service(i)
	r := &mesh.RemoteService{ServiceName: name, Ports: []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.ProtocolHTTP}},
		Identities: []mesh.Identity{{TrustDomain: mesh.TrustDomain(string(c) + ".isthmus.local"), Namespace: "bench", ServiceAccount: "svc"}}}
	for e := range s.endpoints {
		octet := e
		if e == 0 && version > 0 {
			octet = 100 + version%100
		}
		r.Endpoints = append(r.Endpoints, mesh.RemoteEndpoint{Tag: fmt.Sprint(strings.TrimPrefix(string(c), "c"), "-", e), Proxy: at(i, octet), Zone: "a", Weight: 1})
	}
	return world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindRemoteService, Origin: c, Namespace: name.Namespace, Name: name.Name}, Value: r, Digest: [16]byte{byte(version)}})
}

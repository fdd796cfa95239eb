package compile_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/golden"
	"github.com/isthmus-mesh/isthmus/internal/story"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var update = flag.Bool("update", false, "write what the stories tell into their files")

// TestStories plays testdata/*.txtar: facts and edits of several clusters, and what their
// proxies are told after each. The sections of a story:
//
//	clusters            CLUSTER key=value…, a line each; every cluster is joined to every other.
//	                    Keys: network, jurisdiction (else the first part of the name in upper case),
//	                    rtt (from the others), accepts (an origin, or *), root (told at joining)
//	watch               CLUSTER RESOURCE NAME, a line each: what the story looks at; see resources
//	CLUSTER puts        manifests; the later of two sections has the later stamp
//	CLUSTER deletes     KIND NAMESPACE/NAME, a line each; KIND NAME where there is no namespace
//	CLUSTER observes    reach CLUSTER STATE [RTT [GATEWAY-THAT-LEAVES...] [stale=MILLIS] [via=CLUSTER]] | bundle TRUST-DOMAIN GENERATION ROOT |
//	                    address SERVICE ADDRESS SINCE
//	then …              a consequence: slot tables follow, clusters tell each other what they export
//	                    and replicate, and what changed of the watched is printed
//
// At each consequence the engine's values are held against a compile from nothing.
func TestStories(t *testing.T) {
	story.Play(t, "testdata/*.txtar", *update, tellStory)
}

// site is one cluster of a story: its world, and an engine over it that lives as long as the
// story.
type site struct {
	name     mesh.ClusterName
	view     ir.View
	world    *world.World
	edits    []world.Edit
	engine   *derive.Engine
	watching []watched
}

// watched is one resource that the story looks at.
type watched struct {
	line string
	ref  derive.Ref
	// now is the value in the engine; scratch the one compiled from nothing.
	now     func(*derive.Engine) any
	scratch func(*world.World) (any, error)
}

type telling struct {
	*testing.T
	sites map[mesh.ClusterName]*site
	// section counts sections: the wall clock of stamps.
	section int64
}

func tellStory(t *testing.T, a *txtar.Archive) {
	s := &telling{T: t, sites: map[mesh.ClusterName]*site{}}
	for i := range a.Files {
		f := &a.Files[i]
		s.section++
		cluster, verb, _ := strings.Cut(f.Name, " ")
		switch {
		case f.Name == "clusters":
			s.join(lines(f.Data))
		case f.Name == "watch":
			for _, line := range lines(f.Data) {
				s.watch(line)
			}
		case cluster == "then":
			f.Data = []byte(s.settle())
		case verb == "puts":
			s.put(s.at(cluster), f)
		case verb == "deletes":
			for _, line := range lines(f.Data) {
				kind, name, _ := strings.Cut(line, " ")
				k := mesh.Key{Kind: mesh.Kind(kind), Origin: s.at(cluster).name, Name: name}
				if namespace, n, namespaced := strings.Cut(name, "/"); namespaced {
					k.Namespace, k.Name = namespace, n
				}
				if _, ok := s.at(cluster).world.Get(k); !ok {
					t.Fatalf("%s: there is no %s", f.Name, line)
				}
				s.at(cluster).edits = append(s.at(cluster).edits, world.Remove(k))
			}
		case verb == "observes":
			for _, line := range lines(f.Data) {
				s.observe(s.at(cluster), strings.Fields(line))
			}
		default:
			t.Fatalf("section %q is not understood", f.Name)
		}
	}
}

func lines(data []byte) []string {
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}

func (s *telling) at(name string) *site {
	s.Helper()
	at := s.sites[mesh.ClusterName(name)]
	if at == nil {
		s.Fatalf("cluster %q is not joined", name)
	}
	return at
}

func (s *telling) sorted() []*site {
	return slices.SortedFunc(maps.Values(s.sites), func(a, b *site) int { return strings.Compare(string(a.name), string(b.name)) })
}

// join makes a site of each line, and every site's Cluster objects of all.
func (s *telling) join(lines []string) {
	var all []mesh.Cluster
	for i, line := range lines {
		words := strings.Fields(line)
		c := mesh.Cluster{Name: mesh.ClusterName(words[0]), Region: mesh.Region(words[0]), Network: mesh.Network(words[0]), Role: mesh.RolePrimary}
		first, _, _ := strings.Cut(words[0], "-")
		c.Jurisdiction, c.TrustDomain = mesh.Jurisdiction(strings.ToUpper(first)), mesh.TrustDomainOf(c.Name, mesh.DefaultDomain)
		c.Gateways = append(c.Gateways, address(s.T, fmt.Sprintf("127.0.255.%d:15443", i+1)))
		for _, w := range words[1:] {
			switch key, value, _ := strings.Cut(w, "="); key {
			case "network":
				c.Network = mesh.Network(value)
			case "jurisdiction":
				c.Jurisdiction = mesh.Jurisdiction(value)
			case "rtt":
				c.RTT = period(s.T, value)
			case "accepts":
				c.Accepts = append(c.Accepts, mesh.Accept{Origin: mesh.ClusterName(value), Kind: "*", Namespace: "*"})
			case "root":
				c.Roots = append(c.Roots, []byte(value))
			default:
				s.Fatalf("cluster %q: %q is not understood", line, w)
			}
		}
		all = append(all, c)
	}
	for _, here := range all {
		at := &site{name: here.Name, view: ir.View{Cluster: here.Name, Network: here.Network}, world: world.New(here.Name)}
		at.engine = derive.New(at.world)
		s.sites[here.Name] = at
		for _, c := range all {
			if c.Name == here.Name {
				c.RTT = 0
			}
			at.edits = append(at.edits, world.Put(observed(mesh.KindCluster, here.Name, mesh.ServiceName{Name: string(c.Name)}, &c)))
		}
	}
}

func observed(kind mesh.Kind, origin mesh.ClusterName, n mesh.ServiceName, v any) *mesh.Fact {
	return &mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Namespace: n.Namespace, Name: n.Name}, Value: v, Digest: ir.DigestOf(v)}
}

// put states manifests. The namespace is shop unless they name another.
func (s *telling) put(at *site, f *txtar.File) {
	r := manifest.Parse(f.Name, f.Data, manifest.Options{Namespace: "shop"})
	for _, fault := range r.Faults {
		s.Error(fault)
	}
	for _, o := range r.Objects {
		fact, ok := o.Fact(at.name)
		if !ok {
			s.Fatalf("%s: %s is no fact", f.Name, o)
		}
		fact.Stamp = mesh.Stamp{WallMillis: s.section, Origin: at.name}
		at.edits = append(at.edits, world.Put(&fact))
	}
}

func (s *telling) observe(at *site, words []string) {
	switch {
	case words[0] == "reach" && len(words) >= 3:
		r := &mesh.Reach{Cluster: mesh.ClusterName(words[1])}
		for r.State.String() != words[2] {
			r.State++
		}
		if len(words) > 3 {
			r.RTT = period(s.T, words[3])
		}
		for _, a := range words[min(4, len(words)):] {
			if since, ok := strings.CutPrefix(a, "stale="); ok {
				var err error
				if r.StaleSinceMillis, err = strconv.ParseInt(since, 10, 64); err != nil {
					s.Fatal(err)
				}
				continue
			}
			if by, ok := strings.CutPrefix(a, "via="); ok {
				r.Via, r.ViaRTT = mesh.ClusterName(by), 300*time.Millisecond
				continue
			}
			r.Leaving = append(r.Leaving, netip.MustParseAddrPort(a))
		}
		at.edits = append(at.edits, world.Put(observed(mesh.KindReach, at.name, mesh.ServiceName{Name: words[1]}, r)))
	case words[0] == "bundle" && len(words) == 4:
		b := &mesh.Bundle{TrustDomain: mesh.TrustDomain(words[1]), Roots: [][]byte{[]byte(words[3])}}
		var err error
		if b.Generation, err = strconv.ParseUint(words[2], 10, 64); err != nil {
			s.Fatal(err)
		}
		at.edits = append(at.edits, world.Put(observed(mesh.KindBundle, at.name, mesh.ServiceName{Name: words[1]}, b)))
	case words[0] == "address" && len(words) == 4:
		n, err := mesh.ParseServiceName(words[1])
		since, err2 := strconv.ParseInt(words[3], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			s.Fatal(err)
		}
		a := &mesh.ServiceAddress{Service: n, Address: netip.MustParseAddr(words[2]), SinceMillis: since}
		at.edits = append(at.edits, world.Put(observed(mesh.KindServiceAddress, at.name, mesh.ServiceName{Name: words[2]}, a)))
	default:
		s.Fatalf("observation %q is not understood", words)
	}
}

// settle brings the mesh to rest and tells what became of what is watched.
func (s *telling) settle() string {
	changed := map[mesh.ClusterName][]derive.Ref{}
	apply := func(at *site, edits []world.Edit) (moved bool) {
		next, refs := at.world.Edit(edits)
		at.world, changed[at.name] = next, append(changed[at.name], refs...)
		return len(refs) > 0
	}
	for _, at := range s.sorted() {
		apply(at, at.edits)
		at.edits = nil
		apply(at, s.tables(at))
	}
	// What a cluster learns may change what it tells: rounds, until one changes nothing.
	for round, moved := 0, true; moved; round++ {
		if round == 10 {
			s.Fatal("clusters go on telling each other something new")
		}
		moved = false
		for _, here := range s.sorted() {
			for _, there := range s.sorted() {
				if here != there {
					moved = apply(here, s.told(here, there)) || moved
				}
			}
		}
	}
	var b strings.Builder
	total, moved := 0, 0
	for _, at := range s.sorted() {
		at.engine.Commit(at.world, changed[at.name]...)
		res := at.engine.Settle(2)
		if len(res.Failed) > 0 {
			s.Fatalf("%s: %v", at.name, res.Failed)
		}
		for _, w := range at.watching {
			total++
			now := w.now(at.engine)
			if scratch, err := w.scratch(at.world); err != nil || ir.DigestOf(scratch) != ir.DigestOf(now) {
				s.Errorf("%s: incremental differs from scratch (%v): %s", w.line, err, cmp.Diff(golden.Text(scratch), golden.Text(now)))
			}
			if !slices.ContainsFunc(res.Changed, func(c derive.Change) bool { return c.Root == w.ref }) {
				continue
			}
			moved++
			fmt.Fprintf(&b, "\n%s\n", w.line)
			for line := range strings.Lines(tidied(now)) {
				b.WriteString("  " + line)
			}
		}
	}
	return fmt.Sprintf("changed: %d of %d\n", moved, total) + b.String()
}

func tidied(v any) string {
	if reflect.ValueOf(v).IsNil() {
		return "nothing\n"
	}
	return golden.Text(v)
}

// tables brings the slot tables of a cluster up to date, as its control plane does.
func (s *telling) tables(at *site) []world.Edit {
	var edits []world.Edit
	for _, f := range at.facts(at.name) {
		v, ok := f.Value.(*mesh.Service)
		if !ok {
			continue
		}
		ready, err := derive.Eval(at.world, compile.ReadyOf, v.ServiceName)
		if err != nil {
			s.Fatal(err)
		}
		prev := mesh.SlotTable{Service: v.ServiceName}
		key := mesh.Key{Kind: mesh.KindSlotTable, Origin: at.name, Namespace: f.Namespace, Name: f.Name}
		if old, ok := at.world.Get(key); ok {
			prev = *old.Value.(*mesh.SlotTable)
		}
		if ready == nil {
			edits = append(edits, world.Remove(key))
		} else if next, changed := balance.NextSlots(prev, *ready); changed {
			edits = append(edits, world.Put(observed(mesh.KindSlotTable, at.name, v.ServiceName, &next)))
		}
	}
	return edits
}

// facts are those of one origin that a cluster holds, in order.
func (at *site) facts(origin mesh.ClusterName) []*mesh.Fact {
	var out []*mesh.Fact
	for f := range at.world.All() {
		if f.Origin == origin {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Fact) int { return a.Compare(b.Key) })
	return out
}

// told replaces what here holds of there by what there tells it now.
func (s *telling) told(here, there *site) []world.Edit {
	gone := map[mesh.Key]bool{}
	for _, f := range here.facts(there.name) {
		gone[f.Key] = true
	}
	var edits []world.Edit
	tell := func(f *mesh.Fact) {
		delete(gone, f.Key)
		edits = append(edits, world.Put(f))
	}
	for _, f := range there.facts(there.name) {
		if f.Kind == mesh.KindBundle || f.Kind.Replicated() && !f.Home {
			tell(f)
		}
		if v, ok := f.Value.(*mesh.Service); ok {
			export, err := derive.Eval(there.world, compile.ExportOf, compile.Export{Service: v.ServiceName, Peer: here.name})
			if err != nil {
				s.Fatal(err)
			}
			if export != nil {
				tell(observed(mesh.KindRemoteService, there.name, v.ServiceName, export))
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(gone), mesh.Key.Compare) {
		edits = append(edits, world.Remove(k))
	}
	return edits
}

// watch reads "CLUSTER RESOURCE NAME" with the resources name, service, gateway, report (of a Gateway), endpoints, access, slots,
// export SERVICE to PEER, proxy WORKLOAD as ACCOUNT, cluster and bundle.
func (s *telling) watch(line string) {
	words := strings.Fields(line)
	if len(words) < 3 {
		s.Fatalf("watch %q is not understood", line)
	}
	at := s.at(words[0])
	n, err := mesh.ParseServiceName(words[2])
	in := compile.In{Service: n, View: at.view}
	switch what := words[1]; {
	case what == "cluster":
		look(at, line, compile.ClusterOf, mesh.ClusterName(words[2]))
	case what == "bundle":
		look(at, line, compile.BundleOf, mesh.TrustDomain(words[2]))
	case err != nil:
		s.Fatalf("watch %q: %v", line, err)
	case what == "gateway":
		look(at, line, compile.GatewayOf, compile.GatewayKey{Namespace: n.Namespace, Name: n.Name, View: at.view})
	case what == "report":
		look(at, line, compile.GatewayReportOf, compile.GatewayKey{Namespace: n.Namespace, Name: n.Name, View: at.view})
	case what == "name":
		look(at, line, compile.NameOf, in)
	case what == "service":
		look(at, line, compile.ServiceOf, in)
	case what == "endpoints":
		look(at, line, compile.EndpointsOf, in)
	case what == "access":
		look(at, line, compile.AccessOf, n)
	case what == "need":
		look(at, line, compile.NeedOf, n)
	case what == "slots":
		look(at, line, compile.SlotsOf, n)
	case what == "export" && len(words) == 5:
		look(at, line, compile.ExportOf, compile.Export{Service: n, Peer: mesh.ClusterName(words[4])})
	case what == "proxy" && len(words) == 5:
		look(at, line, compile.ProxyOf, compile.ProxyKey{ID: words[2], View: at.view,
			Identity: mesh.Identity{TrustDomain: mesh.TrustDomainOf(at.name, mesh.DefaultDomain), Namespace: n.Namespace, ServiceAccount: words[4]}})
	default:
		s.Fatalf("watch %q is not understood", line)
	}
}

func look[K comparable, V any](at *site, line string, f *derive.Func[K, V], k K) {
	f.Watch(at.engine, k)
	at.watching = append(at.watching, watched{line: line, ref: f.Ref(k),
		now:     func(e *derive.Engine) any { v, _ := f.Value(e, k); return v },
		scratch: func(w *world.World) (any, error) { return derive.Eval(w, f, k) }})
}

func period(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func address(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

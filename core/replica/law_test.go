package replica_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func drawName(t *rapid.T) replica.Name {
	kinds := []mesh.Kind{mesh.KindRemoteService, mesh.KindAccessPolicy, mesh.KindHTTPRoute}
	return replica.Name{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Namespace: "shop", Name: fmt.Sprintf("n%d", rapid.IntRange(0, 12).Draw(t, "n"))}
}

func drawResource(t *rapid.T, at mesh.Position) *replica.Resource {
	return replica.NewResource(drawName(t), at, mesh.Stamp{WallMillis: at.Revision, Origin: "us-east"}, [16]byte{},
		[]byte(rapid.StringMatching(`[a-c]{0,2}`).Draw(t, "body")))
}

// TestPartitionIsAMap: a partition does what a map does, its root says whether two are
// equal, and a difference turns one into the other.
func TestPartitionIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, ref := replica.NewPartition("us-east"), map[replica.Name]*replica.Resource{}
		var earlier []*replica.Partition
		for i := range rapid.IntRange(1, 20).Draw(t, "edits") {
			var set []*replica.Resource
			var removed []replica.Name
			at := mesh.Position{Revision: int64(i % 3)}
			for range rapid.IntRange(0, 4).Draw(t, "set") {
				r := drawResource(t, at)
				set = append(set, r)
				ref[r.Name] = r
			}
			for range rapid.IntRange(0, 2).Draw(t, "removed") {
				n := drawName(t)
				removed = append(removed, n)
				delete(ref, n)
			}
			earlier = append(earlier, p)
			p = p.With(set, removed)
			check(t, p, ref)
		}
		scratch := replica.NewPartition("us-east").With(slices.Collect(maps.Values(ref)), nil)
		if scratch.Root() != p.Root() || scratch.Bytes() != p.Bytes() {
			t.Fatalf("equal content, roots %v and %v, %d and %d bytes", p.Root(), scratch.Root(), p.Bytes(), scratch.Bytes())
		}
		for _, e := range earlier {
			set, removed := replica.Diff(e, p)
			if q := e.With(set, removed); q.Root() != p.Root() {
				t.Fatalf("the difference does not lead from one partition to the other")
			}
			if (len(set)+len(removed) == 0) != (e.Root() == p.Root()) {
				t.Fatalf("%d resources differ and the roots say otherwise", len(set)+len(removed))
			}
		}
	})
}

func check(t *rapid.T, p *replica.Partition, ref map[replica.Name]*replica.Resource) {
	if p.Len() != len(ref) {
		t.Fatalf("%d resources, want %d", p.Len(), len(ref))
	}
	for n, want := range ref {
		if got := p.Get(n); got == nil || got.Version != want.Version {
			t.Fatalf("%s: got %v, want %v", n, got, want)
		}
	}
	for r := range p.All() {
		if ref[r.Name] == nil {
			t.Fatalf("%s is there and should not be", r.Name)
		}
	}
}

// link is an importer with whichever exporter it is connected to, and every fault
// that a stream can suffer.
type link struct {
	now     time.Time
	im      *replica.Importer
	saved   *replica.Saved
	ex      *replica.Exporter
	session uint64
	down    []replica.Down
	up      []replica.Up
	states  map[mesh.Position]*replica.Partition
	newest  *replica.Partition
	older   []*replica.Partition
	highest mesh.Position
	edits   int
}

func newLink() *link {
	l := &link{now: time.UnixMilli(1_000_000), newest: replica.NewPartition("us-east"), states: map[mesh.Position]*replica.Partition{}}
	l.newest = l.newest.At(mesh.Position{Epoch: mesh.Epoch{StartMillis: 1, ID: "e"}}, nil)
	l.states[l.newest.Position] = l.newest
	l.restart()
	return l
}

func (l *link) restart() {
	l.im = replica.NewImporter(replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local"}, l.saved)
	l.ex, l.down, l.up = nil, nil, nil
	l.highest = l.im.InForce().Position
}

func (l *link) connect(t *rapid.T, p *replica.Partition, bytes int) {
	l.session++
	l.ex = replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local", ResponseBytes: bytes}, p)
	l.down, l.up = nil, nil
	l.ready(t, l.im.Connect(l.now, l.session, "us-east"))
	l.down = append(l.down, l.ex.Open(l.now).Send...)
}

// ready holds the safety laws against everything that comes into force.
func (l *link) ready(t *rapid.T, rd replica.Ready) {
	if rd.Save != nil {
		l.saved = rd.Save
	}
	l.up = append(l.up, rd.Send...)
	if e := rd.Edit; e != nil {
		l.edits++
		if e.InForce.Position.Compare(l.highest) < 0 {
			t.Fatalf("went from %v back to %v", l.highest, e.InForce.Position)
		}
		l.highest = e.InForce.Position
		if want := l.states[l.highest]; want == nil || want.Root() != e.InForce.Root() {
			t.Fatalf("in force at %v is not what the owner stated there", l.highest)
		}
	}
	if rd.Redial != "" {
		l.ready(t, l.im.Disconnect(l.now, l.session))
		l.ex, l.down, l.up = nil, nil, nil
	}
}

func (l *link) deliverDown(t *rapid.T) {
	if len(l.down) > 0 {
		m := l.down[0]
		l.down = l.down[1:]
		l.ready(t, l.im.Step(l.now, l.session, m))
	}
}

func (l *link) deliverUp() {
	if len(l.up) > 0 && l.ex != nil {
		m := l.up[0]
		l.up = l.up[1:]
		l.down = append(l.down, l.ex.Step(m).Send...)
	}
}

func (l *link) tick(t *rapid.T, d time.Duration) {
	l.now = l.now.Add(d)
	if l.ex != nil {
		l.down = append(l.down, l.ex.Tick(l.now).Send...)
	}
	l.ready(t, l.im.Tick(l.now))
}

// TestAnyInterleavingConverges: whatever is lost, doubled, cut, restarted or moved to
// a replica that is behind, what is in force is always a state of the owner, never
// an earlier one, and once messages get through it is the newest.
func TestAnyInterleavingConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLink()
		bytes := rapid.SampledFrom([]int{0, 300, 700}).Draw(t, "bytes")
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				at := l.newest.Position
				at.Revision++
				var set []*replica.Resource
				for range rapid.IntRange(0, 6).Draw(t, "set") {
					set = append(set, drawResource(t, at))
				}
				l.older = append(l.older, l.newest)
				l.newest = l.newest.With(set, []replica.Name{drawName(t)}).At(at, nil)
				l.states[at] = l.newest
				if l.ex != nil {
					l.down = append(l.down, l.ex.Publish(l.newest).Send...)
				}
			},
			"connect": func(t *rapid.T) { l.connect(t, l.newest, bytes) },
			"connect to a replica behind": func(t *rapid.T) {
				if len(l.older) > 0 {
					l.connect(t, rapid.SampledFrom(l.older).Draw(t, "at"), bytes)
				}
			},
			"restart": func(*rapid.T) { l.restart() },
			"drop down": func(*rapid.T) {
				if len(l.down) > 0 {
					l.down = l.down[1:]
				}
			},
			"double down": func(*rapid.T) {
				if len(l.down) > 0 {
					l.down = append([]replica.Down{l.down[0]}, l.down...)
				}
			},
			"swap down": func(*rapid.T) {
				if len(l.down) > 1 {
					l.down[0], l.down[1] = l.down[1], l.down[0]
				}
			},
			"drop up": func(*rapid.T) {
				if len(l.up) > 0 {
					l.up = l.up[1:]
				}
			},
			"down":   l.deliverDown,
			"down 2": l.deliverDown,
			"up":     func(*rapid.T) { l.deliverUp() },
			"up 2":   func(*rapid.T) { l.deliverUp() },
			"tick":   func(t *rapid.T) { l.tick(t, time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms"))*time.Millisecond) },
			"":       func(*rapid.T) {},
		})
		for range 120 {
			if l.ex == nil {
				l.connect(t, l.newest, bytes)
			}
			l.down = append(l.down, l.ex.Publish(l.newest).Send...)
			for range 200 {
				l.deliverDown(t)
				l.deliverUp()
			}
			l.tick(t, time.Second)
		}
		if got := l.im.InForce(); got.Root() != l.newest.Root() || got.Position != l.newest.Position || !l.im.Status().InSync {
			t.Fatalf("after two quiet minutes at %v with %d resources: want %v with %d", got.Position, got.Len(), l.newest.Position, l.newest.Len())
		}
	})
}

// TestOneResponseInFlight: however much is published, at most one response of at
// most the bound is unacknowledged.
func TestOneResponseInFlight(t *testing.T) {
	l := newLink()
	rt := func(f func(*rapid.T)) { rapid.Check(t, f) }
	rt(func(t *rapid.T) {
		l = newLink()
		l.connect(t, l.newest, 600)
		l.deliverDown(t)
		l.deliverUp()
		flight := 0
		for i := range 50 {
			at := mesh.Position{Epoch: l.newest.Position.Epoch, Revision: int64(i + 1)}
			l.newest = l.newest.With([]*replica.Resource{drawResource(t, at)}, nil).At(at, nil)
			for _, m := range l.ex.Publish(l.newest).Send {
				if r, ok := m.(*replica.Response); ok {
					flight++
					if len(r.Set) > 3 {
						t.Fatalf("%d resources in a response of 600 bytes", len(r.Set))
					}
				}
			}
		}
		if flight > 1 {
			t.Fatalf("%d responses sent without an acknowledgement", flight)
		}
	})
}

// TestEveryBucketIsCompared: whichever bucket an importer lacks the names of, a resumption brings them, and takes away
// what is in a bucket that the owner has none in.
func TestEveryBucketIsCompared(t *testing.T) {
	var all []*replica.Resource
	for i := range 3000 { // enough for a name in each
		all = append(all, object(fmt.Sprintf("p%d", i), 5))
	}
	full := replica.NewPartition("us-east").Next(all, nil, at(5), nil)
	for i := range replica.Buckets {
		var lacks []replica.Name
		for _, h := range full.Bucket(uint8(i)) {
			lacks = append(lacks, h.Name)
		}
		if len(lacks) == 0 {
			t.Fatalf("bucket %d holds no name of the test's", i)
		}
		less := full.With(nil, lacks)
		for what, c := range map[string]struct{ has, want *replica.Partition }{"lacks": {less, full}, "has too much in": {full, less}} {
			im := replica.NewImporter(replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local"}, &replica.Saved{Stated: c.has, InForce: c.has})
			ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local"}, c.want)
			im.Connect(now, 1, "us-east")
			for down := ex.Open(now).Send; len(down) > 0; {
				var next []replica.Down
				for _, d := range down {
					for _, u := range im.Step(now, 1, d).Send {
						next = append(next, ex.Step(u).Send...)
					}
				}
				down = next
			}
			if !im.Stated().Equal(c.want) || !im.Status().InSync {
				t.Errorf("an importer that %s bucket %d holds %d resources, in sync %t: want %d", what, i, im.Stated().Len(), im.Status().InSync, c.want.Len())
			}
		}
	}
}

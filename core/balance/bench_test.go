package balance

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestPickAllocatesNothing(t *testing.T) {
	for _, b := range algorithms {
		for _, n := range []int{1, 20, 300} {
			weights := make([]uint32, n)
			for i := range weights {
				weights[i] = uint32(i%3 + 1)
			}
			b.Warmup = time.Second
			v := of(b, weights...)
			sick := v.groups[0].all.endpoints[n/2]
			if n > 1 {
				sick.eject(0, outRefused, &sick.health.ejections)
			}
			a := Ask{Hashed: true}
			if got := testing.AllocsPerRun(1000, func() {
				a.Rand, a.Hash = mix(a.Rand+1), mix(a.Rand)
				p, _ := v.Pick(&a)
				p.Endpoint.Report([]byte("3 1000"), a.Now)
				p.Endpoint.Learn(shop, []byte("tag"))
				p.Done(Served, a.Now+1)
			}); got != 0 {
				t.Errorf("%s, %d endpoints: %v allocations a pick, want 0", label(b), n, got)
			}
		}
	}
	text := AppendSession(nil, Session{Started: 1, tag: 2})
	buf := make([]byte, 0, SessionLength)
	if got := testing.AllocsPerRun(1000, func() {
		s, _ := ParseSession(text)
		buf = AppendSession(buf[:0], s)
	}); got != 0 {
		t.Errorf("%v allocations to read and write a session, want 0", got)
	}
}

// BenchmarkPick is a pick and its end, at what a proxy sees: one in ten endpoints ejected,
// weights that differ.
func BenchmarkPick(b *testing.B) {
	for _, how := range algorithms {
		for _, n := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", label(how), n), func(b *testing.B) {
				weights := make([]uint32, n)
				for i := range weights {
					weights[i] = uint32(i%3 + 1)
				}
				v := of(how, weights...)
				far := int64(1) << 62
				for i, e := range v.groups[0].all.endpoints {
					if i%10 == 0 && n > 1 {
						e.health.out.Store(outRefused)
						e.health.until.Store(far)
					}
				}
				a := Ask{Hashed: true}
				r := rand.New(rand.NewPCG(1, 2))
				b.ReportAllocs()
				for b.Loop() {
					a.Rand, a.Now = r.Uint64(), a.Now+1000
					a.Hash = a.Rand
					p, _ := v.Pick(&a)
					p.Done(Served, a.Now+int64(time.Millisecond))
				}
			})
		}
	}
}

func BenchmarkNewView(b *testing.B) {
	for _, how := range algorithms {
		b.Run(label(how)+"/1000", func(b *testing.B) {
			eps := groups(1000, 0, 0)
			c := Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Proxy: "shop/a", Balancing: how}
			b.ReportAllocs()
			for b.Loop() {
				NewView(c)
			}
		})
	}
}

// BenchmarkPickBySplit is a pick by a split over three clusters, of which the drawn one is busy, so that every
// pick looks for room elsewhere.
func BenchmarkPickBySplit(b *testing.B) {
	for what, load := range map[string]string{"calm": "1 20000 4", "overflow": "15 20000 4"} {
		b.Run(what, func(b *testing.B) {
			v := spreadView(nil)
			v.SetSplit([]Share{{v.groups[0].cluster.Name, 0.6}, {v.groups[1].cluster.Name, 0.3}, {v.groups[2].cluster.Name, 0.1}}, 1)
			a := Ask{Now: 1}
			b.ReportAllocs()
			for b.Loop() {
				a.Rand, a.Now = mix(a.Rand+1), a.Now+1000
				p, _ := v.Pick(&a)
				p.Endpoint.Report([]byte(load), a.Now)
				p.Done(Served, a.Now+int64(20*time.Millisecond))
			}
		})
	}
}

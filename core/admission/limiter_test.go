package admission

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// app is a model of an application behind a Limiter: a queue, first come first served, before lanes, each of which works at
// one request for a time drawn from work. Callers come at rate, wait for patience, and do not tell the application when
// they have left: it goes on working for nobody.
type app struct {
	lanes    int // 0: as many as come
	work     func(r *rand.Rand, now time.Duration) time.Duration
	rate     func(now time.Duration) float64 // a second
	still    func(now time.Duration) bool    // nothing moves
	patience time.Duration
	mix      [classes]float64 // parts of each criticality, the least first; zero is all critical
	declared int
	off      bool // control run: everything is let in
	from, to time.Duration

	events eventHeap
	queue  []*asked
	busy   int
	of     Limiter
	rand   *rand.Rand
	// offered, good and refused are by criticality, of what came from from to to; served counts what the lanes did then.
	offered, good, refused [classes]int
	served, most           int
	when                   map[int]int // good by the second
}

type asked struct {
	at     int64
	class  int
	ticket Ticket
}

type event struct {
	at   int64
	done *asked // nil: an arrival
}

type eventHeap []event

func (h eventHeap) Len() int           { return len(h) }
func (h eventHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h eventHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)        { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// exponential and fixed are services.
func exponential(mean time.Duration) func(*rand.Rand, time.Duration) time.Duration {
	return func(r *rand.Rand, _ time.Duration) time.Duration {
		return time.Duration(r.ExpFloat64() * float64(mean))
	}
}

func steadily(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

// run runs for as long as from and to say.
func (a *app) run(seed uint64) {
	a.rand, a.when = rand.New(rand.NewPCG(seed, 5)), map[int]int{}
	a.of.SetLanes(a.declared)
	const epoch = int64(time.Hour)
	heap.Push(&a.events, event{at: epoch})
	for len(a.events) > 0 {
		e := heap.Pop(&a.events).(event)
		now := time.Duration(e.at - epoch)
		if e.done != nil && a.still != nil && a.still(now) { // what would have ended ends when it moves again
			e.at += int64(time.Millisecond)
			heap.Push(&a.events, e)
			continue
		}
		if e.done != nil {
			a.finish(e.done, e.at, epoch)
			continue
		}
		if now > a.to {
			continue
		}
		heap.Push(&a.events, event{at: e.at + int64(a.rand.ExpFloat64()/a.rate(now)*1e9)})
		a.arrive(e.at, epoch)
	}
}

func (a *app) arrive(at, epoch int64) {
	class := 2
	if a.mix != [classes]float64{} {
		class = 0
		for x := a.rand.Float64(); class < classes-1 && x >= a.mix[class]; class++ {
			x -= a.mix[class]
		}
	}
	counted := at-epoch >= int64(a.from)
	if counted {
		a.offered[class]++
	}
	r := &asked{at: at, class: class}
	if !a.off {
		var v Verdict
		r.ticket, v = a.of.Enter(&Ask{Now: at, Left: int64(a.patience), Criticality: mesh.Criticalities[class], Key: a.rand.Uint64()})
		if v != Admitted {
			if counted {
				a.refused[class]++
			}
			return
		}
	}
	if a.lanes > 0 && a.busy == a.lanes {
		a.queue = append(a.queue, r)
		a.most = max(a.most, len(a.queue))
		return
	}
	a.start(r, at, epoch)
}

func (a *app) start(r *asked, at, epoch int64) {
	a.busy++
	heap.Push(&a.events, event{at: at + int64(a.work(a.rand, time.Duration(at-epoch))), done: r})
}

func (a *app) finish(r *asked, at, epoch int64) {
	a.busy--
	if !a.off {
		a.of.Done(r.ticket, at, true)
	}
	if at-epoch >= int64(a.from) && at-epoch < int64(a.to) {
		a.served++
	}
	if took := time.Duration(at - r.at); a.patience == 0 || took <= a.patience {
		if r.at-epoch >= int64(a.from) {
			a.good[r.class]++
		}
		a.when[int((at-epoch)/1e9)]++
	}
	if len(a.queue) > 0 {
		next := a.queue[0]
		a.queue = a.queue[1:]
		a.start(next, at, epoch)
	}
}

func sum(n [classes]int) (all int) {
	for _, x := range n {
		all += x
	}
	return all
}

// goodput is answers in time a second.
func (a *app) goodput() float64 { return float64(sum(a.good)) / (a.to - a.from).Seconds() }

// TestOverloadKeepsGoodput whether lanes are declared or have to be learnt, from the first second on; without
// admission, in the control run, nearly everything is answered too late.
func TestOverloadKeepsGoodput(t *testing.T) {
	for _, times := range []float64{1.3, 2, 10} {
		for _, declared := range []int{0, 4} {
			for seed := range uint64(2) {
				a := app{lanes: 4, declared: declared, work: exponential(20 * time.Millisecond), patience: time.Second,
					mix: [classes]float64{0.3, 0.2, 0.4, 0.1}, from: 5 * time.Second, to: 16 * time.Second,
					rate: func(now time.Duration) float64 {
						if now < 3*time.Second {
							return 100
						}
						return times * 200
					}}
				if times > 3 {
					a.mix, a.from = [classes]float64{0.4, 0.3, 0.28, 0.02}, 8*time.Second // a queue of seconds had come before it was known
				}
				a.run(seed)
				name := fmt.Sprintf("%g times, %d lanes declared, seed %d", times, declared, seed)
				if g := a.goodput(); g < 0.95*200 {
					t.Errorf("%s: %.0f of 200 a second are served in time", name, g)
				}
				if part := float64(a.good[3]) / float64(a.offered[3]); part < 0.999 {
					t.Errorf("%s: %.4f of the most critical are served, %v refused", name, part, a.refused)
				}
				if a.refused[0]*a.offered[2] < a.refused[2]*a.offered[0] {
					t.Errorf("%s: of %v offered %v were refused: the more critical suffer more", name, a.offered, a.refused)
				}
			}
		}
	}
	a := app{lanes: 4, work: exponential(20 * time.Millisecond), patience: time.Second, from: 8 * time.Second, to: 30 * time.Second, rate: steadily(400), off: true}
	if a.run(1); a.goodput() > 0.2*200 {
		t.Errorf("control run: %.0f a second are served without admission", a.goodput())
	}
}

// TestOverloadEndsAtOnce: a burst of ten times what there is is weathered, and three seconds after it nothing is refused.
func TestOverloadEndsAtOnce(t *testing.T) {
	for seed := range uint64(5) {
		a := app{lanes: 4, work: exponential(20 * time.Millisecond), patience: time.Second, from: 9 * time.Second, to: 14 * time.Second,
			rate: func(now time.Duration) float64 {
				if now > 3*time.Second && now < 6*time.Second {
					return 2000
				}
				return 120
			}}
		a.run(seed)
		if sum(a.refused) > 0 || a.goodput() < 110 {
			t.Errorf("seed %d: three seconds after it %d are refused, %.0f a second served", seed, sum(a.refused), a.goodput())
		}
		if a.when[5] < 50 {
			t.Errorf("seed %d: %d of 200 are served in the third second of the burst", seed, a.when[5])
		}
	}
}

// TestNobodyIsRefusedWithoutOverload: what is slow, what stands still for a moment, what keeps requests for long by
// intention, and what is used by more callers than before, has not too much to do.
func TestNobodyIsRefusedWithoutOverload(t *testing.T) {
	quick := func(now time.Duration) bool { return false }
	stall := func(each, long time.Duration) func(time.Duration) bool {
		return func(now time.Duration) bool { return now > time.Second && now%each < long }
	}
	jump := func(at time.Duration, from, to float64) func(time.Duration) float64 {
		return func(now time.Duration) float64 {
			if now < at {
				return from
			}
			return to
		}
	}
	for name, a := range map[string]func() *app{
		"a light load, stalls of 50 ms": func() *app {
			return &app{lanes: 2, work: exponential(time.Millisecond), rate: steadily(200), still: stall(300*time.Millisecond, 50*time.Millisecond)}
		},
		"the same, lanes declared": func() *app {
			return &app{lanes: 2, declared: 2, work: exponential(time.Millisecond), rate: steadily(200), still: stall(300*time.Millisecond, 50*time.Millisecond)}
		},
		"a heavier one, stalls of 200 ms": func() *app {
			return &app{lanes: 4, work: exponential(2 * time.Millisecond), rate: steadily(800), still: stall(3*time.Second, 200*time.Millisecond)}
		},
		"stalls of a second": func() *app {
			return &app{lanes: 4, work: exponential(2 * time.Millisecond), rate: steadily(100), still: stall(5*time.Second, time.Second)}
		},
		"seconds of work, many at a time": func() *app { return &app{work: exponential(3 * time.Second), rate: steadily(100), still: quick} },
		"a burst on what scales": func() *app {
			return &app{work: exponential(100 * time.Millisecond), rate: jump(5*time.Second, 10, 1000), still: quick}
		},
		"nearly all it can do": func() *app {
			return &app{lanes: 4, work: exponential(20 * time.Millisecond), rate: steadily(150), still: quick}
		},
		"long polls beside quick requests": func() *app {
			return &app{work: func(r *rand.Rand, _ time.Duration) time.Duration {
				if r.Float64() < 0.3 {
					return time.Duration(10+10*r.Float64()) * time.Second
				}
				return time.Duration(r.ExpFloat64() * float64(2*time.Millisecond))
			}, rate: steadily(100), still: quick}
		},
		"what waits for others that became slower": func() *app {
			return &app{work: func(r *rand.Rand, now time.Duration) time.Duration {
				if now > 6*time.Second {
					return time.Duration(100+20*r.Float64()) * time.Millisecond
				}
				return 20 * time.Millisecond
			}, rate: steadily(300), still: quick}
		},
	} {
		for seed := range uint64(2) {
			a := a()
			a.to = 30 * time.Second
			if a.run(seed); sum(a.refused) > 0 {
				t.Errorf("%s, seed %d: %d of %d are refused; %+v", name, seed, sum(a.refused), sum(a.offered), a.of.Stats())
			}
		}
	}
}

// TestSlownessIsNotFullnessForLong: an application without a limit of its own that becomes 25 times slower at once may look full;
// after some seconds it is known that it is not.
func TestSlownessIsNotFullnessForLong(t *testing.T) {
	for i := range uint64(2) {
		seed, rate := i/2, []float64{40, 1000}[i%2]
		a := app{work: func(r *rand.Rand, now time.Duration) time.Duration {
			if now > 6*time.Second {
				return time.Duration((400 + 200*r.Float64()) * float64(time.Millisecond))
			}
			return 20 * time.Millisecond
		}, rate: steadily(rate), from: 20 * time.Second, to: 25 * time.Second}
		if a.run(seed); sum(a.refused) > sum(a.offered)/1000 {
			t.Errorf("seed %d: %d of %d are refused; %+v", seed, sum(a.refused), sum(a.offered), a.of.Stats())
		}
	}
}

// TestWhatIsTooLateIsRefused: a request with little time left is refused where one that has more is let in.
func TestWhatIsTooLateIsRefused(t *testing.T) {
	var l Limiter
	l.SetLanes(1)
	now := int64(time.Hour)
	enter := func(left time.Duration, c mesh.Criticality) Verdict {
		_, v := l.Enter(&Ask{Now: now, Left: int64(left), Criticality: c})
		return v
	}
	l.service.Store(math.Float64bits(float64(50 * time.Millisecond)))
	for i := range 3 { // the third waits 100 ms
		if v := enter(0, mesh.Critical); v != Admitted {
			t.Fatalf("request %d: %s", i, v)
		}
	}
	for _, c := range []struct {
		left time.Duration
		of   mesh.Criticality
		want Verdict
	}{
		{150 * time.Millisecond, mesh.CriticalPlus, Late}, // it would wait 150 ms and take 50
		{0, mesh.Sheddable, Full},
		{time.Second, mesh.SheddablePlus, Full},
		{250 * time.Millisecond, mesh.Critical, Admitted},
		{0, mesh.Critical, Full},
		{0, mesh.CriticalPlus, Admitted},
	} {
		if v := enter(c.left, c.of); v != c.want {
			t.Errorf("%s with %s left: %s, want %s", c.of, c.left, v, c.want)
		}
	}
	s := l.Stats()
	if s.InFlight != 5 || s.Refused != [classes]int64{1, 1, 1, 1} || s.Limit != 4 {
		t.Errorf("%+v", s)
	}
}

// TestEveryTicketComesBack: what was refused is not in flight.
func TestEveryTicketComesBack(t *testing.T) {
	a := app{lanes: 2, work: exponential(20 * time.Millisecond), patience: time.Second, to: 5 * time.Second, rate: steadily(500)}
	a.run(1)
	if n := a.of.Stats().InFlight; n != 0 || sum(a.refused) == 0 {
		t.Errorf("%d are in flight when all is over, %d were refused", n, sum(a.refused))
	}
}

func BenchmarkEnter(b *testing.B) {
	for name, set := range map[string]func(*Limiter){"idle": func(*Limiter) {}, "full": func(l *Limiter) {
		l.SetLanes(1)
		l.service.Store(math.Float64bits(1e9))
		l.inFlight.Store(10)
	}} {
		b.Run(name, func(b *testing.B) {
			var l Limiter
			set(&l)
			a := Ask{Now: int64(time.Hour), Left: int64(time.Second), Criticality: mesh.Critical}
			b.ReportAllocs()
			for b.Loop() {
				a.Now += 1000
				a.Key += 7
				if t, v := l.Enter(&a); v == Admitted {
					l.Done(t, a.Now+500, true)
				}
			}
		})
	}
}

// TestTheMostCriticalAreNotMeantByChance: of an application that can do 30 requests a second a window of the level sees seven
// answers, or by chance four; then too the most critical, of whom there is room for all, are let in. Where there is none, as
// nothing else comes, they are turned away, and nobody works in vain.
func TestTheMostCriticalAreNotMeantByChance(t *testing.T) {
	for _, c := range []struct {
		mix  [classes]float64
		part float64 // of the most critical that is answered at least
		good float64 // goodput as a part of capacity, at least
	}{
		{[classes]float64{0.6, 0, 0.2, 0.2}, 0.9995, 0.95}, {[classes]float64{0, 0, 0, 1}, 0.49, 0.99},
	} {
		good, offered, all := 0, 0, 0.0
		for seed := range uint64(20) {
			a := &app{lanes: 3, declared: 3, patience: time.Second, mix: c.mix, from: 5 * time.Second, to: 65 * time.Second,
				work: func(*rand.Rand, time.Duration) time.Duration { return 100 * time.Millisecond },
				rate: func(now time.Duration) float64 {
					if now < 3*time.Second {
						return 15
					}
					return 60
				}}
			a.run(seed)
			good, offered, all = good+a.good[3], offered+a.offered[3], all+a.goodput()/20
		}
		if float64(good) < c.part*float64(offered) || all < c.good*30 {
			t.Errorf("of %v %.1f of 30 a second are served in time, of the most critical %d of %d", c.mix, all, good, offered)
		}
	}
}

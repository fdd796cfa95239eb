package link

import (
	"math"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestPathDelaysByHalfTheRTT(t *testing.T) {
	p := NewPath(Shape{RTT: 80 * ms}, 1)
	var f Flow
	for _, now := range []time.Duration{0, 3 * ms, 3 * ms, time.Hour} {
		if got, _ := p.Send(&f, now, 1); got != now+40*ms {
			t.Errorf("sent at %v, arrives at %v, want %v", now, got, now+40*ms)
		}
	}
	if got := p.Acknowledgement(time.Hour); got != time.Hour+40*ms {
		t.Errorf("acknowledgement arrives at %v", got)
	}
}

func TestPathJittersWithinItsBoundsAndNeverReordersAFlow(t *testing.T) {
	p := NewPath(Shape{RTT: 80 * ms, Jitter: 20 * ms}, 7)
	lowest, highest := time.Hour, time.Duration(0)
	for i := range 10_000 {
		var alone Flow
		now := time.Duration(i) * time.Second
		got, _ := p.Send(&alone, now, 100)
		lowest, highest = min(lowest, got-now), max(highest, got-now)
	}
	if lowest < 30*ms || highest > 50*ms {
		t.Errorf("one way takes %v to %v, want within 30ms to 50ms", lowest, highest)
	}
	if lowest > 31*ms || highest < 49*ms {
		t.Errorf("one way takes %v to %v: the jitter is not used", lowest, highest)
	}
	var f Flow
	last := time.Duration(0)
	for i := range 10_000 {
		got, _ := p.Send(&f, 20000*time.Second+time.Duration(i)*100*time.Microsecond, 100)
		if got < last {
			t.Fatalf("piece %d arrives at %v, before the one sent earlier at %v", i, got, last)
		}
		last = got
	}
}

func TestPathBottleneckIsSharedByItsFlows(t *testing.T) {
	const bandwidth, piece, pieces = 100_000_000, 10_000, 1000
	p := NewPath(Shape{RTT: 10 * ms, Bandwidth: bandwidth}, 1)
	var flows [2]Flow
	var last time.Duration
	for i := range pieces {
		last, _ = p.Send(&flows[i%2], 0, piece)
	}
	want := 5*ms + time.Duration(float64(piece*pieces*8)/bandwidth*1e9)
	if math.Abs(float64(last-want)) > float64(time.Microsecond)*pieces {
		t.Errorf("last of %d bytes arrives at %v, want %v", piece*pieces, last, want)
	}
	if got := p.Backlog(0); got < 790*ms || got > 810*ms {
		t.Errorf("backlog %v, want 800ms", got)
	}
	if got := p.Backlog(time.Hour); got != 0 {
		t.Errorf("backlog of an idle path: %v", got)
	}
	// An idle hour saves up nothing.
	before, _ := p.Send(&flows[0], time.Hour, piece)
	after, _ := p.Send(&flows[0], time.Hour, piece)
	if spacing := after - before; spacing != 800*time.Microsecond {
		t.Errorf("pieces after an idle hour are %v apart, want 800µs", spacing)
	}
}

func TestPathReshapedForgetsTheOldBacklog(t *testing.T) {
	p := NewPath(Shape{RTT: 10 * ms, Bandwidth: bandwidthMin}, 1)
	var f Flow
	slow, _ := p.Send(&f, 0, 10_000)
	if slow != 10*time.Second+5*ms {
		t.Fatalf("slow arrival at %v", slow)
	}
	p.Reshape(time.Second, Shape{RTT: 20 * ms})
	var other Flow
	if got, _ := p.Send(&other, time.Second, 10_000); got != time.Second+10*ms {
		t.Errorf("arrival on the reshaped path at %v", got)
	}
	if got, _ := p.Send(&f, time.Second, 1); got != slow {
		t.Errorf("the flow's next byte arrives at %v, want after what it sent before, at %v", got, slow)
	}
}

func TestPathLosesSegmentsAtItsRate(t *testing.T) {
	for _, loss := range []float64{0.001, 0.01, 0.2} {
		p := NewPath(Shape{RTT: 10 * ms, Loss: loss}, 3)
		const segments = 45
		total, n := 0, 20_000
		for i := range n {
			var f Flow
			_, lost := p.Send(&f, time.Duration(i)*time.Second, segments*segmentBytes)
			total += lost
		}
		// A retransmission is lost as often: the losses of one segment are geometric with mean p/(1-p).
		want := float64(n*segments) * loss / (1 - loss)
		if got := float64(total); math.Abs(got-want) > 5*math.Sqrt(want) {
			t.Errorf("loss %v: %v segments lost, want %.0f ± %.0f", loss, got, want, 5*math.Sqrt(want))
		}
	}
}

func TestPathLossCostsARetransmissionAndHoldsOnlyItsFlow(t *testing.T) {
	shape := Shape{RTT: 80 * ms, Loss: 0.3}
	p := NewPath(shape, 5)
	rto := 280 * ms
	if shape.RTO() != rto {
		t.Fatalf("RTO %v, want %v", shape.RTO(), rto)
	}
	seen := map[int]bool{}
	for i := range 1000 {
		now := time.Duration(i) * time.Hour
		var f, other Flow
		got, lost := p.Send(&f, now, 1)
		seen[lost] = true
		// The timer doubles with each retransmission: 1, 1+2, 1+2+4, … of it (RFC 6298, section 5.5).
		want := now + 40*ms + rto*time.Duration(1<<lost-1)
		if got != want {
			t.Fatalf("a segment lost %d times arrives at +%v, want +%v", lost, got-now, want-now)
		}
		next, nextLost := p.Send(&f, now+ms, 1)
		if next < got {
			t.Fatalf("the byte behind a lost one arrives at +%v, before it, at +%v", next-now, got-now)
		}
		if otherAt, otherLost := p.Send(&other, now+ms, 1); nextLost == 0 && otherLost == 0 && otherAt != now+41*ms {
			t.Fatalf("another flow's byte arrives at +%v", otherAt-now)
		}
	}
	for lost := range 4 {
		if !seen[lost] {
			t.Errorf("no segment was lost %d times: the test proves too little", lost)
		}
	}
}

func TestPathBulkRecoversInOneRTT(t *testing.T) {
	p := NewPath(Shape{RTT: 80 * ms, Loss: 0.001}, 5)
	fast, slow := 0, 0
	for i := range 20_000 {
		var f Flow
		now := time.Duration(i) * time.Hour
		got, lost := p.Send(&f, now, 20*segmentBytes)
		switch {
		case lost == 1 && got-now == 120*ms:
			fast++
		case lost == 1 && got-now == 320*ms:
			slow++
		case lost == 1:
			t.Fatalf("one lost segment: +%v", got-now)
		}
	}
	// 17 of 20 positions have three segments behind them (RFC 5681, section 3.2).
	if share := float64(fast) / float64(fast+slow); share < 0.75 || share > 0.95 {
		t.Errorf("%d fast, %d by timer: share %.2f, want 0.85", fast, slow, share)
	}
}

func TestPathHandshakeBacksOffFromOneSecond(t *testing.T) {
	p := NewPath(Shape{RTT: 80 * ms, Loss: 0.5}, 2)
	seen := map[int]bool{}
	for i := range 200 {
		now := time.Duration(i) * time.Hour
		got, lost := p.Handshake(now)
		seen[lost] = true
		if want := now + 40*ms + time.Duration(1<<lost-1)*time.Second; got != want {
			t.Fatalf("SYN lost %d times arrives at +%v, want +%v", lost, got-now, want-now)
		}
	}
	if !seen[0] || !seen[1] || !seen[2] {
		t.Errorf("losses seen: %v", seen)
	}
}

func TestPathResetFollowsWhatWasSentAndIsNeverLost(t *testing.T) {
	p := NewPath(Shape{RTT: 80 * ms, Loss: 0.9}, 1)
	var f Flow
	if got := p.Reset(&f, ms); got != 41*ms {
		t.Errorf("RST alone arrives at %v", got)
	}
	data, _ := p.Send(&f, 2*ms, 1)
	if got := p.Reset(&f, 3*ms); got < data {
		t.Errorf("RST arrives at %v, before the data at %v", got, data)
	}
}

func TestPathIsAFunctionOfSeedAndCalls(t *testing.T) {
	shape := Shape{RTT: 80 * ms, Jitter: 10 * ms, Loss: 0.05, Bandwidth: 1e8}
	run := func(seed uint64) (out []time.Duration) {
		p := NewPath(shape, seed)
		var f Flow
		for i := range 500 {
			at, _ := p.Send(&f, time.Duration(i)*ms, 1000+i)
			out = append(out, at)
		}
		return out
	}
	a, b, c := run(1), run(1), run(2)
	same := true
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("piece %d: %v and %v from one seed", i, a[i], b[i])
		}
		same = same && a[i] == c[i]
	}
	if same {
		t.Error("two seeds gave one schedule")
	}
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		name  string
		shape Shape
		want  int64
	}{
		{"perfect", Shape{}, windowMaxBytes},
		{"no limit", Shape{RTT: 80 * ms}, windowMaxBytes},
		{"modem", Shape{RTT: 80 * ms, Bandwidth: 56_000}, windowMinBytes},
		{"twice the product", Shape{RTT: 75 * ms, Bandwidth: 100_000_000}, 2_000_000},
		{"long and fat", Shape{RTT: 200 * ms, Bandwidth: 1e9}, windowMaxBytes},
		{"rare loss", Shape{RTT: 80 * ms, Bandwidth: 1e9, Loss: 1.5e-6}, 1_460_000},
		{"loss", Shape{RTT: 80 * ms, Bandwidth: 1e9, Loss: 0.01}, windowMinBytes},
	} {
		if got := c.shape.Window(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

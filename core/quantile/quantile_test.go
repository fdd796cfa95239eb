package quantile

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestLatencyBoundsTheP99(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	for _, mean := range []time.Duration{50 * time.Microsecond, 3 * time.Millisecond, 700 * time.Millisecond} {
		var l Latency
		if l.P99() != 0 {
			t.Error("nothing was observed, and a p99 is known")
		}
		var all []time.Duration
		for range 4000 {
			d := time.Duration(float64(mean) * draw.ExpFloat64())
			all = append(all, d)
			l.Observe(d)
		}
		slices.Sort(all)
		want := all[len(all)*99/100]
		if got := l.P99(); got < want*9/10 || got > want*14/10 {
			t.Errorf("mean %v: p99 %v, want about %v", mean, got, want)
		}
	}
}

// TestLatencyForgets: what a service was once does not bound what it is now.
func TestLatencyForgets(t *testing.T) {
	var l Latency
	for range 10_000 {
		l.Observe(time.Second)
	}
	for range 20_000 {
		l.Observe(time.Millisecond)
	}
	if got := l.P99(); got > 2*time.Millisecond {
		t.Errorf("p99 %v long after it became 1 ms", got)
	}
}

func TestLatencyBuckets(t *testing.T) {
	for d := time.Duration(0); d < time.Hour; d = d*11/10 + 1 {
		i := latencyBucket(d)
		if i < latencyBuckets-1 && (latencyEnd(i) < d || d > 4*time.Microsecond && latencyEnd(i) > d*13/10) {
			t.Errorf("%v is in a bucket that ends at %v", d, latencyEnd(i))
		}
	}
}

func BenchmarkLatency(b *testing.B) {
	var l Latency
	b.ReportAllocs()
	i := time.Duration(0)
	for b.Loop() {
		i += 977
		l.Observe(time.Millisecond + i%1_000_000)
	}
}

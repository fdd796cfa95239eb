package load

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhoSaysSomethingEarlyIsHeardAtOnce: a report before its time brings a tick; many of them at most as many as there were ticks in
// time, and earlyMost in a row.
func TestWhoSaysSomethingEarlyIsHeardAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks atomic.Int64
		l := NewDriver(Config{Cluster: "eu", TrustDomain: "eu.mesh", Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler),
			Identify: func(context.Context) (mesh.Identity, error) {
				return mesh.Identity{TrustDomain: "eu.mesh", Namespace: "shop", ServiceAccount: "a"}, nil
			},
			Edit:  func(context.Context, []world.Edit) error { return nil },
			Paths: func() []split.Path { ticks.Add(1); return nil }})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		report := func() {
			t.Helper()
			if _, err := l.Report(t.Context(), &wirepb.LoadRequest{Node: "shop/a"}); err != nil {
				t.Fatal(err)
			}
		}
		during := func(d time.Duration) int64 {
			before := ticks.Load()
			time.Sleep(d)
			synctest.Wait()
			return ticks.Load() - before
		}
		for range 10 { // in time
			report()
			if n := during(Every); n != 1 {
				t.Fatalf("%d ticks in the time of one", n)
			}
		}
		report()
		if n := during(Every / 5); n != 0 {
			t.Errorf("%d ticks after a report that came in time", n)
		}
		report()
		if n := during(Every / 5); n != 1 {
			t.Errorf("%d ticks a tenth of a second after a report that came early, want one", n)
		}
		n := int64(0)
		for range 100 { // five seconds of reports before their time
			report()
			n += during(Every / 10)
		}
		if n < 15 || n > 10+10+earlyMost {
			t.Errorf("%d ticks in five seconds of early reports, want up to 20 and %d", n, earlyMost)
		}
		stop()
		<-ended
	})
}

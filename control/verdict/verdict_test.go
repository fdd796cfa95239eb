package verdict

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	well = liveness.Sight{Path: true, Lease: liveness.LeaseFresh}
	gone = liveness.Sight{Lease: liveness.LeaseLost}
)

// site is a control plane of a mesh of three, in virtual time: eu-west judges, ap-south tells its row each second.
type site struct {
	mu       sync.Mutex
	clusters []mesh.ClusterName
	own      map[mesh.ClusterName]liveness.Sight
	told     map[mesh.ClusterName]liveness.Sight // by ap-south; nil is silence
	log      bytes.Buffer
	board    *Board
}

func (s *site) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Write takes the log.
func (s *site) Write(b []byte) (n int, err error) {
	s.set(func() { n, err = s.log.Write(b) })
	return n, err
}

// run lets a board judge while f runs.
func run(t *testing.T, f func(s *site)) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{clusters: []mesh.ClusterName{"ap-south", "us-east", "eu-west"}, own: map[mesh.ClusterName]liveness.Sight{"us-east": well, "ap-south": well},
			told: map[mesh.ClusterName]liveness.Sight{"us-east": well, "eu-west": well}}
		s.board = New(Config{Self: "eu-west", Clock: clock.Real{}, Log: slog.New(slog.NewTextHandler(s, nil)),
			Clusters: func() (out []mesh.ClusterName) { s.set(func() { out = slices.Clone(s.clusters) }); return out },
			Own: func() (out map[mesh.ClusterName]liveness.Sight) {
				s.set(func() {
					out = map[mesh.ClusterName]liveness.Sight{}
					for n, x := range s.own {
						out[n] = x
					}
				})
				return out
			}})
		done, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				s.set(func() {
					if s.told != nil {
						s.board.Heard("ap-south", s.told)
					}
				})
				select {
				case <-time.After(time.Second):
				case <-stop:
					return
				}
			}
		}()
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- s.board.Run(ctx) }()
		pass(5 * time.Second)
		f(s)
		close(stop)
		cancel()
		<-done
		if err := <-ended; err == nil {
			t.Error("Run returned nil before its context ended")
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) { <-time.After(d) }

func (s *site) state(n mesh.ClusterName) string {
	for _, v := range s.board.Verdicts() {
		if v.Cluster == n {
			return v.State.String()
		}
	}
	return "none"
}

// TestTwoObserversDeclareADeath: with their cause, as an event and in the log, and take it back.
func TestTwoObserversDeclareADeath(t *testing.T) {
	run(t, func(s *site) {
		if s.state("us-east") != "Alive" || s.state("eu-west") != "Alive" || len(s.board.Events()) > 0 {
			t.Fatalf("a mesh that is well: %+v, events %v", s.board.Verdicts(), s.board.Events())
		}
		died := time.Now()
		s.set(func() {
			s.own["us-east"], s.told = gone, map[mesh.ClusterName]liveness.Sight{"us-east": gone, "eu-west": well}
		})
		pass(30 * time.Second)
		var said []string
		for _, e := range s.board.Events() {
			said = append(said, e.From.String()+"→"+e.To.String())
			if e.Cluster != "us-east" || e.At.Before(died) || !strings.HasPrefix(e.Cause, "0 of 2 observers reach its gateways") {
				t.Errorf("event %+v", e)
			}
		}
		if got := strings.Join(said, " "); got != "Alive→Unreachable Unreachable→Dead" {
			t.Errorf("events %s", got)
		}
		v := s.board.Verdicts()
		i := slices.IndexFunc(v, func(o Of) bool { return o.Cluster == "us-east" })
		if age := time.Since(v[i].Since); v[i].State != mesh.Dead || age < 15*time.Second || age > 25*time.Second || v[i].Changes != 2 || len(v[i].Evidence.Witnesses) != 2 {
			t.Errorf("%+v, since %v", v[i], age)
		}
		for _, w := range v[i].Evidence.Witnesses {
			if age := time.Since(w.Since); age < 28*time.Second || age > 31*time.Second {
				t.Errorf("%s says so since %v, want about 30 s", w.Observer, age)
			}
		}
		s.set(func() {
			s.own["us-east"], s.told = well, map[mesh.ClusterName]liveness.Sight{"us-east": well, "eu-west": well}
		})
		pass(10 * time.Second)
		if got := s.state("us-east"); got != "Alive" {
			t.Errorf("%s after it was back for 10 s", got)
		}
		var log string
		s.set(func() { log = s.log.String() })
		if n := strings.Count(log, "the verdict of a cluster changed"); n != 3 {
			t.Errorf("%d changes in the log, want 3:\n%s", n, log)
		}
	})
}

// TestAnObserverThatIsAloneSaysNoMore: it cannot tell whether it is the one that is cut off. What others see of it is then not known,
// and as old as it is.
func TestAnObserverThatIsAloneSaysNoMore(t *testing.T) {
	run(t, func(s *site) {
		s.set(func() { s.own["us-east"], s.own["ap-south"], s.told = gone, gone, nil })
		pass(time.Minute)
		for _, n := range []mesh.ClusterName{"us-east", "ap-south"} {
			if got := s.state(n); got != "Unreachable" {
				t.Errorf("%s is %s for who is cut off, want Unreachable", n, got)
			}
		}
		for _, v := range s.board.Verdicts() {
			if age := time.Since(v.At); v.Cluster == "eu-west" && (v.State != mesh.Alive || age < 50*time.Second) {
				t.Errorf("of itself it says %s of %v ago", v.State, age)
			}
		}
	})
}

// TestWhoLeavesIsForgotten: its row too.
func TestWhoLeavesIsForgotten(t *testing.T) {
	run(t, func(s *site) {
		s.set(func() { s.clusters, s.told = []mesh.ClusterName{"us-east", "eu-west"}, nil; delete(s.own, "ap-south") })
		pass(2 * time.Second)
		if got := s.state("ap-south"); got != "none" {
			t.Errorf("a cluster that left is %s", got)
		}
		s.set(func() { s.own["us-east"] = gone })
		pass(time.Minute)
		if got := s.state("us-east"); got != "Unreachable" {
			t.Errorf("in a mesh of two it is %s, want Unreachable", got)
		}
	})
}

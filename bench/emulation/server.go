package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// criticalityHeader says what a request is worth.
const criticalityHeader = "isthmus-criticality"

// server is an application that sleeps: requests wait in one queue for its lanes, first come first served, and each takes a time that is
// log-normal. What would wait for longer than shed is declined.
type server struct {
	lanes          int
	service, shed  time.Duration
	variation      float64
	slow           atomic.Uint64 // math.Float64bits of the factor that a fault multiplies the time by; 0 is 1
	waiting        atomic.Int64
	free           chan struct{}
	mu             sync.Mutex
	rng            *rand.Rand
	location, wide float64 // of the log-normal distribution of mean 1
}

func (s *server) begin() {
	s.free = make(chan struct{}, s.lanes)
	s.rng = rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	v := math.Log(1 + s.variation*s.variation)
	s.location, s.wide = -v/2, math.Sqrt(v)
}

func (s *server) serve(ctx context.Context, address string) error {
	s.begin()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// mean is how long a request is worked on at the moment, on average.
func (s *server) mean() float64 {
	if bits := s.slow.Load(); bits != 0 {
		return float64(s.service) * math.Float64frombits(bits)
	}
	return float64(s.service)
}

// takes draws how long a request is worked on.
func (s *server) takes() time.Duration {
	s.mu.Lock()
	x := s.rng.NormFloat64()
	s.mu.Unlock()
	return time.Duration(s.mean() * math.Exp(s.location+s.wide*x))
}

// sheds is the admission of the model: by the wait that a request would have, of which the critical may have twice as much.
func (s *server) sheds(waiting int64, criticality string) bool {
	limit := float64(s.shed)
	if criticality == string(mesh.CriticalPlus) {
		limit *= 2
	}
	return s.mean()*float64(waiting)/float64(s.lanes) > limit
}

// ServeHTTP answers a request; /slow?factor=F is the fault's.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		f, err := strconv.ParseFloat(r.URL.Query().Get("factor"), 64)
		if err != nil || f <= 0 {
			http.Error(w, "factor: want a number above 0", http.StatusBadRequest)
			return
		}
		s.slow.Store(math.Float64bits(f))
		return
	}
	waiting := s.waiting.Add(1)
	if s.sheds(waiting, r.Header.Get(criticalityHeader)) {
		s.waiting.Add(-1)
		http.Error(w, "shed", http.StatusServiceUnavailable)
		return
	}
	select {
	case s.free <- struct{}{}:
		s.waiting.Add(-1)
	case <-r.Context().Done():
		s.waiting.Add(-1)
		return
	}
	defer func() { <-s.free }()
	t := time.NewTimer(s.takes())
	defer t.Stop()
	<-t.C // a lane works on what its client has given up, as in the model
	fmt.Fprintln(w, os.Getenv("HOST"))
}

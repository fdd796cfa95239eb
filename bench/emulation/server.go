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
)

// server is an application that sleeps: requests wait in one queue for its lanes, first come first served, and each takes a time that is
// log-normal. It declines nothing: its proxy does.
type server struct {
	lanes          int
	service        time.Duration
	variation      float64
	slow           atomic.Uint64 // math.Float64bits of the factor that a fault multiplies the time by; 0 is 1
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

// takes draws how long a request is worked on.
func (s *server) takes() time.Duration {
	s.mu.Lock()
	x := s.rng.NormFloat64()
	s.mu.Unlock()
	factor := 1.0
	if bits := s.slow.Load(); bits != 0 {
		factor = math.Float64frombits(bits)
	}
	return time.Duration(float64(s.service) * factor * math.Exp(s.location+s.wide*x))
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
	select {
	case s.free <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	defer func() { <-s.free }()
	t := time.NewTimer(s.takes())
	defer t.Stop()
	<-t.C // a lane works on what its client has given up, as in the model
	fmt.Fprintln(w, os.Getenv("HOST"))
}

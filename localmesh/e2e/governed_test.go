package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// governed is the application of TestPolicies: what its clients ask of it by the query, it does, and it notes in files what it has
// seen, so that a test knows which requests reached an application and which did not.
type governed struct {
	name, dir, host string
}

// newGoverned reads "NAME:DIR".
func newGoverned(arg, host string) *governed {
	name, dir, _ := strings.Cut(arg, ":")
	return &governed{name, dir, host}
}

// told is what it answers.
type told struct {
	Service, Instance, Method, Path, Host string
	Headers                               http.Header
}

// sick reports whether the test says that applications of its cluster, 127.N.0.0/16, are not well.
func (g *governed) sick() bool {
	_, err := os.Stat(filepath.Join(g.dir, "sick-"+strings.Split(g.host, ".")[1]))
	return err == nil
}

// note adds a line to a file of the test's and returns how many there are.
func (g *governed) note(id string) int {
	f, err := os.OpenFile(filepath.Join(g.dir, "seen-"+g.name+"-"+id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0
	}
	defer f.Close()
	_, _ = f.WriteString(g.host + "\n")
	b, _ := os.ReadFile(f.Name())
	return strings.Count(string(b), "\n")
}

func (g *governed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.URL.Path == "/healthz" {
		if g.sick() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	tries := 1
	if id := q.Get("id"); id != "" {
		tries = g.note(id)
	}
	if q.Has("slowfirst") && tries == 1 {
		<-r.Context().Done()
		return
	}
	if name := q.Get("hold"); name != "" { // until the test lets go
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for {
			if _, err := os.Stat(filepath.Join(g.dir, "release-"+name)); err == nil {
				break
			}
			select {
			case <-again.C:
			case <-r.Context().Done():
				return
			}
		}
	}
	number := func(name string) (n int) { _, _ = fmt.Sscan(q.Get(name), &n); return n }
	if n := number("head"); n > 0 {
		w.Header().Set("x-long", strings.Repeat("x", n))
	}
	status := max(number("status"), 200)
	if q.Has("first") && tries > 1 {
		status = 200
	}
	w.WriteHeader(status)
	if n := number("bytes"); n > 0 {
		_, _ = w.Write(make([]byte, n))
		return
	}
	_ = json.NewEncoder(w).Encode(told{g.name, g.host, r.Method, r.URL.RequestURI(), r.Host, r.Header})
}

// The ports at which it says how it is, beside its own.
const healthTCP, healthGRPC = 9090, 9091

// health is grpc.health.v1.Health of it.
type health struct {
	healthpb.UnimplementedHealthServer
	g *governed
}

func (h health) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if h.g.sick() {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// serve answers until it fails; a second port is open while the application is well, and a third speaks gRPC.
func (g *governed) serve(ln net.Listener) error {
	at := func(port int) string { return net.JoinHostPort(g.host, fmt.Sprint(port)) }
	calls, err := net.Listen("tcp", at(healthGRPC))
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health{g: g})
	go func() { _ = srv.Serve(calls) }()
	go func() {
		var open net.Listener
		for range time.Tick(20 * time.Millisecond) {
			switch sick := g.sick(); {
			case sick && open != nil:
				open.Close()
				open = nil
			case !sick && open == nil:
				if open, err = net.Listen("tcp", at(healthTCP)); err != nil {
					open = nil
					continue
				}
				go func(ln net.Listener) {
					for {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						c.Close()
					}
				}(open)
			}
		}
	}()
	return (&http.Server{Handler: g, ReadHeaderTimeout: 5 * time.Second}).Serve(ln)
}

package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const always = 100_000

// faulty is a world whose service has a fault.
func faulty(t testing.TB, f mesh.Fault) *world {
	w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic.Faults = []ir.Fault{{Object: "FaultPolicy shop/test@eu-west", Fault: f}}
	})
	w.state.Self = &ir.Proxy{Identity: mesh.Identity{TrustDomain: "eu-west.isthmus.local", Namespace: "shop", ServiceAccount: "frontend"},
		Locality: mesh.Locality{Cluster: "eu-west"}}
	return w
}

func TestFaultsChooseTheirRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		f    mesh.Fault
		ex   *exchange
		want bool
	}{
		{"all", mesh.Fault{}, get("catalog", "/"), true},
		{"a path", mesh.Fault{Match: mesh.RequestMatch{Paths: []string{"/a/*"}}}, get("catalog", "/x/../a/b?q"), true},
		{"another path", mesh.Fault{Match: mesh.RequestMatch{Paths: []string{"/a/*"}}}, get("catalog", "/ab"), false},
		{"a method", mesh.Fault{Match: mesh.RequestMatch{Methods: []string{"POST", "PUT"}}}, post("catalog", "/", "x"), true},
		{"another method", mesh.Fault{Match: mesh.RequestMatch{Methods: []string{"POST"}}}, get("catalog", "/"), false},
		{"a header", mesh.Fault{Match: mesh.RequestMatch{Headers: []mesh.ValueMatch{{Name: "x-user", Value: "t.*", Regex: true}}}},
			get("catalog", "/").with("x-user", "test"), true},
		{"no header", mesh.Fault{Match: mesh.RequestMatch{Headers: []mesh.ValueMatch{{Name: "x-user", Value: "test"}}}}, get("catalog", "/"), false},
		{"a source", mesh.Fault{Sources: []mesh.AccessSource{{Namespaces: []string{"shop"}, Clusters: []mesh.ClusterName{"eu-west"}}}}, get("catalog", "/"), true},
		{"another source", mesh.Fault{Sources: []mesh.AccessSource{{ServiceAccounts: []string{"cart"}}}}, get("catalog", "/"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.Abort, c.f.AbortMilliPercent = 418, always
			w := faulty(t, c.f)
			w.script = []any{answer(200, "ok")}
			w.proxy.Outbound(c.ex, proxy.Via{})
			if got := w.last.Reason == mesh.ReasonFaultInjected; got != c.want || got != (c.ex.status == 418) || got == (len(w.opened) > 0) {
				t.Errorf("%d %s with %d tries, want a fault: %v", c.ex.status, w.last.Reason, len(w.opened), c.want)
			}
			if c.want && (c.ex.field("isthmus-reason") != "fault_injected" || !strings.Contains(w.last.Detail, "FaultPolicy shop/test@eu-west")) {
				t.Errorf("reason %q, detail %q", c.ex.field("isthmus-reason"), w.last.Detail)
			}
		})
	}
}

func TestFaultsTakeTheirShare(t *testing.T) {
	w := faulty(t, mesh.Fault{Abort: 503, AbortMilliPercent: 12_500})
	w.cfg.Rand = rand.New(rand.NewPCG(1, 2)).Uint64
	w.proxy = proxy.New(w.cfg)
	aborted := 0
	for range 4000 {
		w.script = []any{answer(200, "ok")}
		w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		if w.last.Reason == mesh.ReasonFaultInjected {
			aborted++
			if w.last.Tries != 0 {
				t.Fatal("an injected 503 was tried again as if it were one")
			}
		}
	}
	if aborted < 450 || aborted > 550 {
		t.Errorf("%d of 4,000 aborted, want about 500", aborted)
	}
}

func TestFaultsOfGRPC(t *testing.T) {
	call := func() *exchange {
		ex := post("catalog", "/shop.Catalog/Get", "x").with("content-type", "application/grpc+proto")
		ex.head.HTTP2 = true
		return ex
	}
	for _, c := range []struct {
		f    mesh.Fault
		want string
	}{
		{mesh.Fault{AbortGRPC: 8}, "200 8"}, {mesh.Fault{Abort: 404}, "200 12"}, {mesh.Fault{Abort: 403, AbortGRPC: 5}, "200 5"},
	} {
		c.f.AbortMilliPercent = always
		w, ex := faulty(t, c.f), call()
		w.proxy.Outbound(ex, proxy.Via{})
		if got := fmt.Sprintf("%d %s", ex.status, ex.field("grpc-status")); got != c.want || ex.field("content-type") != "application/grpc" ||
			ex.out.Len() != 0 || ex.field("isthmus-reason") != "fault_injected" || ex.ends != 1 {
			t.Errorf("%s %q %q, ended %d times; want %s", got, ex.fields, ex.out.String(), ex.ends, c.want)
		}
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := faulty(t, mesh.Fault{Delay: 2 * time.Second, DelayJitter: time.Second, DelayMilliPercent: always})
		w.script = []any{answer(200, "ok")}
		ex, began := get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if took := time.Since(began); ex.status != 200 || took < 2*time.Second || took >= 3*time.Second || w.last.Reason != "" {
			t.Errorf("%d after %v", ex.status, took)
		}
		// The time counts: a test of timeouts by delay is one.
		w = faulty(t, mesh.Fault{Delay: time.Minute, DelayMilliPercent: always})
		ex, began = get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if took := time.Since(began); ex.status != 504 || took != 15*time.Second || w.last.Reason != mesh.ReasonFaultInjected || len(w.opened) != 0 {
			t.Errorf("%d %s after %v", ex.status, w.last.Reason, took)
		}
		// Nobody waits for a client that left.
		ex, began = get("catalog", "/"), time.Now()
		b := breaking{ex}
		time.AfterFunc(time.Second, b.leave)
		w.proxy.Outbound(b, proxy.Via{})
		if took := time.Since(began); took != time.Second || w.last.Reason != mesh.ReasonClientGone {
			t.Errorf("%s after %v", w.last.Reason, took)
		}
	})
}

func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := faulty(t, mesh.Fault{Bandwidth: 10_000, BandwidthMilliPercent: always})
		for _, known := range []bool{true, false} {
			body := strings.Repeat("x", 20_000)
			s := answer(200, strings.Repeat("y", 30_000))
			s.waitBody = true
			w.script = []any{s}
			ex, began := post("catalog", "/", body), time.Now()
			if !known {
				ex.head.Length = -1
			}
			w.proxy.Outbound(ex, proxy.Via{})
			if took := time.Since(began); ex.out.Len() != 30_000 || s.in.Len() != 20_000 || took < 4900*time.Millisecond || took > 5100*time.Millisecond {
				t.Errorf("%d bytes up, %d down in %v, want 5 s", s.in.Len(), ex.out.Len(), took)
			}
		}
	})
}

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// TestStretchChangesNoLoad: all that is a time is longer by the factor, and each region is as busy as it was.
func TestStretchChangesNoLoad(t *testing.T) {
	for _, name := range []string{"t3-steady", "t3-slowdown", "t3-brownout", "t3-burst", "t3-overload", "t3-refuse", "t3-blackhole"} {
		one, err := (&bench{scenarios: "../../sim/traffic/scenarios", factor: 1}).scenario(name)
		if err != nil {
			t.Fatal(err)
		}
		five, err := (&bench{scenarios: "../../sim/traffic/scenarios", factor: 5}).scenario(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range one.Regions {
			s := five.Regions[i]
			if s.Service != 5*r.Service || s.Rate*s.Service.Seconds() != r.Rate*r.Service.Seconds() {
				t.Errorf("%s: region %s asks for %g a second of %s, and stretched for %g of %s", name, r.Name, r.Rate, r.Service, s.Rate, s.Service)
			}
		}
		if five.Duration != 5*one.Duration || five.To-five.From != 5*(one.To-one.From) || five.Links[0].RTT != 5*one.Links[0].RTT || five.Requests.Try != 5*one.Requests.Try {
			t.Errorf("%s: not everything takes five times as long", name)
		}
		if r := manifest.Parse("policy", []byte(policyText(five)), manifest.Options{}); len(r.Faults) > 0 {
			t.Errorf("%s: its policy cannot be applied: %v", name, r.Faults)
		}
		if file := meshFile(five); !strings.Contains(file, "rtt: 100ms") || !strings.Contains(file, `"100ms"`) {
			t.Errorf("%s: the mesh is not the scenario's:\n%s", name, file)
		}
	}
}

func TestWhatCannotBeDoneToProcessesIsRefused(t *testing.T) {
	for _, name := range []string{"t3-day", "t3-flapping", "t3-partition"} {
		if _, err := (&bench{scenarios: "../../sim/traffic/scenarios", factor: 5}).scenario(name); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestServerHasLanes: four requests at a time are worked on, others wait.
func TestServerHasLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{lanes: 4, service: 100 * time.Millisecond}
		s.begin()
		var mu sync.Mutex
		var all sync.WaitGroup
		took := map[time.Duration]int{}
		began := time.Now()
		for range 40 {
			all.Go(func() {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil))
				mu.Lock()
				defer mu.Unlock()
				if w.Code == http.StatusOK {
					took[time.Since(began)]++
				}
			})
		}
		all.Wait()
		for at := 100 * time.Millisecond; at <= time.Second; at += 100 * time.Millisecond {
			if took[at] != 4 {
				t.Errorf("after %s %d were answered, want 4", at, took[at])
			}
		}
	})
}

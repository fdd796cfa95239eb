package proxy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// routedBy is a client proxy under a configuration that shows in all that becomes of a request: name
// is in the route, in what filters put into both heads, and in the endpoints; retries are how often
// an answer of 503 is given up for another.
func routedBy(t *testing.T, name string, retries int) *world {
	header := []mesh.HeaderValue{{Name: "x-config", Value: name}}
	return newWorld(t, 4, func(s *ir.Service, eps *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{{Object: name, Backends: []ir.Backend{{Service: catalog, Weight: 1}}, Retry: &mesh.RouteRetry{Attempts: retries},
			Filters: []mesh.RouteFilter{{Kind: mesh.FilterRequestHeaders, Set: header}, {Kind: mesh.FilterResponseHeaders, Set: header}}}}
		for i := range eps.Groups[0].Endpoints {
			eps.Groups[0].Endpoints[i].Tag = name
		}
	})
}

// TestARequestEndsByTheConfigurationItBeganWith swaps the configuration of a client proxy while a
// request waits for the answer of its first try: route, filters, retries and endpoints of all that
// follows are those of before, and the next request has the new ones.
func TestARequestEndsByTheConfigurationItBeganWith(t *testing.T) {
	for _, c := range []struct {
		name string
		swap func(w, next *world)
		// first is what becomes of the request under way, second of the one after it.
		first, second string
	}{
		{"behind the pointer", func(w, next *world) { w.state = next.state },
			"old: 200 old, to [old old], saying [old old]", "new: 503 new, to [new], saying [new]"},
		// The control: a configuration that is changed where it lies reaches the request under way, and
		// is noticed.
		{"in place", func(w, next *world) { *w.state.Services[catalog] = *next.state.Services[catalog] },
			"old: 200 old, to [old new], saying [old old]", "new: 503 new, to [new], saying [new]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, next := routedBy(t, "old", 2), routedBy(t, "new", 0)
			var to []string
			var streams []*stream
			w.cfg.Open = func(_ time.Time, d *proxy.Destination) (message.Stream, error) {
				to = append(to, d.Endpoint.Tag)
				s := answer(503, "busy")
				if len(to) == 2 {
					s = answer(200, "ok")
				} else if c.swap != nil {
					c.swap(w, next)
					c.swap = nil
				}
				streams = append(streams, s)
				return s, nil
			}
			w.proxy = proxy.New(w.cfg)
			for i, want := range []string{c.first, c.second} {
				to, streams = nil, nil
				ex := get("catalog", "/")
				w.proxy.Outbound(ex, proxy.Via{})
				var saying []string
				for _, s := range streams {
					saying = append(saying, string(s.sent.Get("x-config")))
				}
				route, _, _ := strings.Cut(w.last.Route, " ")
				if got := fmt.Sprintf("%s: %d %s, to %v, saying %v", route, ex.status, ex.field("x-config"), to, saying); got != want {
					t.Errorf("request %d:\n got %s\nwant %s", i+1, got, want)
				}
			}
		})
	}
}

// TestAServerProxyEndsARequestByThePoliciesItBeganWith swaps the rules of access and the limits of a
// service while its application is about to answer.
func TestAServerProxyEndsARequestByThePoliciesItBeganWith(t *testing.T) {
	deny := mesh.AccessPolicy{Name: "deny", Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/*"}}}}}}
	small := ir.Traffic{Limits: mesh.Limits{ResponseBody: 1}}
	for _, c := range []struct {
		name          string
		swap          func(w *world, traffic *ir.Traffic)
		first, second string
	}{
		{"behind the pointer", func(w *world, _ *ir.Traffic) {
			next := *w.state
			next.Inbound = maps.Clone(serving(t, deny).state.Inbound)
			w.state = &next
		}, "200  whole", "403 access_denied "},
		{"behind the pointer, limits", func(w *world, _ *ir.Traffic) {
			next := *w.state
			next.Inbound = limited(t, &small).state.Inbound
			w.state = &next
		}, "200  whole", "502 body_too_large "},
		// The control.
		{"in place", func(_ *world, traffic *ir.Traffic) { *traffic = small }, "502 body_too_large ", "502 body_too_large "},
	} {
		t.Run(c.name, func(t *testing.T) {
			traffic := &ir.Traffic{}
			w := limited(t, traffic)
			w.cfg.App = func(string, mesh.Protocol) (message.Stream, error) {
				if c.swap != nil {
					c.swap(w, traffic)
					c.swap = nil
				}
				return answer(200, "whole"), nil
			}
			w.proxy = proxy.New(w.cfg)
			var got []string
			for range 2 {
				ex := asked("/")
				w.proxy.Inbound(ex, peer)
				body := ex.out.String()
				if ex.status != 200 {
					body = ""
				}
				got = append(got, fmt.Sprintf("%d %s %s", ex.status, ex.field("isthmus-reason"), body))
			}
			if want := []string{c.first, c.second}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

func TestTheDoorIsShutToStrangers(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		name, path  string
		change      func(*http.Request)
		status      int
		withContent string
	}{
		{"the token", "/v1/version", func(*http.Request) {}, 200, `"version":"test"`},
		{"no token", "/v1/version", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "token"},
		{"a wrong token", "/v1/version", func(r *http.Request) { r.Header.Set("Authorization", "Bearer t0kem") }, 401, "token"},
		{"no token on an unknown path", "/v1/nothing", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "token"},
		{"an unknown path", "/v1/nothing", func(*http.Request) {}, 404, "no such path"},
		{"a name of somebody else's", "/v1/version", func(r *http.Request) { r.Host = "evil.example:80" }, 403, "name"},
		{"localhost", "/v1/version", func(r *http.Request) { r.Host = "localhost:15080" }, 200, ""},
		{"IPv6", "/v1/version", func(r *http.Request) { r.Host = "[::1]:15080" }, 200, ""},
		{"another origin", "/v1/version", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "origin"},
		{"an opaque origin", "/v1/version", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403, "origin"},
		{"its own origin", "/v1/version", func(r *http.Request) { r.Header.Set("Origin", s.http.URL) }, 200, ""},
		{"health without a token", "/healthz", func(r *http.Request) { r.Header.Del("Authorization") }, 200, "ok"},
		{"health from another origin", "/healthz", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403, "origin"},
		{"an unknown kind", "/v1/objects/pods", func(*http.Request) {}, 404, "httproutes"},
		{"a bad selector", "/v1/objects/services?labelSelector=a%20b", func(*http.Request) {}, 400, "labelSelector"},
		{"a namespaced object without one", "/v1/objects/services/-/a", func(*http.Request) {}, 400, "namespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(s.context(), http.MethodGet, s.http.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			c.change(req)
			resp, err := s.client.HTTP.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), strings.ReplaceAll(c.withContent, "labelSelector", "label selector")) {
				t.Errorf("%d %s, %v; want %d with %q", resp.StatusCode, body, err, c.status, c.withContent)
			}
			if resp.StatusCode >= 400 {
				e := api.Error{}
				if err := json.Unmarshal(body, &e); err != nil || e.Problem == "" || e.Op == "" {
					t.Errorf("error %s is not of the API's shape: %v", body, err)
				}
			}
		})
	}
}

func TestStatusOfTheMesh(t *testing.T) {
	refusals := []xds.Refusal{{Name: "shop/catalog", Version: "v1", Message: "regex"}}
	s := newSite(t, func(c *api.Config) {
		c.Ready = func() error { return errors.New("no epoch yet") }
		c.Vector = func() mesh.Vector {
			return mesh.Vector{"eu-west": {Epoch: mesh.Epoch{StartMillis: 1, ID: "a"}, Revision: 7}}
		}
		c.Peers = func() []api.PeerStatus {
			return []api.PeerStatus{{Cluster: "us-east", State: "Alive", InSync: true, Age: 1500 * time.Millisecond, RTT: 80 * time.Millisecond,
				Position: mesh.Position{Epoch: mesh.Epoch{StartMillis: 2, ID: "b"}, Revision: 9}, Gateways: []netip.AddrPort{netip.MustParseAddrPort("127.11.255.2:15443")}}}
		}
		c.Proxies = func() []xds.ClientStatus {
			return []xds.ClientStatus{{Node: xds.Node{ID: "shop/catalog-0", Mode: "sidecar", Version: "1"}, Connected: noon, Types: []xds.TypeStatus{
				{Type: "type.isthmus.dev/v1/Service", Sent: 3, Acked: 2, Refused: refusals}, {Type: "type.isthmus.dev/v1/Name", Sent: 4, Acked: 4, InSync: true}}}}
		}
		c.Bundle = func() mesh.Bundle {
			return mesh.Bundle{TrustDomain: "eu-west.isthmus.local", Generation: 3}
		}
		c.NewToken = func(_ context.Context, id mesh.Identity) (string, error) { return "join " + id.String(), nil }
		c.ProxyConfig = func(_ context.Context, id string) ([]byte, error) { return []byte(`{"id":"` + id + `"}`), nil }
	})
	got, err := s.client.Status(s.context())
	if err != nil {
		t.Fatal(err)
	}
	want := &api.Status{Cluster: self, Problem: "no epoch yet", Version: "test", Vector: "eu-west=1.a:7",
		Peers: []api.Peer{{Cluster: "us-east", InSync: true, State: "Alive", Up: true, AgeSeconds: 1.5, RTTMillis: 80, Position: "2.b:9",
			Gateways: []netip.AddrPort{netip.MustParseAddrPort("127.11.255.2:15443")}}},
		Proxies:      []api.Proxy{{ID: "shop/catalog-0", Cluster: self, Mode: "sidecar", Connected: true, Since: noon, Sent: 7, Acked: 6, Nacks: 1, Version: "1"}},
		Certificates: api.Certificates{TrustDomain: "eu-west.isthmus.local", Generation: 3}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || got.InSync() {
		t.Errorf("status, in sync %v (-want +got):\n%s", got.InSync(), diff)
	}
	s.apply(shop)
	if got := conditions(s.get("httproute", "split").Status.Parents[0].Conditions)[2]; got != "Programmed=False (Refused) 1" {
		t.Errorf("a refused configuration is shown as %s", got)
	}
	refusals = nil
	if got := conditions(s.get("httproute", "split").Status.Parents[0].Conditions)[2]; got != "Programmed=Unknown (Pending) 1" {
		t.Errorf("a configuration on its way is shown as %s", got)
	}
	if p, err := s.client.Proxies(s.context()); err != nil || len(p) != 1 || p[0].Types[0].Type != "Service" || p[0].InSync {
		t.Errorf("proxies %+v, %v", p, err)
	}
	if text, err := s.client.ProxyConfig(s.context(), "shop/catalog-0"); err != nil || string(text) != `{"id":"shop/catalog-0"}` {
		t.Errorf("config %s, %v", text, err)
	}
	_, err = s.client.ProxyConfig(s.context(), "shop/none")
	if e := refusal(t, err); e.Status != 404 {
		t.Errorf("config of nobody: %d %v", e.Status, e)
	}
	if b, err := s.client.Bundle(s.context()); err != nil || b.TrustDomain != "eu-west.isthmus.local" || b.Generation != 3 {
		t.Errorf("bundle %+v, %v", b, err)
	}
	id := mesh.Identity{TrustDomain: "eu-west.isthmus.local", Namespace: "shop", ServiceAccount: "catalog"}
	if text, err := s.client.NewToken(s.context(), id); err != nil || text != "join "+id.String() {
		t.Errorf("token %q, %v", text, err)
	}
	_, err = s.client.NewToken(s.context(), mesh.Identity{TrustDomain: "A", Namespace: "b", ServiceAccount: "c"})
	if e := refusal(t, err); e.Status != 400 {
		t.Errorf("token for nobody: %d %v", e.Status, e)
	}
}

// TestAPeerWhoseLeaseHasLapsedIsNotInSync: its session stands, for it hangs, but it was not heard of for too long.
func TestAPeerWhoseLeaseHasLapsedIsNotInSync(t *testing.T) {
	stale := false
	s := newSite(t, func(c *api.Config) {
		c.Peers = func() []api.PeerStatus {
			return []api.PeerStatus{{Cluster: "us-east", State: "Alive", InSync: true, Stale: stale, Age: 3500 * time.Millisecond}}
		}
	})
	for _, stale = range []bool{false, true} {
		got, err := s.client.Status(s.context())
		if err != nil {
			t.Fatal(err)
		}
		if p := got.Peers[0]; p.InSync == stale || got.InSync() == stale || p.Stale != stale || p.AgeSeconds != 3.5 {
			t.Errorf("lease lapsed %v: peer %+v, the cluster in sync %v", stale, p, got.InSync())
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.context())
	ended := make(chan error, 1)
	go func() { ended <- s.server.Run(ctx, l) }()
	c := *s.client
	c.BaseURL = "http://" + l.Addr().String()
	if v, err := c.Version(ctx); err != nil || v.Cluster != self {
		t.Errorf("version %+v, %v", v, err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(waitMax):
		t.Error("Run outlives its context")
	}
}

func TestConfigSaysAllThatIsMissing(t *testing.T) {
	_, err := api.NewServer(api.Config{})
	for _, name := range []string{"Cluster", "Objects", "World", "Stamp", "Token"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

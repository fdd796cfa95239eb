package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHealthAsksForNoToken: scrapers and probes have none. Port 15014 of every control plane answers them, has what the API has
// for those who have one, and answers to no name; the API, which is the control, refuses them.
func TestHealthAsksForNoToken(t *testing.T) {
	m := newMesh(t, 35)
	m.up()
	get := func(addr, host, path string) (int, string) {
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for i, c := range clusters {
		at := m.address(i, 0, 2, 15014)
		for path, want := range map[string]string{"/ready": "ready\n", "/healthz": "ok\n"} {
			if code, body := get(at, "", path); code != 200 || body != want {
				t.Errorf("%s of %s: %d %q, want 200 %q", path, c, code, body, want)
			}
		}
		code, body := get(at, "", "/metrics")
		for _, want := range []string{
			fmt.Sprintf("isthmus_control_plane_ready{cluster=%q} 1\n", c), fmt.Sprintf("isthmus_xds_clients{cluster=%q,in_sync=\"true\"} ", c),
			fmt.Sprintf("isthmus_ca_roots{cluster=%q} 1\n", c), fmt.Sprintf("isthmus_peer_up{cluster=%q,peer=%q} 1\n", c, clusters[(i+1)%len(clusters)]),
		} {
			if code != 200 || !strings.Contains(body, want) {
				t.Errorf("/metrics of %s: %d, without %q:\n%s", c, code, want, body)
			}
		}
		if code, _ := get(m.address(i, 0, 2, 15080), "", "/metrics"); code != 401 {
			t.Errorf("the API of %s answers %d to one without a token, want 401", c, code)
		}
		if code, _ := get(at, "rebound.example.com", "/metrics"); code != 421 {
			t.Errorf("%s answers %d to a name that somebody made point to it, want 421", c, code)
		}
	}
}

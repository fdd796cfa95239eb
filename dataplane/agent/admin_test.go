package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// admin speaks with a proxy's admin port.
func adminCall(t *testing.T, m *member, method, path string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
	r, err := http.NewRequest(method, "http://"+m.cfg.Admin.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// TestADrainLeavesOnlyTheAdminPort: readiness goes first, a connection that was there ends by its own
// end, new ones are refused, and the process stays for whoever asks it.
func TestADrainLeavesOnlyTheAdminPort(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pair(time.Hour)
	if code, _ := adminCall(t, client, "GET", "/ready"); code != 200 {
		t.Fatalf("/ready: %d", code)
	}
	long, err := dialTunnel(client.cfg.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if code, _ := adminCall(t, client, "GET", "/drain"); code != 405 {
		t.Errorf("GET /drain: %d, want 405", code)
	}
	if code, body := adminCall(t, client, "POST", "/drain"); code != 202 {
		t.Errorf("POST /drain: %d %s", code, body)
	}
	eventually(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", client.cfg.Outbound.String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if code, body := adminCall(t, client, "GET", "/ready"); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("/ready: %d %s", code, body)
	}
	if err := long.say("still here"); err != nil {
		t.Errorf("a connection from before the drain: %v", err)
	}
	select {
	case <-client.Drained():
		t.Error("drained under an open connection")
	default:
	}
	long.Close()
	if code, body := adminCall(t, client, "POST", "/drain?wait=true"); code != 200 || body != "drained\n" {
		t.Errorf("POST /drain?wait=true: %d %s", code, body)
	}
	if code, body := adminCall(t, client, "GET", "/stats"); code != 200 || !strings.Contains(body, `"State": "the proxy is draining"`) {
		t.Errorf("/stats: %d %s", code, body)
	}
	if code, body := adminCall(t, client, "POST", "/log-level?level=loud"); code != 400 {
		t.Errorf("POST /log-level: %d %s", code, body)
	}
	_, _ = adminCall(t, client, "POST", "/log-level?level=debug")
	if code, body := adminCall(t, client, "GET", "/log-level"); code != 200 || body != "DEBUG\n" {
		t.Errorf("GET /log-level: %d %s", code, body)
	}
	if err := client.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("ended with %v", err)
	}
}

func TestTheExpiryIsAMetric(t *testing.T) {
	w := newWorld(t)
	m := w.client()
	m.waitReady(t)
	_, body := adminCall(t, m, "GET", "/metrics")
	at := fmt.Sprintf("\nisthmus_certificate_expiry_timestamp_seconds %d\n", m.Dump().NotAfter.Unix())
	if m.Dump().NotAfter.IsZero() || !strings.Contains(body, at) {
		t.Errorf("/metrics has no %q", at)
	}
}

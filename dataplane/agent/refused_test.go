package agent_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/trust"
)

// TestWhatIsNoRequestIsToldWhyAndNumbered: what the engine of HTTP/1.1 refuses before there is a request
// is answered with its reason and an ID, which the record has too.
func TestWhatIsNoRequestIsToldWhyAndNumbered(t *testing.T) {
	w := newWorld(t)
	m := w.client()
	m.waitReady(t)
	_ = m.end()
	type line struct{ id, reason string }
	told := make(chan line, 8)
	key, _ := keys.Load(m.cfg.Snapshot)
	m = w.run(m.cfg, key.(trust.SealKey), agent.Options{Done: func(r *proxy.Record) { told <- line{string(r.RequestID), string(r.Reason)} }})
	m.waitReady(t)
	for _, c := range []struct {
		head, reason string
		status       int
	}{
		{"GET / HTTP/1.1\r\n\r\n", "malformed_request", 400},
		{"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "malformed_request", 501},
		{"GET / HTTP/3.0\r\nHost: x\r\n\r\n", "malformed_request", 505},
		{"GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "head_too_large", 414},
		{"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "head_too_large", 431},
	} {
		conn, err := net.Dial("tcp", m.cfg.Outbound.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(bound))
		_, _ = io.WriteString(conn, c.head) // the answer may come before its end
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err != nil {
			t.Fatalf("%.40q: %v", c.head, err)
		}
		id := a.Header.Get("x-request-id")
		if a.StatusCode != c.status || a.Header.Get("isthmus-reason") != c.reason || len(id) != 36 {
			t.Errorf("%.40q: %d with %q, want %d for %s", c.head, a.StatusCode, a.Header, c.status, c.reason)
		}
		select {
		case l := <-told:
			if l.id != id || l.reason != c.reason {
				t.Errorf("%.40q: the record has %q, the answer %q", c.head, l, id)
			}
		case <-time.After(bound):
			t.Fatalf("%.40q: no record", c.head)
		}
	}
}

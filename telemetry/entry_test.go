package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/telemetry"
)

func entry() *telemetry.Entry {
	e := &telemetry.Entry{Edge: *edge("catalog", 503), Start: time.Unix(1000, 0), Duration: 1500 * time.Microsecond, Proxy: "shop/frontend-0",
		Method: []byte("GET"), Host: []byte("catalog.shop"), Path: []byte("/a\"b\\c\nd\xff\xc3\xa9\u2028"), RequestID: []byte("id-1"), Port: 80,
		Detail: "say \"why\"\n", TraceID: [16]byte{1}, SpanID: [8]byte{2}}
	e.Reason = "upstream_reset"
	return e
}

func TestALineIsJSONWhateverAClientWrites(t *testing.T) {
	b := entry().AppendJSON(nil)
	if n := strings.Count(string(b), "\n"); n != 1 || b[len(b)-1] != '\n' {
		t.Fatalf("%d line feeds in %q: a client must not write lines of the log", n, b)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	for k, want := range map[string]any{"path": "/a\"b\\c\nd\ufffd\u00e9\u2028", "status": 503.0, "reason": "upstream_reset", "duration_ms": 1.5, "side": "outbound",
		"trace_id": "01000000000000000000000000000000", "error": "say \"why\"\n", "destination_cluster": "us-east", "request_id": "id-1"} {
		if got[k] != want {
			t.Errorf("%s: %q, want %q", k, got[k], want)
		}
	}
	text := string(entry().AppendText(nil))
	want := `1970-01-01T00:16:40.000Z outbound "GET catalog.shop /a\"b\\c\u000ad` + "\ufffd\u00e9\u2028" + `" 503 upstream_reset 1.500ms 0/0 frontend.shop@eu-west > catalog.shop@us-east - "id-1" "say \"why\"\u000a"` + "\n"
	if text != want {
		t.Errorf("text:\n%swant\n%s", text, want)
	}
}

func TestALineAllocatesNothing(t *testing.T) {
	e, b := entry(), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { b = e.AppendJSON(b[:0]) }); n != 0 {
		t.Errorf("%v allocations a line, want 0", n)
	}
}

// stuck is a writer that takes nothing until it is let.
type stuck struct {
	entered, let chan struct{}
	mu           sync.Mutex
	b            strings.Builder
}

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.let
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func TestALogThatIsStuckDropsAndCounts(t *testing.T) {
	w := &stuck{entered: make(chan struct{}, 1), let: make(chan struct{})}
	l := telemetry.NewLines(w)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	l.Add(line)
	<-w.entered // the writer waits; what follows is gathered and then dropped
	taken := 1
	for range 4096 {
		if l.Add(line) {
			taken++
		}
	}
	if taken != 1025 || l.Dropped() != 4097-1025 {
		t.Errorf("%d taken, %d dropped: want 1 MiB and the rest", taken, l.Dropped())
	}
	close(w.let)
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := strings.Count(w.b.String(), "\n"); n != taken {
		t.Errorf("%d lines written, %d taken", n, taken)
	}
}

func BenchmarkLine(b *testing.B) {
	e, buf := entry(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

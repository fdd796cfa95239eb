package agent

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestAccessLogSaysWhyAndIsBounded(t *testing.T) {
	var out bytes.Buffer
	o := &observer{cfg: &Config{ID: "shop/frontend"}, log: slog.New(slog.NewJSONHandler(&out, nil)), also: func(*proxy.Record) {}}
	at := time.Unix(1000, 0)
	o.done(&proxy.Record{Start: at, Status: 200})
	if out.Len() != 0 {
		t.Errorf("a request that was served was logged: %s", out.String())
	}
	for range 3 * linesMax {
		o.done(&proxy.Record{Start: at, Status: 403, Reason: mesh.ReasonDenied, Path: []byte("/admin"), Detail: "a Deny rule matches"})
	}
	if n := strings.Count(out.String(), "\n"); n != linesMax {
		t.Errorf("%d lines in a second, want %d", n, linesMax)
	}
	var line map[string]any
	first, _, _ := strings.Cut(out.String(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	if line["reason"] != "access_denied" || line["path"] != "/admin" || line["status"] != 403.0 {
		t.Errorf("the line says %v", line)
	}
	o.done(&proxy.Record{Start: at.Add(time.Second), Status: 502, Reason: mesh.ReasonReset})
	if n := strings.Count(out.String(), "\n"); n != linesMax+1 {
		t.Errorf("%d lines: the next second has room again", n)
	}
}

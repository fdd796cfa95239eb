package http1

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/corpus"
)

var updateVerdicts = flag.Bool("verdicts", false, "write docs/smuggling.md anew")

// verdict is what becomes of an attempt at a hop: the statuses of its answers, and how many
// requests it let through to the hop behind.
func verdict(t *testing.T, at string, attempt []byte, seen *sightings) string {
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(guard))
	_, _ = c.Write(attempt)
	_ = c.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(c) // a reset ends it too
	seen.mu.Lock()
	through := len(seen.list)
	seen.list = nil
	seen.mu.Unlock()
	status := "closed"
	if line, _, ok := strings.Cut(string(answer), "\r\n"); ok && strings.HasPrefix(line, "HTTP/") {
		if f := strings.Fields(line); len(f) > 1 {
			status = f[1]
		}
	} else if len(answer) > 0 {
		status = "garbled"
	}
	switch {
	case through == 1:
		return "accepts"
	case through > 1:
		return fmt.Sprintf("accepts %d", through)
	}
	return status
}

// TestVerdicts lists every vector of the corpus with what this engine, Go's net/http, nginx and
// HAProxy say to it, in docs/smuggling.md. Other versions of the others may differ, so only our
// column is held against the file.
func TestVerdicts(t *testing.T) {
	hops := []struct {
		name string
		run  func(seen *sightings) string
	}{
		{"isthmus", func(seen *sightings) string { return engine(t, seen, "") }},
		{"net/http", func(seen *sightings) string { return netHTTP(t, seen) }},
		{"nginx", func(seen *sightings) string { return nginx(t, netHTTP(t, seen), false) }},
		{"HAProxy", func(seen *sightings) string { return haproxy(t, netHTTP(t, seen), false) }},
	}
	seen := make([]sightings, len(hops))
	var at []string
	for i, h := range hops {
		at = append(at, h.run(&seen[i]))
		if !*updateVerdicts {
			break
		}
	}
	var b strings.Builder
	b.WriteString("# Verdicts on the corpus of requests\n\nEvery vector of [requests.txt](../dataplane/http1/testdata/requests.txt) and what each hop says to it: `accepts` means that one\n" +
		"request reached the hop behind, a number how many, a status that it was refused. Where two hops accept the same bytes,\n" +
		"`TestNoTwoHopsDisagreeOnBorders` proves that they see the same requests in them. Written by\n`go test ./dataplane/http1 -run TestVerdicts -verdicts` with nginx 1.22 and HAProxy 2.6; the first column is checked by the test.\n\n" +
		"| line | RFC | what | isthmus | net/http | nginx | HAProxy |\n|---|---|---|---|---|---|---|\n")
	prefixes := map[int]string{}
	for _, v := range corpus.Read(t, "testdata/requests.txt", 4) {
		prefixes[v.Line] = fmt.Sprintf("| %d | %s | %s | ", v.Line, v.Columns[1], strings.ReplaceAll(v.Columns[2], "|", `\|`))
		b.WriteString(prefixes[v.Line])
		for i := range at {
			said := verdict(t, at[i], v.Bytes, &seen[i])
			if i == 0 {
				prefixes[v.Line] += said + " |"
			}
			b.WriteString(said + " | ")
		}
		b.WriteString("\n")
	}
	const file = "../../docs/smuggling.md"
	if *updateVerdicts {
		text := strings.ReplaceAll(b.String(), " | \n", " |\n")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	written := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if cells := strings.SplitAfterN(lines.Text(), "|", 6); len(cells) == 6 {
			written[strings.Join(cells[:5], "")] = true
		}
	}
	for _, p := range prefixes {
		if !written[p] {
			t.Errorf("docs/smuggling.md has no line that begins %q: run this test with -verdicts", p)
		}
	}
}

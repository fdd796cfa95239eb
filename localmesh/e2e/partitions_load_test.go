package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
)

// mixedLoad sends requests at a fixed rate, whatever becomes of the earlier ones; every tenth is a POST.
type mixedLoad struct {
	begin time.Time
	stop  func()

	mu  sync.Mutex
	all []mixed
}

// mixed is one request; times count from the load's beginning. failed is its method and the reason, "" where it was served.
type mixed struct {
	begin, took time.Duration
	post        bool
	cluster     string
	failed      string
}

func (m *meshUnder) mixed(cluster int, url string, rate int) *mixedLoad {
	l := &mixedLoad{begin: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	client := m.shell(cluster)
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			timer := time.NewTimer(time.Until(l.begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			all.Go(func() {
				s := mixed{begin: l.now(), post: i%10 == 9}
				s.cluster, s.failed = send(client, url, s.post)
				s.took = l.now() - s.begin
				if s.failed == "" && s.took > failedAfter {
					s.failed = map[bool]string{false: "GET", true: "POST"}[s.post] + " answered after more than 5 s"
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.all = append(l.all, s)
			})
		}
	})
	l.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		client.CloseIdleConnections()
	})
	return l
}

// send is one request: who served it, or why nobody did.
func send(c *http.Client, url string, post bool) (cluster, failed string) {
	method, body := http.MethodGet, io.Reader(nil)
	if post {
		method, body = http.MethodPost, strings.NewReader("x")
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return "", err.Error()
	}
	resp, err := c.Do(req)
	if err != nil {
		for inner := err; inner != nil; inner = errors.Unwrap(inner) {
			err = inner
		}
		return "", method + " " + err.Error()
	}
	defer resp.Body.Close()
	var a answer
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", method + " " + err.Error()
	}
	_ = json.Unmarshal(b, &a) // a refusal is for people
	if resp.StatusCode != http.StatusOK {
		return a.Cluster, fmt.Sprintf("%s %d %s", method, resp.StatusCode, resp.Header.Get("isthmus-reason"))
	}
	return a.Cluster, ""
}

// now is the time on the load's clock.
func (l *mixedLoad) now() time.Duration { return time.Since(l.begin) }

// samples are the requests that began in [from, to) and have ended.
func (l *mixedLoad) samples(from, to time.Duration) (out []mixed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if s.begin >= from && s.begin < to {
			out = append(out, s)
		}
	}
	return out
}

// movesTo waits until all answers of a second come from a cluster.
func (l *mixedLoad) movesTo(t *testing.T, cluster string, within time.Duration) {
	t.Helper()
	eventually(t, within, "traffic moves to "+cluster, func() (string, bool) {
		s := l.samples(l.now()-time.Second, l.now())
		n := len(slices.DeleteFunc(slices.Clone(s), func(x mixed) bool { return x.cluster != cluster }))
		return fmt.Sprintf("%d of %d", n, len(s)), n >= 200 && n == len(s)
	})
}

// fill makes a file that takes all space there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 1<<12; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// worst is the longest of what f says of each, in seconds.
func worst(of []*outcome, f func(*outcome) time.Duration) float64 {
	most := math.Inf(-1)
	for _, o := range of {
		most = max(most, f(o).Seconds())
	}
	return most
}

// Markers of what is written in docs/reliability.md.
const (
	tableBegin = "<!-- partitions: written by make bench-partitions -->"
	tableEnd   = "<!-- end of partitions -->"
)

// writePartitions writes the table between its markers, and the figures for machines.
func writePartitions(r *report.Report, docs string, kinds []partition, results map[string][]*outcome) error {
	var b strings.Builder
	b.WriteString("| fault of us-east | requests: GET, POST | failed | slowest GET | moved | who knew, when | serves again | in sync |\n|---|---|---|---|---|---|---|---|\n")
	for _, p := range kinds {
		of := results[p.name]
		if len(of) == 0 {
			continue
		}
		b.WriteString(line(p, of) + "\n")
		if p.law != "" {
			continue // what it costs to be without is no figure of ours
		}
		add := func(what string, f func(*outcome) time.Duration) report.Row {
			var values []float64
			for _, o := range of {
				values = append(values, f(o).Seconds())
			}
			return report.Row{Row: p.name + "/" + what, Unit: "s"}.Of(values)
		}
		moved := add("moved", func(o *outcome) time.Duration { return o.moved })
		if p.moves {
			r.Rows = append(r.Rows, moved.Within(p.within.Seconds()))
		}
		r.Rows = append(r.Rows, add("back", func(o *outcome) time.Duration { return o.back }), add("in-sync", func(o *outcome) time.Duration { return o.synced }).Within(5))
		if p.deletes {
			r.Rows = append(r.Rows, add("deleted-gone", func(o *outcome) time.Duration { return o.deleted }).Within(2))
		}
	}
	path := filepath.Join(docs, "reliability.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table: %s … %s", path, tableBegin, tableEnd)
	}
	if err := os.WriteFile(path, []byte(before+tableBegin+"\n"+b.String()+tableEnd+after), 0o644); err != nil {
		return err
	}
	return r.WriteResults(filepath.Join(docs, "..", "bench", "results"))
}

// line is a row of the table: sums of requests, the worst of the rounds of all else.
func line(p partition, of []*outcome) string {
	gets, posts := 0, 0
	failed, knew := map[string]int{}, map[string]float64{}
	for _, o := range of {
		gets, posts = gets+o.gets, posts+o.posts
		for why, n := range o.failed {
			failed[why] += n
		}
		for said, at := range o.knew {
			knew[said] = max(knew[said], at.Seconds())
		}
	}
	failures := "none"
	if len(failed) > 0 {
		var parts []string
		for _, why := range sorted(failed) {
			parts = append(parts, fmt.Sprintf("%d %s", failed[why], why))
		}
		failures = strings.Join(parts, ", ")
	}
	moved := "stays"
	if p.moves {
		moved = fmt.Sprintf("%.1f s (%g)", worst(of, func(o *outcome) time.Duration { return o.moved }), p.within.Seconds())
	}
	back := fmt.Sprintf("%.1f s", worst(of, func(o *outcome) time.Duration { return o.back }))
	if !p.moves {
		back = "–"
	}
	var who []string
	for _, said := range p.sees {
		pair, state, _ := strings.Cut(said, "=")
		if from, to, path := strings.Cut(pair, ">"); path {
			who = append(who, fmt.Sprintf("%s: %s is %s, %.1f s", from, to, state, knew[said]))
		} else {
			from, to, _ := strings.Cut(pair, ":")
			who = append(who, fmt.Sprintf("%s's verdict of %s: %s, %.1f s", from, to, state, knew[said]))
		}
	}
	if len(who) == 0 {
		who = append(who, "none: nothing that others need is lost")
	}
	what := p.what
	if p.deletes {
		what += fmt.Sprintf("; an endpoint deleted meanwhile is gone everywhere %.2f s after healing (2)", worst(of, func(o *outcome) time.Duration { return o.deleted }))
	}
	return fmt.Sprintf("| %s | %d, %d | %s | %.1f s | %s | %s | %s | %.1f s |", what, gets, posts, failures, worst(of, func(o *outcome) time.Duration { return o.slowest }), moved,
		strings.Join(who, "; "), back, worst(of, func(o *outcome) time.Duration { return o.synced }))
}

func sorted(m map[string]int) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

var (
	// attackTime is how long each attack lasts, in slots between which all is calm for as long. The figures of
	// docs/security.md are of 60s.
	attackTime = flag.Duration("attack", 2*time.Second, "how long each attack lasts, without the calm between")
	attackJSON = flag.String("attack-json", "", "where to write what each attack cost, a JSON object a line")
	// attackProfiles is a directory for profiles of the proxy under each attack, of its processor time and its heap.
	attackProfiles = flag.String("attack-profiles", "", "where to put profiles of the attacked proxy")
)

// slotMost is how long an attack goes on without a pause, and guard how much of the beginning of a slot does not count:
// what was begun under the attack ends in the calm.
const slotMost = 2 * time.Second

func guard(slot time.Duration) time.Duration { return slot / 8 }

// cost is what an attack cost the proxy, and the honest client beside it.
type cost struct {
	Attack string `json:"attack"`
	// Made are the attacker's connections, Refused those that the proxy did not take, Ended those that it ended.
	Made    int `json:"made"`
	Refused int `json:"refused"`
	Ended   int `json:"ended"`
	// Core is the share of a core that the proxy used in the attack, less that of the calm, which is Calm; in percent.
	Core float64 `json:"core_percent"`
	Calm float64 `json:"calm_core_percent"`
	// Memory is how much the resident memory grew at most, in MiB.
	Memory float64 `json:"memory_mib"`
	// P50 and P99 are the honest client's latencies under attack, each beside that of the calm, in milliseconds.
	P50  [2]float64 `json:"p50_ms"`
	P99  [2]float64 `json:"p99_ms"`
	Many [2]int     `json:"requests"`
	// Ratio is that of the 99th percentiles.
	Ratio float64 `json:"p99_ratio"`
}

// TestAttacks runs each attack against a sidecar or a gateway while an honest client goes on
// beside it: nobody else's request fails, memory is bounded, floods are ended and logged. Attack and calm take turns, so
// that what else the machine does is the same for both: what the attack does to the honest client's
// latency, and what it costs, is the difference, which is printed.
func TestAttacks(t *testing.T) {
	m := newMesh(t, 130)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	gone := m.join(t, 1, mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "gone-bad"})
	sni := mesh.SNI{Service: mesh.ServiceName{Namespace: "demo", Name: "echo"}, TrustDomain: "us-east.isthmus.local"}.String()
	dial := map[int]func() (net.Conn, error){
		15008: func() (net.Conn, error) {
			return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", m.address(1, 1, 1, 15008), &tls.Config{ServerName: sni,
				NextProtos: []string{interProxy}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{gone}})
		},
		15001: func() (net.Conn, error) { return net.DialTimeout("tcp", m.address(0, 0, 1, 15001), 5*time.Second) },
		15443: func() (net.Conn, error) { return net.DialTimeout("tcp", m.address(1, 0, 3, 15443), 5*time.Second) },
	}
	victim := map[int]string{15008: "us-east.demo.echo-0.sidecar", 15001: "eu-west.shell", 15443: "us-east.gateway"}
	client := m.shell(0)
	for range 20 { // connections are there and caches are warm
		if a := get(client, echo+"/"); a.Status != 200 {
			t.Fatal(a)
		}
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			name := victim[a.at]
			past := len(m.log(name))
			c := m.under(t, a, dial[a.at], name)
			t.Logf("%d connections made, %d refused, %d ended by the proxy; %.1f %% of a core above the %.1f %% of the calm, memory +%.1f MiB at most; honest p50 %.2f ms (calm %.2f), p99 %.2f ms (calm %.2f): %.2f times",
				c.Made, c.Refused, c.Ended, c.Core, c.Calm, c.Memory, c.P50[0], c.P50[1], c.P99[0], c.P99[1], c.Ratio)
			c.write(t)
			if c.Memory > 48 {
				t.Errorf("the proxy grew by %.1f MiB", c.Memory)
			}
			if a.ends && c.Ended == 0 {
				t.Errorf("none of %d connections was ended by the proxy", c.Made)
			}
			if a.logs != "" {
				m.says(t, name, past, 2*time.Second, a.logs)
			}
		})
	}
}

// under has an attack and calm take turns beside an honest client.
func (m *meshUnder) under(t *testing.T, a attack, dial func() (net.Conn, error), name string) cost {
	pids := m.pids("/" + name)
	if len(pids) != 1 {
		t.Fatalf("%d processes of %s", len(pids), name)
	}
	pid := pids[0]
	slot := min(slotMost, *attackTime/2)
	rounds := max(1, int(*attackTime/slot))
	c := cost{Attack: a.name}
	profiled := m.profile(t, name, a.name, 2*slot*time.Duration(rounds))
	l := m.load(0, echo+"/", 100)
	_, rss := usage(t, pid)
	most := rss
	var used [2]time.Duration // in attack and in calm
	var wall [2]time.Duration
	var spans [2][][2]time.Duration
	for range rounds {
		for calm := range 2 {
			cpu, _ := usage(t, pid)
			begin := time.Now()
			end := begin.Add(slot)
			over := make(chan struct{})
			if calm == 0 {
				go func() { c.attack(a, dial, end); close(over) }()
			} else {
				time.AfterFunc(slot, func() { close(over) })
			}
			for going := true; going; {
				select {
				case <-over:
					going = false
				case <-time.After(50 * time.Millisecond):
				}
				_, now := usage(t, pid)
				most = max(most, now)
			}
			cpu2, _ := usage(t, pid)
			used[calm] += cpu2 - cpu
			wall[calm] += time.Since(begin)
			spans[calm] = append(spans[calm], [2]time.Duration{begin.Add(guard(slot)).Sub(l.begin), time.Since(l.begin)})
		}
	}
	l.stop().mustNotFail(t)
	profiled()
	took := [2][]time.Duration{l.within(spans[0]), l.within(spans[1])}
	percent := func(i int) float64 { return 100 * used[i].Seconds() / wall[i].Seconds() }
	c.Calm, c.Core = percent(1), percent(0)-percent(1)
	c.Memory = float64(most-rss) / (1 << 20)
	for i, d := range took {
		c.Many[i], c.P50[i], c.P99[i] = len(d), at(d, 50), at(d, 99)
	}
	if c.P99[1] > 0 {
		c.Ratio = c.P99[0] / c.P99[1]
	}
	return c
}

// attack attacks until end. One who was thrown out comes back, but not faster than anybody could be let in.
func (c *cost) attack(a attack, dial func() (net.Conn, error), end time.Time) {
	var mu sync.Mutex
	var attackers sync.WaitGroup
	for range a.conns {
		attackers.Go(func() {
			for time.Now().Before(end) {
				conn, err := dial()
				if err == nil {
					_ = conn.SetDeadline(end)
					a.run(conn)
					conn.Close()
				}
				mu.Lock()
				switch {
				case err != nil:
					c.Refused++
				case time.Now().Before(end):
					c.Ended++
					fallthrough
				default:
					c.Made++
				}
				mu.Unlock()
				<-time.After(min(500*time.Millisecond, max(0, time.Until(end))))
			}
		})
	}
	attackers.Wait()
}

// profile takes profiles of a proxy for so long; the returned function waits for them.
func (m *meshUnder) profile(t *testing.T, process, attack string, d time.Duration) (wait func()) {
	if *attackProfiles == "" {
		return func() {}
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, attack)
	var all sync.WaitGroup
	fetch := func(query, kind string) {
		ctx, stop := context.WithTimeout(context.Background(), d+20*time.Second)
		defer stop()
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+m.admin(process)+"/debug/pprof/"+query, nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("profile %s: %v", process, err)
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil {
			err = os.WriteFile(filepath.Join(*attackProfiles, clean+"."+kind+".pprof"), b, 0o644)
		}
		if err != nil {
			t.Errorf("profile %s: %v", process, err)
		}
	}
	all.Go(func() { fetch(fmt.Sprintf("profile?seconds=%d", max(1, int(d.Seconds()))), "cpu") })
	all.Go(func() {
		<-time.After(min(slotMost, *attackTime/2) * 3 / 4) // late in the first slot of the attack
		fetch("heap?gc=1", "heap")
	})
	return all.Wait
}

// write appends the cost to the file that was asked for.
func (c cost) write(t *testing.T) {
	if *attackJSON == "" {
		return
	}
	b, err := json.Marshal(c)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(*attackJSON, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	}
	if err == nil {
		_, err = f.Write(append(b, '\n'))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		t.Errorf("write what the attack cost: %v", err)
	}
}

// within returns the latencies, in order, of the requests that began in one of the spans.
func (l *load) within(spans [][2]time.Duration) []time.Duration {
	var out []time.Duration
	for _, s := range l.all {
		if slices.ContainsFunc(spans, func(span [2]time.Duration) bool { return s.begin >= span[0] && s.begin < span[1] }) {
			out = append(out, s.took)
		}
	}
	slices.Sort(out)
	return out
}

// at is a percentile of sorted values, in milliseconds.
func at(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, len(sorted)*percent/100)].Microseconds()) / 1000
}

// usage is the CPU time that a process has used, and its resident memory in bytes.
func usage(t *testing.T, pid int) (cpu time.Duration, rss int64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatalf("the proxy is gone: %v", err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:])) // from the state on, field 3 of proc(5)
	var ticks int64
	for _, i := range []int{11, 12} { // utime, stime, in hundredths of a second
		n, _ := strconv.ParseInt(f[i], 10, 64)
		ticks += n
	}
	pages, _ := strconv.ParseInt(f[21], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, pages * int64(os.Getpagesize())
}

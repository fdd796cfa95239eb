package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
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
	"github.com/isthmus-mesh/isthmus/trust"
)

var (
	// attackTime is how long each attack lasts, in slots between which all is calm for as long. The figures of
	// docs/security.md are of 60s.
	attackTime = flag.Duration("attack", 2*time.Second, "how long each attack lasts, without the calm between")
	attackJSON = flag.String("attack-json", "", "where to write what each attack cost, as JSON")
	// attackTable is for docs/security.md.
	attackTable = flag.String("attack-table", "", "where to write what each attack cost, as a table of Markdown")
	// attackProfiles is a directory for profiles of the proxy under each attack, of its processor time and its heap.
	attackProfiles = flag.String("attack-profiles", "", "where to put profiles of the attacked proxy")
)

// slotMost is how long an attack goes on without a pause, and guard how much of the beginning of a slot does not count:
// what was begun under the attack ends in the calm.
const slotMost = 2 * time.Second

// yieldFrom is how long attacks last where figures are wanted.
const yieldFrom = 8 * time.Second

func guard(slot time.Duration) time.Duration { return slot / 8 }

// TestAttacks runs each attack against a sidecar or a gateway while an honest client goes on
// beside it: nobody else's request fails, memory is bounded, floods are ended and logged. Attack and calm take turns, so
// that what else the machine does is the same for both: what the attack does to the honest client's
// latency, and what it costs, is the difference, which is printed. In a measurement the attackers are a process that gets only
// what processor time nobody else wants: the honest client waits for the proxy, and not for them.
func TestAttacks(t *testing.T) {
	m := newMesh(t, 130)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	gone := m.join(t, 1, mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "gone-bad"})
	key, err := gone.PrivateKey.(trust.PrivateKey).Reveal()
	if err != nil {
		t.Fatal(err)
	}
	sni := mesh.SNI{Service: mesh.ServiceName{Namespace: "demo", Name: "echo"}, TrustDomain: "us-east.isthmus.local"}.String()
	target := map[int]order{
		15008: {Address: m.address(1, 1, 1, 15008), SNI: sni, Chain: gone.Certificate, Key: key},
		15001: {Address: m.address(0, 0, 1, 15001)},
		15443: {Address: m.address(1, 0, 3, 15443)},
	}
	victim := map[int]string{15008: "us-east.demo.echo-0.sidecar", 15001: "eu-west.shell", 15443: "us-east.gateway"}
	client := m.shell(0)
	for range 20 { // connections are there and caches are warm
		if a := get(client, echo+"/"); a.Status != 200 {
			t.Fatal(a)
		}
	}
	all := newBill()
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			name := victim[a.at]
			past := len(m.log(name))
			o := target[a.at]
			o.Attack, o.Yield = i, *attackTime >= yieldFrom
			c := m.under(t, a, o, name)
			t.Log(c)
			all.add(t, c)
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

// under has calm and an attack take turns beside an honest client.
func (m *meshUnder) under(t *testing.T, a attack, o order, name string) cost {
	pids := m.pids("/" + name)
	if len(pids) != 1 {
		t.Fatalf("%d processes of %s", len(pids), name)
	}
	pid := pids[0]
	slot := min(slotMost, *attackTime/2)
	rounds := max(1, int(*attackTime/slot))
	c := cost{Attack: a.name}
	against := hire(t, o)
	profiled := m.profile(t, name, a.name, 2*slot*time.Duration(rounds))
	l := m.load(0, echo+"/", 100)
	// Memory is counted from the most that there was in the first calm on.
	var most [2]int64
	var used, wall [2]time.Duration // in calm and in attack
	var spans [2][][2]time.Duration
	for round := range rounds {
		for attacked := range 2 {
			cpu, _ := usage(t, pid)
			begin := time.Now()
			over := make(chan struct{})
			if attacked == 1 {
				go func() { c.attacked(t, against, slot); close(over) }()
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
				most[min(1, round+attacked)] = max(most[min(1, round+attacked)], now)
			}
			cpu2, _ := usage(t, pid)
			used[attacked] += cpu2 - cpu
			wall[attacked] += time.Since(begin)
			spans[attacked] = append(spans[attacked], [2]time.Duration{begin.Add(guard(slot)).Sub(l.begin), time.Since(l.begin)})
		}
	}
	l.stop().mustNotFail(t)
	profiled()
	percent := func(i int) float64 { return 100 * used[i].Seconds() / wall[i].Seconds() }
	c.Calm, c.Core = percent(0), percent(1)-percent(0)
	c.Attacker = 100 * c.attacker.Seconds() / wall[1].Seconds()
	c.Memory = max(0, float64(most[1]-most[0])/(1<<20))
	c.latencies(l.within(spans[1]), l.within(spans[0]))
	return c
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
		<-time.After(min(slotMost, *attackTime/2) * 7 / 4) // late in the first slot of the attack
		fetch("heap?gc=1", "heap")
	})
	return all.Wait
}

// within returns the latencies of the requests that began in each of the spans.
func (l *load) within(spans [][2]time.Duration) [][]time.Duration {
	out := make([][]time.Duration, len(spans))
	for _, s := range l.all {
		if i := slices.IndexFunc(spans, func(span [2]time.Duration) bool { return s.begin >= span[0] && s.begin < span[1] }); i >= 0 {
			out[i] = append(out[i], s.took)
		}
	}
	return out
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

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// What an attack may cost: a share of a core in percent, memory in MiB, and the honest client's 99th percentile in times
// that of the calm.
const (
	coreMost   = 5
	memoryMost = 4
	ratioMost  = 1.5
)

// cost is what an attack cost the proxy, and the honest client beside it.
type cost struct {
	Attack string `json:"attack"`
	// Made are the attacker's connections, Refused those that the proxy did not take, Ended those that it ended.
	Made    int `json:"made"`
	Refused int `json:"refused"`
	Ended   int `json:"ended"`
	// Core is the share of a core that the proxy used in the attack, less that of the calm, which is Calm; in percent.
	// Attacker is that of the attackers.
	Core     float64 `json:"core_percent"`
	Calm     float64 `json:"calm_core_percent"`
	Attacker float64 `json:"attacker_core_percent"`
	attacker time.Duration
	// Memory is how much the resident memory grew at most, above the most of the first calm, in MiB.
	Memory float64 `json:"memory_mib"`
	// P50 and P99 are the honest client's latencies under attack, each beside that of the calm, in milliseconds.
	P50  [2]float64 `json:"p50_ms"`
	P99  [2]float64 `json:"p99_ms"`
	Many [2]int     `json:"requests"`
	// Ratio is that of the 99th percentiles, and Within where it lies in nine of ten drawings of as many slots
	// from those of the run, with replacement: what chance alone would make of it.
	Ratio  float64    `json:"p99_ratio"`
	Within [2]float64 `json:"p99_ratio_within"`
	// Missed are the promises that do not hold: "core", "memory", "p99".
	Missed []string `json:"missed"`
}

// latencies takes those of each slot.
func (c *cost) latencies(attack, calm [][]time.Duration) {
	for i, slots := range [2][][]time.Duration{attack, calm} {
		all := slices.Concat(slots...)
		slices.Sort(all)
		c.Many[i], c.P50[i], c.P99[i] = len(all), at(all, 50), at(all, 99)
	}
	c.Ratio = ratio(c.P99[0], c.P99[1])
	draw := rand.New(rand.NewPCG(1, uint64(len(attack))))
	p99 := func(slots [][]time.Duration) float64 {
		var all []time.Duration
		for range slots {
			all = append(all, slots[draw.IntN(len(slots))]...)
		}
		slices.Sort(all)
		return at(all, 99)
	}
	const draws = 200
	var ratios []float64
	for range draws {
		ratios = append(ratios, ratio(p99(attack), p99(calm)))
	}
	slices.Sort(ratios)
	c.Within = [2]float64{ratios[draws/20], ratios[draws-1-draws/20]}
	c.Missed = []string{}
	for _, promise := range []struct {
		name      string
		got, most float64
	}{{"core", c.Core, coreMost}, {"memory", c.Memory, memoryMost}, {"p99", c.Ratio, ratioMost}} {
		if promise.got > promise.most {
			c.Missed = append(c.Missed, promise.name)
		}
	}
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// at is a percentile of sorted values, in milliseconds.
func at(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, len(sorted)*percent/100)].Microseconds()) / 1000
}

func (c cost) String() string {
	verdict := "all promises hold"
	if len(c.Missed) > 0 {
		verdict = "MISSED: " + strings.Join(c.Missed, ", ")
	}
	return fmt.Sprintf("%d connections made, %d refused, %d ended by the proxy; %.1f %% of a core (at most %d) above the %.1f %% of the calm, attackers %.0f %%; "+
		"memory +%.1f MiB (at most %d); honest p50 %.2f ms (calm %.2f), p99 %.2f ms (calm %.2f): %.2f times (at most %.1f; by chance %.2f to %.2f); %d and %d requests; %s",
		c.Made, c.Refused, c.Ended, c.Core, coreMost, c.Calm, c.Attacker, c.Memory, memoryMost, c.P50[0], c.P50[1], c.P99[0], c.P99[1], c.Ratio, ratioMost,
		c.Within[0], c.Within[1], c.Many[0], c.Many[1], verdict)
}

// bill is a run of all attacks.
type bill struct {
	Begun   time.Time `json:"begun"`
	Seconds float64   `json:"seconds"` // each attack, without the calm
	Cores   int       `json:"cores"`
	Load    string    `json:"load"` // of /proc/loadavg, when it began
	Rows    []cost    `json:"attacks"`
}

func newBill() *bill {
	load, _ := os.ReadFile("/proc/loadavg")
	return &bill{Begun: time.Now().UTC(), Seconds: attackTime.Seconds(), Cores: runtime.NumCPU(), Load: strings.TrimSpace(string(load))}
}

// add takes one more, and writes the files that were asked for anew: a run that is broken off leaves what it had.
func (r *bill) add(t *testing.T, c cost) {
	r.Rows = append(r.Rows, c)
	put := func(path string, b []byte) {
		if path == "" {
			return
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Errorf("write what attacks cost: %v", err)
		}
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Errorf("write what attacks cost: %v", err)
	}
	put(*attackJSON, append(b, '\n'))
	put(*attackTable, []byte(r.table()))
}

// table is the bill for people.
func (r *bill) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| attack | %% of a core | memory, MiB | honest p50, times the calm | honest p99, times the calm (by chance) | p99 of the calm, ms | requests | missed |\n"+
		"|---|---|---|---|---|---|---|---|\n")
	for _, c := range r.Rows {
		missed := strings.Join(c.Missed, ", ")
		if missed == "" {
			missed = "–"
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.2f | %.2f (%.2f to %.2f) | %.1f | %d, %d | %s |\n", c.Attack, max(0, c.Core), c.Memory, ratio(c.P50[0], c.P50[1]),
			c.Ratio, c.Within[0], c.Within[1], c.P99[1], c.Many[0], c.Many[1], missed)
	}
	return b.String()
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// rate is of the open loop, in requests a second.
const rate = 2000

// latency compares what the pairs add to an open loop straight to the application.
func (b *bench) latency(ctx context.Context, s *stage) error {
	get := load.Get(path, host)
	ways := []*way{
		{name: "straight", Way: load.Way{Target: fmt.Sprintf("%s:%d", s.app, rig.AppHTTP), Request: get}},
		{name: "sidecars", Way: load.Way{Target: s.ours.at["near"], Request: get}},
	}
	peer := s.haproxy.ofPair(rig.PortH2, get, ", h2")
	if peer.missing == "" {
		ways = append(ways, peer)
	}
	b.Say("latency at %d requests a second: %d turns of %s, %d ways", rate, b.size.turns, b.size.turn, len(ways))
	p50, p99 := make([][]float64, len(ways)), make([][]float64, len(ways))
	for turn := range b.size.turns {
		for k := range ways {
			i := (turn + k) % len(ways)
			took, err := b.turn(ctx, &ways[i].Way)
			if err != nil {
				return fmt.Errorf("latency of %s: %w", ways[i].name, err)
			}
			p50[i] = append(p50[i], report.Milliseconds(report.Quantile(took, 0.50)))
			p99[i] = append(p99[i], report.Milliseconds(report.Quantile(took, 0.99)))
		}
	}
	load := fmt.Sprintf(" at %d requests a second, open loop, from the intended start", rate)
	for _, q := range []struct {
		row, title string
		values     [][]float64
		target     float64
	}{
		{"added-p50-ms", "p50 added by a pair of sidecars over mTLS" + load, p50, 0.25}, {"added-p99-ms", "p99 added by the same", p99, 0},
	} {
		added := make([][]float64, len(ways)-1)
		for i := range added {
			for j, v := range q.values[i+1] {
				added[i] = append(added[i], v-q.values[0][j])
			}
		}
		r := report.Row{Row: q.row, Unit: "ms", Title: q.title}.Of(added[0])
		if len(added) > 1 {
			r = r.Against(peer.name, added[1])
		} else {
			r.Reason = "no ratio: " + peer.missing
		}
		if q.target > 0 {
			r = r.Within(q.target)
		}
		b.Add(r)
	}
	return nil
}

// turn is one turn of the open loop over fresh connections.
func (b *bench) turn(ctx context.Context, w *load.Way) ([]time.Duration, error) {
	cs, err := load.DialAll(ctx, 2*connections, w)
	if err != nil {
		return nil, err
	}
	defer load.CloseAll(cs)
	if _, err := load.ClosedLoop(cs, 4*len(cs), roundMax); err != nil { // connections behind are open then
		return nil, err
	}
	return load.OpenLoop(ctx, cs, rate, b.size.turn)
}

// allocations counts what both sidecars allocate for a request in steady state.
func (b *bench) allocations(ctx context.Context, s *stage) error {
	w := &load.Way{Target: s.ours.at["near"], Request: load.Get(path, host)}
	cs, err := load.DialAll(ctx, connections, w)
	if err != nil {
		return err
	}
	defer load.CloseAll(cs)
	if _, err := load.ClosedLoop(cs, 10_000, roundMax); err != nil {
		return err
	}
	before, err := mallocs(ctx, s.ours.admins)
	if err != nil {
		return err
	}
	began := time.Now()
	done, err := load.ClosedLoop(cs, b.size.requests, 2*time.Minute)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := mallocs(ctx, s.ours.admins)
	if err != nil {
		return err
	}
	// What the proxies allocate beside requests, and to answer us, is not a request's.
	if err := rig.Pause(ctx, min(took, 5*time.Second)); err != nil {
		return err
	}
	idle, err := mallocs(ctx, s.ours.admins)
	if err != nil {
		return err
	}
	each := max(float64(after-before)-float64(idle-after), 0) / float64(max(done, 1))
	each, err = strconv.ParseFloat(strconv.FormatFloat(each, 'f', 2, 64), 64)
	b.Add(report.Row{Row: "allocs", Unit: "allocations", Title: fmt.Sprintf("allocations a request, both sidecars together, over %d requests", done)}.
		Of([]float64{each}).Within(0))
	return err
}

// mallocs adds up what processes have allocated since they started, as their heap profiles
// tell.
func mallocs(ctx context.Context, admins []string) (uint64, error) {
	var sum uint64
	for _, admin := range admins {
		var text bytes.Buffer
		if err := rig.Fetch(ctx, admin+"/debug/pprof/heap?debug=1", &text); err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(text.String(), "\n# Mallocs = ")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseUint(line, 10, 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("%s tells no mallocs", admin)
		}
		sum += n
	}
	return sum, nil
}

// memory reads the RSS of an isthmus-proxy of its own, alone and with idle connections that
// have each carried a request, beside the same of the peers.
func (b *bench) memory(ctx context.Context, s *stage) (err error) {
	p, own, err := s.ours.mesh.IdleProxy(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.End()) }()
	if err := rig.Pause(ctx, b.size.settle); err != nil {
		return err
	}
	out := fmt.Sprintf("%s:%d", s.app, rig.AppHTTP)
	holders := []*holder{{way: way{name: "isthmus-proxy", pids: []int{p.PID()},
		Way: load.Way{Target: own.String() + ":15001", Request: load.Get("http://"+out+path, out)}}}}
	for _, r := range s.singles(rig.PortSingle, load.Get(path, host)) {
		if r.missing == "" {
			holders = append(holders, &holder{way: *r})
		}
	}
	counts := []int{0, 1000, 10_000}
	for _, n := range counts {
		b.Say("memory with %d idle connections", n)
		for _, h := range holders {
			if err := h.hold(ctx, n, b.size.settle); err != nil {
				return fmt.Errorf("memory of %s with %d connections: %w", h.name, n, err)
			}
		}
	}
	for i, n := range counts {
		r := report.Row{Row: "rss-idle-mib", Unit: "MiB", Title: "RSS of an idle `isthmus-proxy`"}
		if n > 0 {
			r.Row, r.Title = fmt.Sprintf("rss-idle-%d-mib", n), fmt.Sprintf("the same with %d idle connections of HTTP/1.1 from clients, each of which has carried a request", n)
		} else {
			r = r.Within(20)
		}
		b.Add(against(r, holders, func(h *holder) float64 { return h.rss[i] / 1024 }))
	}
	last := len(counts) - 1
	b.Add(against(report.Row{Row: "kib-per-idle-conn", Unit: "KiB", Title: "memory for one of them"}, holders, func(h *holder) float64 {
		return (h.rss[last] - h.rss[1]) / float64(counts[last]-counts[1])
	}).Within(5))
	return nil
}

// holder is a proxy that holds idle connections.
type holder struct {
	way
	rss []float64 // KiB
}

func against(r report.Row, holders []*holder, of func(*holder) float64) report.Row {
	r = r.Of([]float64{of(holders[0])})
	if len(holders) < 2 {
		r.Reason = "no ratio: there is no peer here"
		return r
	}
	best, others := holders[1], ""
	for _, h := range holders[2:] {
		if of(h) < of(best) {
			best, h = h, best
		}
		others += fmt.Sprintf("; %s: %.3g %s", h.name, of(h), r.Unit)
	}
	return r.Against(best.name+others, []float64{of(best)})
}

// hold opens n connections, uses each once, waits and reads.
func (h *holder) hold(ctx context.Context, n int, settle time.Duration) error {
	if n > 0 {
		cs, err := load.DialAll(ctx, n, &h.Way)
		if err != nil {
			return err
		}
		defer load.CloseAll(cs)
		if err := load.Each(cs); err != nil {
			return err
		}
		if err := rig.Pause(ctx, settle); err != nil {
			return err
		}
	}
	rss, err := rig.KiB("status", "VmRSS", h.pids...)
	h.rss = append(h.rss, rss)
	return err
}

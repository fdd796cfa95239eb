package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// metricsPort is where a control plane answers scrapers.
const metricsPort = "15014"

// quietLink measures what two clusters tell each other while nothing changes: heartbeats, digests, reports of no load.
func (b *bench) quietLink(ctx context.Context, p, there *plane) error {
	b.Say("what crosses while nothing changes, for %v", b.size.steady)
	before, err := crossed(ctx, p, there)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := rig.Pause(ctx, b.size.steady); err != nil {
		return err
	}
	return b.crossedSince(ctx, before, began, "P1-quiet-kbs", fmt.Sprintf("nothing changes and %d services are exported", b.size.services), p, there)
}

// crossedSince adds the row of what crossed since then.
func (b *bench) crossedSince(ctx context.Context, before float64, began time.Time, row, while string, planes ...*plane) error {
	after, err := crossed(ctx, planes...)
	if err != nil {
		return err
	}
	b.Add(report.Row{Row: row, Unit: "kB/s", Title: "P1: what control planes of two clusters tell each other, both ways, TLS included, while " + while}.
		Of([]float64{(after - before) / 1000 / time.Since(began).Seconds()}))
	return nil
}

// crossed adds up the octets over the connections that control planes made to their peers.
func crossed(ctx context.Context, planes ...*plane) (sum float64, err error) {
	for _, p := range planes {
		n, err := p.octets(ctx)
		if err != nil {
			return 0, fmt.Errorf("the metrics of a control plane: %w", err)
		}
		sum += n
	}
	return sum, nil
}

func (p *plane) octets(ctx context.Context) (sum float64, err error) {
	at, err := url.Parse(p.door.BaseURL)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(at.Hostname(), metricsPort)+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := p.door.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	found := false
	lines := bufio.NewScanner(io.LimitReader(res.Body, 16<<20))
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), " ")
		family, _, _ := strings.Cut(series, "{")
		if family != "isthmus_peer_received_bytes_total" && family != "isthmus_peer_sent_bytes_total" {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", series, err)
		}
		sum, found = sum+n, true
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("%s counts no octets of peers", req.URL)
	}
	return sum, nil
}

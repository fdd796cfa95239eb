package main

import (
	"fmt"
	"math"
	"strings"
)

// Of a panel, in SVG's pixels; and the figure's ranges.
const (
	panelWidth, panelHeight = 230.0, 150.0
	gapX, gapY              = 62.0, 58.0
	marginLeft, marginTop   = 70.0, 96.0
	secondsMax              = 2.5
	tripsMin, tripsMax      = 1e-3, 1e4 // an hour; fewer are drawn at the bottom
)

// colours are of the rules, in order, and told apart by those who see few.
var colours = map[string]string{
	"one connection":                   "#999999",
	"one connection, one fresh dial":   "#e69f00",
	"two connections":                  "#56b4e9",
	"two connections, one fresh dial":  "#009e73",
	"two connections, two fresh dials": "#d55e00",
}

// plot draws detection time against false trips: a column a loss, a row a round trip, a
// line a rule, a point a margin; and the product's own rule as a black ring.
func plot(g grid, points []point, product []row) string {
	columns, rows := g.losses[1:], g.rtts
	var b strings.Builder
	width := marginLeft + float64(len(columns))*(panelWidth+gapX)
	height := marginTop + float64(len(rows))*(panelHeight+gapY)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%.0f" y="22" font-size="16">Detection of a dead path: time (s, p99; the faint line p50) against false trips an hour</text>`+"\n", marginLeft)
	fmt.Fprintf(&b, `<text x="%.0f" y="40">A question every 250 ms a connection; %d seeds of %v a cell. No trip at all is drawn on the bottom line. Ring: core/liveness itself.</text>`+"\n", marginLeft, g.seeds, g.run)
	for i, r := range rules() {
		x := marginLeft + float64(i)*225
		fmt.Fprintf(&b, `<line x1="%.0f" y1="58" x2="%.0f" y2="58" stroke="%s" stroke-width="3"/><text x="%.0f" y="62">%s</text>`+"\n", x, x+24, colours[r.name], x+30, r.name)
	}
	for i, rtt := range rows {
		for j, loss := range columns {
			x, y := marginLeft+float64(j)*(panelWidth+gapX), marginTop+float64(i)*(panelHeight+gapY)
			name := fmt.Sprintf("%v, %g %%", ms(rtt), loss)
			panel(&b, x, y, name)
			for _, r := range rules() {
				line(&b, x, y, colours[r.name], points, name, r.name)
			}
			for _, r := range product {
				if r.Cell == name && r.Observer == running.String() && r.Fault == blackHole.String() {
					fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="6" fill="none" stroke="black" stroke-width="2"/>`+"\n",
						x+across(r.P99), y+down(float64(r.Trips)/r.Hours))
				}
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func across(milliseconds float64) float64 {
	return math.Min(milliseconds/1000/secondsMax, 1) * panelWidth
}

func down(perHour float64) float64 {
	f := math.Log(math.Max(perHour, tripsMin)/tripsMin) / math.Log(tripsMax/tripsMin)
	return panelHeight * (1 - math.Min(f, 1))
}

func panel(b *strings.Builder, x, y float64, name string) {
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" font-weight="bold">RTT %s loss</text>`+"\n", x, y-6, name)
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.0f" height="%.0f" fill="none" stroke="#444"/>`+"\n", x, y, panelWidth, panelHeight)
	for s := 0.5; s <= secondsMax; s += 0.5 {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%g</text>`+"\n",
			x+across(1000*s), y, x+across(1000*s), y+panelHeight, x+across(1000*s), y+panelHeight+14, s)
	}
	for t := tripsMin; t <= tripsMax*1.01; t *= 10 {
		label := fmt.Sprintf("%g", math.Round(t*1000)/1000)
		if t == tripsMin {
			label = "0"
		}
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#eee"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			x, y+down(t), x+panelWidth, y+down(t), x-4, y+down(t)+4, label)
	}
}

// line draws a rule in a panel, by p99 and faintly by p50.
func line(b *strings.Builder, x, y float64, colour string, points []point, cell, rule string) {
	for _, half := range []bool{true, false} {
		var at []string
		for _, p := range points {
			if p.Cell != cell || p.Rule != rule || p.Period != plotted.String() {
				continue
			}
			ms := p.P99
			if half {
				ms = p.P50
			}
			at = append(at, fmt.Sprintf("%.1f,%.1f", x+across(ms), y+down(p.perHour())))
		}
		opacity := 1.0
		if half {
			opacity = 0.3
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.6" opacity="%.1f"/>`+"\n", strings.Join(at, " "), colour, opacity)
	}
}

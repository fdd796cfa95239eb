package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Of the picture, in SVG's pixels.
const (
	barHeight, barGap  = 16.0, 8.0
	plotLeft, plotWide = 190.0, 480.0
	plotTop            = 64.0
	ratioMax           = 2.0 // what is above is drawn as this
)

// bar is a row in the picture. What is NaN is not drawn.
type bar struct {
	name          string
	value, lo, hi float64
	target        float64
	missed        bool
	note          string
}

// ratioBars are the rows that have a ratio. Left of the line at 1 we are cheaper than the peer.
func (r *Report) ratioBars() (out []bar) {
	for i := range r.Rows {
		one := &r.Rows[i]
		if one.Ratio == nil {
			continue
		}
		peer, _, _ := strings.Cut(one.PeerName, ";") // the table has what the others cost
		b := bar{name: one.Row, value: *one.Ratio, target: math.NaN(), missed: one.missed(), note: number(one.Ratio) + " (" + peer + ")"}
		if b.lo, b.hi = one.ratioRange(); one.Target != nil && one.RatioTarget {
			b.target = *one.Target
		}
		out = append(out, b)
	}
	return out
}

// targetBars are the rows that have a target, as parts of it. Left of the line at 1 it is reached.
func (r *Report) targetBars() (out []bar) {
	for i := range r.Rows {
		one := &r.Rows[i]
		if one.Target == nil || *one.Target <= 0 {
			continue
		}
		v, lo, hi := one.Ours, one.Min, one.Max
		note := number(v) + " of " + number(one.Target) + " " + one.Unit
		if one.RatioTarget {
			v, lo, hi = one.Ratio, nil, nil
			note = number(v) + " of " + number(one.Target)
		} else if one.Ratio != nil {
			note += "; " + number(one.Ratio) + " of " + one.PeerName
		}
		b := bar{name: one.Row, value: *v / *one.Target, lo: math.NaN(), hi: math.NaN(), target: math.NaN(), missed: one.missed(), note: note}
		if lo != nil && hi != nil && *lo < *hi {
			b.lo, b.hi = *lo / *one.Target, *hi / *one.Target
		}
		out = append(out, b)
	}
	return out
}

// missed reports whether a row has a target and is beyond it.
func (r *Row) missed() bool {
	return r.Target != nil && (r.RatioTarget && *r.Ratio > *r.Target || !r.RatioTarget && *r.Ours > *r.Target)
}

// plot draws a bar each, its range over the rounds as a line, its target as a mark.
func (r *Report) plot() string {
	bars, title, mark := r.ratioBars(), "Cost against the peer of the same rounds: ours ÷ theirs, lower is better", " Black mark: target."
	if r.PlotTargets {
		bars, title, mark = r.targetBars(), "Figures as parts of their targets: lower is better, 1 is reached", " In words: the figure, and what part it is of the peer's."
	}
	height := plotTop + float64(len(bars))*(barHeight+barGap) + 30
	at := func(v float64) float64 { return plotLeft + plotWide*min(max(v, 0), ratioMax)/ratioMax }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n", plotLeft+plotWide+250, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n"+
		`<text x="12" y="22" font-size="15">%s</text>`+"\n"+
		`<text x="12" y="40">%s, commit %s. Line through a bar: range over the rounds.%s</text>`+"\n", html.EscapeString(title), html.EscapeString(r.Date[:10]), html.EscapeString(r.Commit), mark)
	for v := 0.0; v <= ratioMax; v += 0.5 {
		colour := "#dddddd"
		if v == 1 {
			colour = "#666666"
		}
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.0f" x2="%.1f" y2="%.0f" stroke="%s"/><text x="%.1f" y="%.0f" text-anchor="middle">%g</text>`+"\n",
			at(v), plotTop-6, at(v), height-24, colour, at(v), height-10, v)
	}
	for i, one := range bars {
		y := plotTop + float64(i)*(barHeight+barGap)
		colour := "#009e73" // told apart from the other by those who see few colours
		if one.missed {
			colour = "#e69f00"
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`, plotLeft-8, y+12, html.EscapeString(one.name))
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="%s"/>`, plotLeft, y, at(one.value)-plotLeft, barHeight, colour)
		if !math.IsNaN(one.lo) {
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#333333"/>`, at(one.lo), y+barHeight/2, at(one.hi), y+barHeight/2)
		}
		if !math.IsNaN(one.target) {
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="3" height="%.0f" fill="black"/>`, at(one.target)-1.5, y-2, barHeight+4)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">%s</text>`+"\n", plotLeft+plotWide+8, y+12, html.EscapeString(one.note))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// ratioRange is the least and the largest ratio of the rounds; NaN if there are none.
func (r Row) ratioRange() (lo, hi float64) {
	if len(r.ratios) == 0 {
		return math.NaN(), math.NaN()
	}
	return slices.Min(r.ratios), slices.Max(r.ratios)
}

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

// plot draws the rows that have a ratio: a bar each, its range over the rounds as a line, its
// target as a mark. Left of the line at 1 we are cheaper than the peer.
func (r *Report) plot() string {
	var rows []Row
	for _, one := range r.Rows {
		if one.Ratio != nil {
			rows = append(rows, one)
		}
	}
	height := plotTop + float64(len(rows))*(barHeight+barGap) + 30
	at := func(v float64) float64 { return plotLeft + plotWide*min(max(v, 0), ratioMax)/ratioMax }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n", plotLeft+plotWide+250, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n"+
		`<text x="12" y="22" font-size="15">Cost against the peer of the same rounds: ours ÷ theirs, lower is better</text>`+"\n"+
		`<text x="12" y="40">%s, commit %s. Line through a bar: range over the rounds. Black mark: target.</text>`+"\n", html.EscapeString(r.Date[:10]), html.EscapeString(r.Commit))
	for v := 0.0; v <= ratioMax; v += 0.5 {
		colour := "#dddddd"
		if v == 1 {
			colour = "#666666"
		}
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.0f" x2="%.1f" y2="%.0f" stroke="%s"/><text x="%.1f" y="%.0f" text-anchor="middle">%g</text>`+"\n",
			at(v), plotTop-6, at(v), height-24, colour, at(v), height-10, v)
	}
	for i, one := range rows {
		y := plotTop + float64(i)*(barHeight+barGap)
		colour := "#009e73" // told apart from the other by those who see few colours
		if one.Target != nil && (one.RatioTarget && *one.Ratio > *one.Target || !one.RatioTarget && *one.Ours > *one.Target) {
			colour = "#e69f00"
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`, plotLeft-8, y+12, html.EscapeString(one.Row))
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="%s"/>`, plotLeft, y, at(*one.Ratio)-plotLeft, barHeight, colour)
		if lo, hi := one.ratioRange(); !math.IsNaN(lo) {
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#333333"/>`, at(lo), y+barHeight/2, at(hi), y+barHeight/2)
		}
		if one.Target != nil && one.RatioTarget {
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="3" height="%.0f" fill="black"/>`, at(*one.Target)-1.5, y-2, barHeight+4)
		}
		peer, _, _ := strings.Cut(one.PeerName, ";") // the table has what the others cost
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">%s (%s)</text>`+"\n", plotLeft+plotWide+8, y+12, number(one.Ratio), html.EscapeString(peer))
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

package traffic

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// Figures is what a policy's line says, for machines. Times are milliseconds, rates parts; a half width is that
// of the 95 % interval over seeds, and 0 where there is one seed.
type Figures struct {
	Policy         string         `json:"policy"`
	Seeds          int            `json:"seeds"`
	Requests       int            `json:"requests"`
	P50            float64        `json:"p50Millis"`
	P99            float64        `json:"p99Millis"`
	P99Half        float64        `json:"p99HalfWidth"`
	Mean           float64        `json:"meanMillis"`
	MeanHalf       float64        `json:"meanHalfWidth"`
	Errors         float64        `json:"errors"`
	ErrorsHalf     float64        `json:"errorsHalfWidth"`
	CriticalErrors float64        `json:"criticalErrors"`
	Crossed        float64        `json:"crossed"`
	Goodput        float64        `json:"goodput"`
	Price          float64        `json:"pricePerRequest"`
	Turned         float64        `json:"splitTurnedPerMinute"`
	Unlawful       int            `json:"unlawfulTries"`
	ToOracle       *float64       `json:"p99ToOracle"`
	ToOracleHalf   float64        `json:"p99ToOracleHalfWidth"`
	Tries          map[string]int `json:"failedTries"`
}

func figures(l *Line, oracle *Line) Figures {
	m := l.Pooled
	f := Figures{Policy: l.Policy, Seeds: len(l.Runs), Requests: m.Requests, P50: m.P50(), P99: m.P99(), Mean: m.Mean(), Errors: m.ErrorRate(),
		CriticalErrors: part(m.CriticalErrors, m.Critical), Crossed: part(m.Crossed, m.Requests), Goodput: m.Goodput, Turned: m.Turned, Unlawful: m.Unlawful,
		Tries: map[string]int{"shed": m.Shed, "timedOut": m.TimedOut, "refused": m.Refused}}
	if m.Requests > 0 {
		f.Price = m.Price / float64(m.Requests)
	}
	known := func(v float64) float64 {
		if math.IsNaN(v) {
			return 0
		}
		return v
	}
	f.P99Half, f.MeanHalf, f.ErrorsHalf = known(l.Over((*Measured).P99).Half), known(l.Over((*Measured).Mean).Half), known(l.Over((*Measured).ErrorRate).Half)
	if oracle != nil {
		ratio := m.P99() / oracle.Pooled.P99()
		f.ToOracle, f.ToOracleHalf = &ratio, known(l.Ratio(oracle, (*Measured).P99).Half)
	}
	return f
}

// All are the figures of all lines; ratios are to the better oracle, where one was run.
func All(lines []Line) []Figures {
	oracle := Oracle(lines)
	var out []Figures
	for i := range lines {
		out = append(out, figures(&lines[i], oracle))
	}
	return out
}

// WriteTable writes what people read.
func WriteTable(w io.Writer, m *manifest.Simulation, lines []Line) error {
	fmt.Fprintf(w, "%s: %s\n", m.Name, m.Description)
	fmt.Fprintf(w, "seeds %d to %d, requests that arrive from %s to %s; ± is half of the 95 %% interval over seeds, ratios are of pooled p99\n\n", lines[0].First, lines[0].First+len(lines[0].Runs)-1, m.From, m.To)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POLICY\tP50 ms\tP99 ms\tTO ORACLE\tMEAN ms\tERRORS\tCRITICAL\tCROSSED\tGOODPUT/s\tSHED\tTIMED OUT\tREFUSED\tREQUESTS")
	for _, f := range All(lines) {
		ratio, critical := "–", "–"
		if f.ToOracle != nil {
			ratio = fmt.Sprintf("%.3f ± %.3f", *f.ToOracle, f.ToOracleHalf)
		}
		if m.Requests.Critical > 0 {
			critical = percent(f.CriticalErrors)
		}
		fmt.Fprintf(t, "%s\t%.1f\t%.1f ± %.1f\t%s\t%.1f ± %.1f\t%s\t%s\t%s\t%.0f\t%d\t%d\t%d\t%d\n", f.Policy, f.P50, f.P99, f.P99Half, ratio, f.Mean, f.MeanHalf,
			percent(f.Errors), critical, percent(f.Crossed), f.Goodput, f.Tries["shed"], f.Tries["timedOut"], f.Tries["refused"], f.Requests)
	}
	return t.Flush()
}

func percent(v float64) string { return strconv.FormatFloat(100*v, 'f', 3, 64) + " %" }

// WriteEvents writes what control planes did in the first seed.
func WriteEvents(w io.Writer, lines []Line) {
	for _, l := range lines {
		for _, e := range l.Runs[0].Events {
			fmt.Fprintf(w, "%s %9.3fs %s: %s\n", l.Policy, e.At.Seconds(), e.Region, e.Action)
		}
	}
}

// WriteCSV writes the raw figures: a row for each policy, seed and second of arrival.
func WriteCSV(w io.Writer, lines []Line) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"policy", "seed", "second", "requests", "errors", "crossed", "mean_ms", "p99_ms"}); err != nil {
		return err
	}
	for _, l := range lines {
		for seed, r := range l.Runs {
			for s := range r.Seconds {
				x := &r.Seconds[s]
				row := []string{l.Policy, strconv.Itoa(l.First + seed), strconv.Itoa(s), strconv.Itoa(x.Requests), strconv.Itoa(x.Errors), strconv.Itoa(x.Crossed),
					strconv.FormatFloat(x.SumMillis/math.Max(float64(x.Requests-x.Errors), 1), 'f', 2, 64), strconv.FormatFloat(x.P99Millis, 'f', 2, 64)}
				if err := c.Write(row); err != nil {
					return err
				}
			}
		}
	}
	c.Flush()
	return c.Error()
}

// Of the picture, in SVG's pixels.
const (
	plotWide, plotHigh = 640.0, 170.0
	plotLeft, plotTop  = 60.0, 60.0
	plotGap            = 60.0
)

// colours are told apart by those who see few (Okabe and Ito).
var colours = []string{"#009e73", "#e69f00", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#b8a800", "#000000", "#999999", "#7f3c8d", "#555555"}

// WriteSVG draws p99 and errors of each second, a line for each policy, all seeds together.
func WriteSVG(w io.Writer, m *manifest.Simulation, lines []Line) error {
	var b strings.Builder
	seconds, slowest := 1, 1.0
	for _, l := range lines {
		seconds = max(seconds, len(l.Pooled.Seconds))
		for _, s := range l.Pooled.Seconds {
			if !math.IsNaN(s.P99Millis) {
				slowest = math.Max(slowest, math.Min(s.P99Millis, 1000))
			}
		}
	}
	height := plotTop + 2*plotHigh + plotGap + 40
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n",
		plotLeft+plotWide+150, height)
	fmt.Fprintf(&b, `<text x="12" y="20" font-size="15">%s: %s</text><text x="12" y="38">by second of arrival, %d seeds; grey: the window that is measured</text>`+"\n",
		escape(m.Name), escape(m.Description), len(lines[0].Runs))
	x := func(s float64) float64 { return plotLeft + plotWide*s/float64(seconds) }
	for panel, top := range []float64{plotTop, plotTop + plotHigh + plotGap} {
		most, label := slowest, "p99, ms"
		if panel == 1 {
			most, label = 100, "errors, %"
		}
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#f0f0f0"/><text x="%.0f" y="%.0f">%s</text>`+"\n",
			x(m.From.Seconds()), top, x(m.To.Seconds())-x(m.From.Seconds()), plotHigh, plotLeft, top-6, label)
		for k := range 5 {
			v := most * float64(k) / 4
			y := top + plotHigh*(1-float64(k)/4)
			fmt.Fprintf(&b, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#dddddd"/><text x="%.0f" y="%.1f" text-anchor="end">%.0f</text>`+"\n", plotLeft, y, plotLeft+plotWide, y, plotLeft-6, y+4, v)
		}
		for i := range lines {
			b.WriteString(polyline(lines[i].Pooled.Seconds, panel, most, top, x, colours[i%len(colours)]))
		}
	}
	for s := 0; s <= seconds; s += max(1, seconds/12) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%d s</text>`+"\n", x(float64(s)), height-22, s)
	}
	for i, l := range lines {
		y := plotTop + 8 + 16*float64(i)
		fmt.Fprintf(&b, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="%s" stroke-width="2"/><text x="%.0f" y="%.1f">%s</text>`+"\n",
			plotLeft+plotWide+12, y, plotLeft+plotWide+34, y, colours[i%len(colours)], plotLeft+plotWide+40, y+4, escape(l.Policy))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func polyline(seconds []Second, panel int, most, top float64, x func(float64) float64, colour string) string {
	var points strings.Builder
	for s := range seconds {
		v := seconds[s].P99Millis
		if panel == 1 {
			v = 100 * part(seconds[s].Errors, seconds[s].Requests)
		}
		if !math.IsNaN(v) {
			fmt.Fprintf(&points, "%.1f,%.1f ", x(float64(s)+0.5), top+plotHigh*(1-math.Min(v/most, 1)))
		}
	}
	return fmt.Sprintf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="1.3"/>`+"\n", strings.TrimSpace(points.String()), colour)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// table is rows under a head, aligned as they are printed.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// red marks a cell as bad: shown in colour where there is any. It takes no width.
const red = "\x00"

// print writes the table; cells that are empty show as <none>.
func (t *table) print(w io.Writer, colour bool) error {
	width := make([]int, len(t.head))
	for i, h := range t.head {
		width[i] = len(h)
	}
	for _, r := range t.rows {
		for i, c := range r {
			if c == "" || c == red {
				r[i] = "<none>"
			}
			width[i] = max(width[i], len([]rune(strings.TrimPrefix(r[i], red))))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, c := range cells {
			text, bad := strings.CutPrefix(c, red)
			pad := width[i] - len([]rune(text)) + 3
			if bad && colour {
				text = "\x1b[31m" + text + "\x1b[0m"
			}
			b.WriteString(text)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	line(t.head)
	for _, r := range t.rows {
		line(r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (a *app) colour() bool {
	return a.Terminal && !a.noColor && a.Getenv("NO_COLOR") == ""
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printYAML writes JSON as YAML.
func printYAML(w io.Writer, text json.RawMessage) error {
	out, err := manifest.Marshal(manifest.Object{JSON: text})
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// printValue writes v as JSON or YAML.
func (a *app) printValue(v any) error {
	if a.output == "json" {
		return printJSON(a.Out, v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return printYAML(a.Out, text)
}

// age is how long ago t was, in one unit or two.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return red + "no"
}

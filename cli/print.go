package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// red marks a cell as bad.
const red = table.Red

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

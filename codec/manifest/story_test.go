package manifest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// A story is a file of sections "-- name --": an input in.*, then what the parser says
// of it: faults, warnings, objects. go test -update writes what it says now.
var update = flag.Bool("update", false, "rewrite the stories")

type section struct{ name, text string }

func readStory(t *testing.T, file string) []section {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []section
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(name, " --\n") {
			out = append(out, section{name: strings.TrimSuffix(name, " --\n")})
			continue
		}
		if len(out) == 0 {
			out = append(out, section{})
		}
		out[len(out)-1].text += line
	}
	return out
}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("stories: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			var got strings.Builder
			sections := readStory(t, file)
			for _, s := range sections {
				switch {
				case s.name == "":
					got.WriteString(s.text)
				case strings.HasPrefix(s.name, "in"):
					fmt.Fprintf(&got, "-- %s --\n%s", s.name, s.text)
					got.WriteString(tell(manifest.Parse(s.name, []byte(s.text), manifest.Options{})))
				}
			}
			var want strings.Builder
			for _, s := range sections {
				if s.name != "" {
					fmt.Fprintf(&want, "-- %s --\n", s.name)
				}
				want.WriteString(s.text)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want.String(), got.String()); d != "" {
				t.Errorf("the story changed (-want +got):\n%s", d)
			}
		})
	}
}

// tell writes a result as sections.
func tell(r manifest.Result) string {
	var b strings.Builder
	list := func(name string, faults []manifest.Fault) {
		if len(faults) == 0 {
			return
		}
		fmt.Fprintf(&b, "-- %s --\n", name)
		for _, f := range faults {
			fmt.Fprintln(&b, f)
		}
	}
	list("faults", r.Faults)
	list("warnings", r.Warnings)
	if len(r.Objects) == 0 {
		return b.String()
	}
	b.WriteString("-- objects --\n")
	for _, o := range r.Objects {
		fmt.Fprintf(&b, "%s (line %d)\n  %s\n", o, o.Line, o.JSON)
		if o.Value != nil {
			v, err := json.Marshal(o.Value)
			if err != nil {
				fmt.Fprintln(&b, err)
			}
			fmt.Fprintf(&b, "  %T %s\n", o.Value, trimZero(v))
		}
		if f, ok := o.Fact("eu-west"); ok && f.Home {
			fmt.Fprintln(&b, "  stays home")
		}
	}
	return b.String()
}

// trimZero leaves out members that say nothing, so that stories show what was read.
func trimZero(raw []byte) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	out, _ := json.Marshal(trimmed(v))
	return out
}

func trimmed(v any) any {
	switch t := v.(type) {
	case map[string]any:
		for k, e := range t {
			if t[k] = trimmed(e); t[k] == nil {
				delete(t, k)
			}
		}
		if len(t) == 0 {
			return nil
		}
	case []any:
		for i := range t {
			if e := trimmed(t[i]); e != nil {
				t[i] = e
			}
		}
		if len(t) == 0 {
			return nil
		}
	case string:
		if t == "" || t == "0001-01-01T00:00:00Z" {
			return nil
		}
	case float64:
		if t == 0 {
			return nil
		}
	case bool:
		if !t {
			return nil
		}
	}
	return v
}

package manifest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// references are the kinds that have a page, by their shape. The pages are made of the tables of
// shapes: names and bounds from the tags, meanings and defaults from the comments.
var references = map[string]string{"TrafficPolicy": "trafficPolicy", "FaultPolicy": "faultPolicy", "TelemetryPolicy": "telemetryPolicy"}

// TestReferenceIsCurrent fails when docs/reference is not what the shapes say, or when a field has
// no meaning. -update writes it; make generate does.
func TestReferenceIsCurrent(t *testing.T) {
	shapes := readShapes(t)
	for kind, shape := range references {
		path := filepath.Join("../../docs/reference", strings.ToLower(kind)+".md")
		page := shapes.page(t, kind, shape)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(got), page); d != "" {
			t.Errorf("%s is not current, run make generate (-file +shapes):\n%s", path, d)
		}
	}
}

// shapeTable is the struct types of the package with their comments.
type shapeTable map[string]shapeType

type shapeType struct {
	doc    string
	fields *ast.StructType
}

func readShapes(t *testing.T) shapeTable {
	files, err := filepath.Glob("shapes_*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("shapes: %v, %v", files, err)
	}
	out := shapeTable{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if ts, ok := s.(*ast.TypeSpec); ok {
					if st, ok := ts.Type.(*ast.StructType); ok {
						out[ts.Name.Name] = shapeType{prose(g.Doc), st}
					}
				}
			}
		}
	}
	return out
}

// prose is a comment as one paragraph.
func prose(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }

func (s shapeTable) page(t *testing.T, kind, shape string) string {
	var b strings.Builder
	doc := strings.TrimPrefix(s[shape].doc, shape+" ")
	fmt.Fprintf(&b, "# %s\n\n<!-- made by make generate from codec/manifest/shapes_policies.go; edit that -->\n\n", kind)
	fmt.Fprintf(&b, "`apiVersion: isthmus.dev/v1alpha1`, `kind: %s`. It %s\n\n", kind, doc)
	b.WriteString("A field that is not written has its default. Durations are such as `500ms`, `10s`, `1h30m` (GEP-2257).\n\n| field | holds | default | meaning |\n|---|---|---|---|\n")
	s.rows(t, &b, s[shape].fields, "")
	b.WriteString("\nHow policies fit together: [traffic policies](../guides/traffic-policy.md).\n")
	return b.String()
}

// rows writes a row for each field, each before those below it.
func (s shapeTable) rows(t *testing.T, b *strings.Builder, st *ast.StructType, prefix string) {
	for _, f := range st.Fields.List {
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := reflect.StructTag(tag).Get("json")
		if strings.Contains(name, ",") || prefix == "" && name == "status" {
			continue // what every object has
		}
		path := strings.TrimPrefix(prefix+"."+name, ".")
		meaning, otherwise, found := strings.Cut(prose(f.Doc), "Default: ")
		if otherwise = strings.TrimSuffix(otherwise, "."); !found {
			otherwise = "–"
		}
		is := reflect.StructTag(tag).Get("is")
		if strings.Contains(" "+is+" ", " required ") {
			otherwise = "required"
		}
		if path != "spec" && meaning == "" && !found {
			t.Errorf("%s has no comment that says what it means", path)
		}
		what, inner, list := s.holds(f.Type, is)
		if path != "spec" {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", path, what, cell(otherwise), cell(strings.TrimSpace(meaning)))
		}
		if inner != nil {
			if list {
				path += "[]"
			}
			s.rows(t, b, inner, path)
		}
	}
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// holds says what a field of a type and with rules may hold, and the structure inside it.
func (s shapeTable) holds(e ast.Expr, is string) (what string, inner *ast.StructType, list bool) {
	switch x := e.(type) {
	case *ast.StarExpr:
		return s.holds(x.X, is)
	case *ast.ArrayType:
		what, inner, _ = s.holds(x.Elt, is)
		return "list of " + what, inner, true
	case *ast.StructType:
		return "object", x, false
	case *ast.Ident:
		if st, ok := s[x.Name]; ok {
			return "object", st.fields, false
		}
		return scalarText(x.Name, is), nil, false
	}
	return "?", nil, false
}

func scalarText(typ, is string) string {
	rules := map[string]string{}
	for _, word := range strings.Fields(is) {
		key, arg, _ := strings.Cut(word, "=")
		if strings.Contains(word, "..") && arg == "" {
			key, arg = "range", word
		}
		rules[key] = arg
	}
	_, duration := rules["duration"]
	switch {
	case rules["enum"] != "":
		return "`" + strings.ReplaceAll(rules["enum"], "|", "`, `") + "`"
	case duration:
		return "duration"
	case typ == "bool":
		return "boolean"
	case typ == "decimal":
		return "number, may have a fraction"
	case typ == "retryOn", typ == "fallbackOn":
		return "condition or status"
	case typ == "statusRange":
		return "status or range"
	case typ == "grpcStatus":
		return "number or name"
	case strings.HasPrefix(typ, "int") || strings.HasPrefix(typ, "uint"):
		if low, high, ok := strings.Cut(rules["range"], ".."); ok {
			return "number, " + low + " to " + high
		}
		return "number"
	}
	return "text"
}

// TestReferenceStatesTheDefaults holds the defaults that pages state against those that hold.
func TestReferenceStatesTheDefaults(t *testing.T) {
	short := func(d time.Duration) string {
		return strings.TrimSuffix(strings.Replace(d.String(), "1m0s", "60s", 1), "m0s")
	}
	name := mesh.ServiceName{Namespace: "shop", Name: "a"}
	w, _ := world.New("eu").Edit([]world.Edit{world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindService, Origin: "eu", Namespace: "shop", Name: "a"}, Value: &mesh.Service{ServiceName: name}})})
	plain, err := derive.Eval(w, compile.ServiceOf, compile.In{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	on := plain.Traffic.Retry.On
	for kind, defaults := range map[string]map[string]string{
		"trafficpolicy": {
			"retry.conditions": strings.Join(on[:len(on)-1], ", ") + " and " + on[len(on)-1],
			"timeouts.connect": short(mesh.DefaultConnectTimeout), "timeouts.request": short(mesh.DefaultRequestTimeout), "timeouts.idle": short(mesh.DefaultIdleTimeout),
			"retry.attempts": fmt.Sprint(mesh.DefaultRetries), "retry.budget.percent": fmt.Sprint(mesh.DefaultBudgetPercent), "retry.budget.burst": fmt.Sprint(mesh.DefaultBudgetBurst),
			"outlierDetection.consecutiveFailures": fmt.Sprint(mesh.DefaultEjectAfter), "outlierDetection.baseEjection": short(mesh.DefaultBaseEjection),
			"outlierDetection.maxEjection": short(mesh.DefaultMaxEjection), "outlierDetection.maxEjectedPercent": fmt.Sprint(mesh.DefaultMaxEjectedPercent),
			"outlierDetection.successRateStdev": fmt.Sprint(float64(mesh.DefaultSuccessRateStdev) / 1000), "healthCheck.interval": short(mesh.DefaultHealthInterval),
			"healthCheck.timeout": short(mesh.DefaultHealthTimeout), "healthCheck.healthy": fmt.Sprint(mesh.DefaultHealthy), "healthCheck.unhealthy": fmt.Sprint(mesh.DefaultUnhealthy),
			"limits.replayBodyBytes": fmt.Sprint(mesh.MaxReplayBody), "loadBalancing.algorithm": string(mesh.AlgorithmPeakEWMA), "loadBalancing.consistentHash.table": string(mesh.HashMaglev),
		},
		"telemetrypolicy": {"accessLog.format": mesh.DefaultAccessLog, "tracing.samplePercent": fmt.Sprint(mesh.DefaultTraceSampleMilliPercent / 1000)},
	} {
		page, err := os.ReadFile("../../docs/reference/" + kind + ".md")
		if err != nil {
			t.Fatal(err)
		}
		for field, want := range defaults {
			_, row, found := strings.Cut(string(page), "| `spec."+field+"` | ")
			row, _, _ = strings.Cut(row, "\n")
			if cells := strings.Split(row, " | "); !found || len(cells) < 2 || cells[1] != want {
				t.Errorf("%s: spec.%s: the default is %s, the page says %q", kind, field, want, row)
			}
		}
	}
}

// TestGuideIsReadWithoutAWord parses what the guide tells people to write.
func TestGuideIsReadWithoutAWord(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/traffic-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	if len(blocks) < 6 {
		t.Errorf("%d examples", len(blocks))
	}
	for i, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		r := manifest.Parse(fmt.Sprintf("example %d", i+1), []byte(block), manifest.Options{})
		for _, f := range append(r.Faults, r.Warnings...) {
			t.Error(f)
		}
	}
}

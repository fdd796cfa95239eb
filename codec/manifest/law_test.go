package manifest_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// sameObject ignores where an object was written, and Created, which servers set and
// Marshal leaves out with the rest of what they set.
var sameObject = cmp.Options{
	cmpopts.IgnoreFields(manifest.Object{}, "File", "Line"),
	cmpopts.IgnoreFields(mesh.Route{}, "Created"),
	cmp.AllowUnexported(manifest.Secret{}),
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}),
}

func checkRoundTrip(t interface {
	Helper()
	Fatalf(string, ...any)
}, o manifest.Object) {
	t.Helper()
	text, err := manifest.Marshal(o)
	if err != nil {
		t.Fatalf("Marshal(%s): %v", o, err)
	}
	r := manifest.Parse("printed", text, manifest.Options{})
	if len(r.Faults) > 0 || len(r.Objects) != 1 {
		t.Fatalf("Parse(Marshal(%s)): %s\n%s", o, tell(r), text)
	}
	if d := cmp.Diff(o, r.Objects[0], sameObject); d != "" {
		t.Fatalf("Parse(Marshal(%s)) (-want +got):\n%s\n%s", o, d, text)
	}
}

func TestObjectsOfTheStoriesComeBackFromPrint(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		for _, s := range readStory(t, f) {
			if strings.HasPrefix(s.name, "in") {
				for _, o := range manifest.Parse(s.name, []byte(s.text), manifest.Options{}).Objects {
					checkRoundTrip(t, o)
					n++
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d objects in the stories", n)
	}
}

// TestAnyTextComesBackFromPrint puts hostile texts where Kubernetes allows any text:
// annotations, selectors and a policy's names.
func TestAnyTextComesBackFromPrint(t *testing.T) {
	hard := []string{"", " ", "yes", "NO", "on", "y", "~", "null", "1", "0644", "1e3", "-1", ".5", "1_000", "0x1F", "2026-01-02", "2026-01-02T03:04:05Z", "<<", "=",
		"- a", "a: b", "a #b", "#", "@x", "`x", "%x", "|", ">", "*a", "&a", "!a", "[a", "{a", "'", "\"", "a\nb", "a\nb\n", "a\n\nb", " a\n b", "a \nb", "\ta\nb", "a\tb\nc", "\n", "\n\n",
		"a\n\n", "---", "---\na", "a\n---\nb", "...", "\u0085", "\u2028", "\uFEFF", "\x7f", "\x00", "😀", "é", "a\rb", "a\r\nb", strings.Repeat("long ", 60), "1:30", "=x", "?", "? a", "-", ":", "a:"}
	text := rapid.OneOf(rapid.SampledFrom(hard), rapid.String(), rapid.StringMatching(`[ \n\t:#a-z'"-]{0,12}`), rapid.StringMatching(`[-+.0-9eExob_:]{0,8}`))
	rapid.Check(t, func(t *rapid.T) {
		object := map[string]any{
			"apiVersion": "v1", "kind": "Service",
			"metadata": map[string]any{"name": "a", "annotations": map[string]string{"a": text.Draw(t, "a"), "b": text.Draw(t, "b")}},
			"spec": map[string]any{
				"ports":             []any{map[string]any{"port": rapid.IntRange(1, 65535).Draw(t, "port")}},
				"selector":          rapid.MapOfN(text, text, 0, 4).Draw(t, "selector"),
				"loadBalancerClass": text.Draw(t, "class"),
			},
		}
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatalf("%v", err)
		}
		r := manifest.Parse("f", raw, manifest.Options{})
		if len(r.Objects) != 1 {
			t.Fatalf("%s\n%s", tell(r), raw)
		}
		checkRoundTrip(t, r.Objects[0])
	})
}

func TestPrintIsInTheOrderOfKubectl(t *testing.T) {
	in := "spec:\n  selector: {app: a}\n  ports: [{targetPort: http, port: 80}]\nkind: Service\nmetadata: {namespace: shop, name: a, annotations: {\"on\": \"yes\", text: \"two\\nlines\\n\"}}\napiVersion: v1\n"
	r := manifest.Parse("f", []byte(in), manifest.Options{})
	got, err := manifest.Marshal(r.Objects[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: v1
kind: Service
metadata:
  annotations:
    "on": "yes"
    text: |
      two
      lines
  name: a
  namespace: shop
spec:
  ports:
  - port: 80
    targetPort: http
  selector:
    app: a
`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		for doc := range bytes.SplitSeq(raw, []byte("\n---\n")) {
			f.Add(doc)
		}
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, o := range []manifest.Options{{}, {Stored: true}} {
			r := manifest.Parse("f", in, o)
			for _, fault := range append(r.Faults, r.Warnings...) {
				if fault.Problem == "" || strings.Contains(fault.String(), "\n") {
					t.Errorf("a fault is not one line: %q", fault)
				}
			}
			for _, obj := range r.Objects {
				if !json.Valid(obj.JSON) {
					t.Errorf("%s: JSON %q", obj, obj.JSON)
				}
				if !o.Stored {
					checkRoundTrip(t, obj)
				}
			}
		}
	})
}

package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func problems(r manifest.Result) string {
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

func namespaceYAML(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + "\n"
}

func TestInputBeyondTheLimitsIsRefused(t *testing.T) {
	bomb := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bomb\n  annotations:\n    a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("    a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	merges := "apiVersion: v1\nkind: Namespace\nbase: &base {"
	for i := range 1000 {
		merges += fmt.Sprintf("k%d: v, ", i)
	}
	merges += "}\nmetadata:\n  name: merges\n  annotations:\n" + strings.Repeat("  - <<: *base\n", 1000)
	for _, c := range []struct{ name, in, want string }{
		{"10 MB", strings.Repeat("# ten bytes", 1<<20), "f: larger than 10 MiB; split it into smaller files\n"},
		{"one object above 1 MiB", namespaceYAML("big") + "  annotations: {a: " + strings.Repeat("x", 1<<20) + "}\n",
			"f:1:1: Namespace big: larger than 1 MiB; split the object\n"},
		{"billion laughs", bomb, "f:1:1: the aliases of this input expand to more than 64 MiB; write the objects out, in several files\n"},
		{"merge bomb", merges, "f:106:9: merge keys copy more than 100000 members; write the members out\n"},
		{"nested", namespaceYAML("deep") + "spec: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
			"f:5:107: nested deeper than 100 levels; flatten the document\n"},
		{"nested too deep for the YAML parser", "a: " + strings.Repeat("[", 20000), "not YAML: exceeded max depth of 10000; check indentation, quotes and brackets around this line\n"},
		{"nested JSON", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}", "f:1:1: nested deeper than 100; flatten the document\n"},
		{"UTF-16", "\xff\xfea\x00", "f: the text is UTF-16; save it as UTF-8\n"},
		{"Latin-1", "# fine\n# caf\xe9\n", "f:2:1: the text is not UTF-8; save it as UTF-8\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := manifest.Parse("f", []byte(c.in), manifest.Options{})
			if !strings.Contains(problems(r), c.want) || len(r.Objects) != 0 || len(r.Faults) > 3 {
				t.Errorf("got %d objects and %d faults:\n%swant:\n%s", len(r.Objects), len(r.Faults), problems(r), c.want)
			}
		})
	}
}

func TestAThousandFaultsAreAThousandLines(t *testing.T) {
	var in strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&in, "apiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {ports: [{port: %d}]}\n---\n", i, 70000+i)
	}
	r := manifest.Parse("-", []byte(in.String()), manifest.Options{})
	lines := strings.Split(strings.TrimSpace(problems(r)), "\n")
	if len(lines) != 1000 || r.More || len(r.Objects) != 0 {
		t.Fatalf("got %d lines, more %v, %d objects", len(lines), r.More, len(r.Objects))
	}
	want := "<stdin>:4999:23: Service default/s999: spec.ports[0].port: 70999 is out of range; write a number from 1 to 65535"
	if lines[999] != want {
		t.Errorf("got  %s\nwant %s", lines[999], want)
	}
}

func TestFaultsBeyondTheCapAreSaidToBeMore(t *testing.T) {
	r := manifest.Parse("f", []byte(strings.Repeat("--- x\n", manifest.MaxFaults+5)), manifest.Options{})
	if len(r.Faults) != manifest.MaxFaults || !r.More {
		t.Errorf("got %d faults, more %v", len(r.Faults), r.More)
	}
}

func TestBytesAroundTheText(t *testing.T) {
	plain := "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: http\n"
	want := "f:7:11: Service default/a: spec.ports[0].port: want a number, not text; write a number\n"
	for name, in := range map[string]string{
		"plain":                  plain,
		"CRLF":                   strings.ReplaceAll(plain, "\n", "\r\n"),
		"BOM":                    "\uFEFF" + plain,
		"no newline at the end":  strings.TrimSuffix(plain, "\n"),
		"empty documents around": plain + "---\n---\n# nothing\n---\n...\n",
		"tabs after values":      strings.ReplaceAll(plain, "http\n", "http\t \n"),
	} {
		r := manifest.Parse("f", []byte(in), manifest.Options{})
		if got := problems(r); got != want {
			t.Errorf("%s: got\n%swant\n%s", name, got, want)
		}
	}
	for name, in := range map[string]string{"empty": "", "a comment": "# hello", "a directive": "%YAML 1.1\n---\n", "null": "--- ~\n", "space": " \n\t\n"} {
		if r := manifest.Parse("f", []byte(in), manifest.Options{}); len(r.Objects)+len(r.Faults)+len(r.Warnings) != 0 {
			t.Errorf("%s: want nothing, got %s", name, tell(r))
		}
	}
}

func TestColumnsCountCharacters(t *testing.T) {
	want := "f:1:81: Namespace: metadata.name: want text, not a number; quote it\n"
	yaml := `{apiVersion: v1, kind: Namespace, metadata: {annotations: {a: "grüße ✓"}, name: 5}}`
	js := `{"apiVersion":"v1","kind":"Namespace","metadata":{"annotations":{"a":"grüße"},"name":5}}`
	for _, c := range []struct{ in, want string }{{yaml, want}, {js, strings.Replace(want, "81", "86", 1)}} {
		if got := problems(manifest.Parse("f", []byte(c.in), manifest.Options{})); got != c.want {
			t.Errorf("%s\ngot  %swant %s", c.in, got, c.want)
		}
	}
}

func TestASecurityPolicyFromAStoreNeverFailsOpen(t *testing.T) {
	in := `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: newer, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  rules: [{from: [{jwtClaims: {iss: x}}]}]
---
apiVersion: isthmus.dev/v1alpha1
kind: ResidencyPolicy
metadata: {name: newer, namespace: shop}
spec: {targetRefs: [{kind: Planet}], jurisdictions: [EU]}
---
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: newer, namespace: shop}
spec: {targetRefs: [{kind: Planet}]}
`
	newer := strings.Replace(in, "v1alpha1", "v1", 1)
	if r := manifest.Parse("f", []byte(newer), manifest.Options{Stored: true}); len(r.Objects) != 2 || r.Objects[0].Value.(*mesh.AccessPolicy).Invalid != "apiVersion: an unknown version of a security policy" {
		t.Errorf("of a newer version: %s", tell(r))
	}
	if r := manifest.Parse("f", []byte(in), manifest.Options{}); len(r.Objects) != 0 || len(r.Faults) != 3 {
		t.Fatalf("at the door: %s", tell(r))
	}
	r := manifest.Parse("f", []byte(in), manifest.Options{Stored: true})
	if len(r.Objects) != 2 || len(r.Faults) != 3 {
		t.Fatalf("stored: %s", tell(r))
	}
	access, residency := r.Objects[0].Value.(*mesh.AccessPolicy), r.Objects[1].Value.(*mesh.ResidencyPolicy)
	if want := "spec.rules[0].from[0].jwtClaims: unknown field in a security policy"; access.Invalid != want {
		t.Errorf("Invalid: got %q, want %q", access.Invalid, want)
	}
	if d := cmp.Diff([]mesh.TargetRef{{Kind: "Service", Namespace: "shop", Name: "catalog"}}, access.Targets); d != "" {
		t.Errorf("targets (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]mesh.TargetRef{{Kind: "Namespace", Namespace: "shop", Name: "shop"}}, residency.Targets); d != "" || residency.Invalid == "" {
		t.Errorf("%q, targets (-want +got):\n%s", residency.Invalid, d)
	}
}

func TestNamespaceOptionAndJoin(t *testing.T) {
	in := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n"
	a := manifest.Parse("a.yaml", []byte(in), manifest.Options{Namespace: "shop"})
	b := manifest.Parse("b.yaml", []byte("\n"+in), manifest.Options{Namespace: "shop"})
	c := manifest.Parse("c.yaml", []byte(in), manifest.Options{})
	r := manifest.Join(a, b, c)
	if got, want := problems(r), "b.yaml:2:1: ServiceAccount shop/a: a second object of this name, the first is at a.yaml:1; remove one of the two\n"; got != want {
		t.Errorf("got %s", got)
	}
	if len(r.Objects) != 2 || r.Objects[0].Namespace != "shop" || r.Objects[1].Namespace != "default" {
		t.Errorf("objects: %v", r.Objects)
	}
}

func TestSpecDigestIsOfWhatWasMeant(t *testing.T) {
	digest := func(in string) [16]byte {
		t.Helper()
		r := manifest.Parse("f", []byte(in), manifest.Options{})
		if len(r.Objects) != 1 {
			t.Fatal(tell(r))
		}
		return r.Objects[0].SpecDigest
	}
	base := digest("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {hostnames: [a.example]}\n")
	for name, same := range map[string]string{
		"order, version and namespace": "spec: {hostnames: [a.example]}\nmetadata: {namespace: default, name: r}\nkind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1beta1\n",
		"what servers set": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, uid: x, resourceVersion: '7', generation: 3, creationTimestamp: null, managedFields: []," +
			" annotations: {kubectl.kubernetes.io/last-applied-configuration: x}}\nspec: {hostnames: [a.example]}\nstatus: {parents: []}\n",
		"JSON":       `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},"spec":{"hostnames":["a.example"]}}`,
		"null is no": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, labels: null}\nspec: {hostnames: [a.example], rules: }\n",
	} {
		if digest(same) != base {
			t.Errorf("%s: want the same digest", name)
		}
	}
	for name, other := range map[string]string{
		"a label": "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, labels: {a: b}}\nspec: {hostnames: [a.example]}\n",
		"spec":    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {hostnames: [b.example]}\n",
	} {
		if digest(other) == base {
			t.Errorf("%s: want another digest", name)
		}
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	in := "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: aHVudGVyMg==}\nstringData: {u: hunter2}\n"
	r := manifest.Parse("f", []byte(in), manifest.Options{})
	s, ok := r.Objects[0].Value.(*manifest.Secret)
	if !ok {
		t.Fatal(tell(r))
	}
	if b, ok := s.Reveal("k"); !ok || string(b) != "hunter2" {
		t.Errorf("Reveal: got %q, %v", b, ok)
	}
	var out bytes.Buffer
	for _, v := range []any{s, *s, r.Objects[0], r.Objects, struct{ S *manifest.Secret }{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	j, err := json.Marshal(s)
	if err != nil {
		t.Error(err)
	}
	out.Write(j)
	for _, leak := range []string{"hunter2", "aHVudGVyMg", "68756e74657232"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q leaks in\n%s", leak, out.String())
		}
	}
	if _, ok := r.Objects[0].Fact("eu-west"); ok {
		t.Error("a Secret that is no certificate must not become a fact")
	}
}

func TestFactOfAnObject(t *testing.T) {
	in := "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z', labels: {isthmus.dev/scope: cluster}}\nspec: {}\n"
	r := manifest.Parse("f", []byte(in), manifest.Options{})
	f, ok := r.Objects[0].Fact("eu-west")
	want := mesh.Fact{Key: mesh.Key{Kind: mesh.KindHTTPRoute, Origin: "eu-west", Namespace: "shop", Name: "r"}, Home: true, Digest: r.Objects[0].SpecDigest,
		Value: &mesh.Route{Kind: "HTTPRoute", Namespace: "shop", Name: "r", Rules: []mesh.RouteRule{{}}, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	if d := cmp.Diff(want, f); d != "" || !ok {
		t.Errorf("%v (-want +got):\n%s", ok, d)
	}
}

func TestKindsAreNamedOnceAndOrdered(t *testing.T) {
	names := map[string]string{}
	order := map[string]int{}
	for i, k := range manifest.Kinds() {
		order[k.Kind] = k.Order
		if k.Order != i {
			t.Errorf("%s: order %d at %d", k.Kind, k.Order, i)
		}
		if k.Replicated != mesh.Kind(k.Kind).Replicated() {
			t.Errorf("%s: replicated %v", k.Kind, k.Replicated)
		}
		for _, n := range k.Names() {
			if other, twice := names[n]; twice {
				t.Errorf("%s names both %s and %s", n, other, k.Kind)
			}
			names[n] = k.Kind
			if got, ok := manifest.KindNamed(strings.ToUpper(n)); !ok || got.Kind != k.Kind {
				t.Errorf("KindNamed(%s): got %s, %v", n, got.Kind, ok)
			}
		}
	}
	for _, pair := range [][2]string{{"Namespace", "Service"}, {"Service", "HTTPRoute"}, {"ReferenceGrant", "HTTPRoute"}, {"Service", "ServiceExport"}, {"ResidencyPolicy", "Service"}} {
		if order[pair[0]] >= order[pair[1]] {
			t.Errorf("want %s written before %s", pair[0], pair[1])
		}
	}
	for short, kind := range map[string]string{"svc": "Service", "ns": "Namespace", "sa": "ServiceAccount", "httproute": "HTTPRoute", "ap": "AccessPolicy",
		"rp": "ResidencyPolicy", "tp": "TrafficPolicy", "wl": "Workload"} {
		if names[short] != kind {
			t.Errorf("%s names %q, want %s", short, names[short], kind)
		}
	}
	if _, ok := manifest.KindNamed("pods"); ok {
		t.Error("KindNamed(pods): want none")
	}
}

func TestReadTellsWhatCouldNotBeRead(t *testing.T) {
	broken := fmt.Errorf("disk gone")
	_, err := manifest.Read("x.yaml", &failing{broken}, manifest.Options{})
	if err == nil || err.Error() != "read x.yaml: disk gone" {
		t.Errorf("got %v", err)
	}
	r, err := manifest.Read("-", strings.NewReader(strings.Repeat("#", manifest.MaxInput+1)), manifest.Options{})
	if err != nil || problems(r) != "<stdin>: larger than 10 MiB; split it into smaller files\n" {
		t.Errorf("got %v, %s", err, problems(r))
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func BenchmarkParseThousandObjects(b *testing.B) {
	var in bytes.Buffer
	for i := range 500 {
		fmt.Fprintf(&in, "apiVersion: v1\nkind: Service\nmetadata:\n  name: s%d\n  namespace: shop\n  labels:\n    app: s%d\n    version: \"1.0\"\nspec:\n  ports:\n  - name: http\n    port: 80\n    targetPort: http\n    protocol: TCP\n  selector:\n    app: s%d\n---\n", i, i, i)
		fmt.Fprintf(&in, "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r%d\n  namespace: shop\nspec:\n  parentRefs:\n  - {group: \"\", kind: Service, name: s%d}\n  rules:\n  - matches:\n    - path: {type: PathPrefix, value: /v2}\n    backendRefs:\n    - {name: s%d, port: 80, weight: 90}\n    - {name: s%d-v2, port: 80, weight: 10}\n---\n", i, i, i, i)
	}
	b.SetBytes(int64(in.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if r := manifest.Parse("f", in.Bytes(), manifest.Options{}); len(r.Objects) != 1000 {
			b.Fatal(problems(r))
		}
	}
}

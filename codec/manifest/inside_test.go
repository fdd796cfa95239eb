package manifest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	gatewayapi "sigs.k8s.io/gateway-api/apis/v1"
	mcs "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	"sigs.k8s.io/yaml"

	"pgregory.net/rapid"
)

// fieldsOf lists the paths of the JSON members of a type, in our reading of the tags,
// down to depth levels. A type whose shape is not ours to know is a leaf.
func fieldsOf(t reflect.Type, prefix string, leaf func(string) bool, out map[string]bool, depth int) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		if t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String {
			return
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || depth == 0 || leaf(prefix) {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case strings.Contains(option, "inline") || f.Anonymous && name == "":
			fieldsOf(f.Type, prefix, leaf, out, depth)
		case name != "" && name != "-":
			p := prefix + "." + name
			out[p] = true
			fieldsOf(f.Type, p, leaf, out, depth-1)
		}
	}
}

// anythings lists the paths of ours that are of type anything.
func anythings(t reflect.Type, prefix string, out map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t == reflect.TypeFor[anything]() || t == reflect.TypeFor[intOrString]() {
		out[prefix] = true
		return
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if option == "inline" || f.Anonymous && name == "" {
			anythings(f.Type, prefix, out)
		} else if name != "" {
			anythings(f.Type, prefix+"."+name, out)
		}
	}
}

func TestShapesHaveTheUpstreamFields(t *testing.T) {
	for _, c := range []struct{ ours, upstream any }{
		{namespace{}, core.Namespace{}},
		{serviceAccount{}, core.ServiceAccount{}},
		{secret{}, core.Secret{}},
		{service{}, core.Service{}},
		{endpointSlice{}, discovery.EndpointSlice{}},
		{serviceExport{}, mcs.ServiceExport{}},
		{serviceImport{}, mcs.ServiceImport{}},
		{httpRoute{}, gatewayapi.HTTPRoute{}},
		{grpcRoute{}, gatewayapi.GRPCRoute{}},
		{tlsRoute{}, gatewayapi.TLSRoute{}},
		{bareRoute{}, gatewayapi.TCPRoute{}},
		{bareRoute{}, gatewayapi.UDPRoute{}},
		{gateway{}, gatewayapi.Gateway{}},
		{backendTLSPolicy{}, gatewayapi.BackendTLSPolicy{}},
		{referenceGrant{}, gatewayapi.ReferenceGrant{}},
	} {
		ourType := reflect.TypeOf(c.ours)
		t.Run(ourType.Name(), func(t *testing.T) {
			opaque := map[string]bool{".metadata.creationTimestamp": true, ".metadata.deletionTimestamp": true}
			anythings(ourType, "", opaque)
			leaf := func(p string) bool { return opaque[p] }
			ours, theirs := map[string]bool{}, map[string]bool{}
			fieldsOf(ourType, "", leaf, ours, 12)
			fieldsOf(reflect.TypeOf(c.upstream), "", leaf, theirs, 12)
			delete(ours, ".status") // accepted and dropped, also where upstream has none
			delete(theirs, ".status")
			if d := cmp.Diff(theirs, ours); d != "" || len(ours) < 10 {
				t.Errorf("%d fields (-upstream +ours):\n%s", len(ours), d)
			}
		})
	}
}

// TestPlainScalarsMeanWhatKubectlReads compares with the reader that kubectl uses.
func TestPlainScalarsMeanWhatKubectlReads(t *testing.T) {
	check := func(fatal func(string, ...any), s string) {
		in := "k: " + s + "\n"
		raw, err := yaml.YAMLToJSON([]byte(in))
		if err != nil || strings.ContainsAny(s, "#:{}[],&*!|>'\"%@`?\n\t ") || s == "-" || s == "<<" || s == "=" || strings.Contains(strings.ToLower(s), ".inf") {
			return
		}
		var values []*value
		bad := ""
		values = readYAML(chunk{[]byte(in), 1}, new(int), func(_ place, problem, _ string) { bad = problem })
		if bad != "" || len(values) != 1 {
			fatal("%q: %s", s, bad)
			return
		}
		var want, got any
		if err := json.Unmarshal(raw, &want); err != nil {
			fatal("%q: %v", s, err)
		}
		text := `{"k":` + string(values[0].get("k").appendJSON(nil)) + "}"
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			fatal("%q: %s: %v", s, text, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			fatal("%q (-kubectl +ours):\n%s", s, d)
		}
	}
	for _, s := range []string{"", "~", "null", "Null", "yes", "Yes", "YES", "y", "Y", "no", "n", "on", "Off", "true", "TRUE", "False", "yEs", "1", "-1", "+1", "0", "0644", "0o17", "0x1F",
		"0b101", "-0b11", "1_000", "1__0", "_1", "1.", ".5", "1.5", "-.5", "1e3", "1E+3", "1e-3", "1e", "1.5e10", "1.10", "0.1.2", "1-2", "2026-01-02", "2026-01-02T03:04:05Z", "2026-1-2",
		"18446744073709551615", "18446744073709551616", "-9223372036854775808", "1e400", "0777777777777777777777777", "09", "1.2.3", "v1", ".", "..", "+", "-a", "e3", "0x", "1h30m", "10s", "abc"} {
		check(t.Errorf, s)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t.Fatalf, rapid.StringMatching(`[-+]?[0-9._xXob]{0,3}[0-9eEfn._+-]{0,6}`).Draw(t, "scalar"))
	})
}

// TestSizeIsKnownWithoutExpanding compares the size a value says with its JSON.
func TestSizeIsKnownWithoutExpanding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var build func(depth int) any
		build = func(depth int) any {
			switch k := rapid.IntRange(0, 6).Draw(t, "kind"); {
			case k == 0:
				return rapid.Int().Draw(t, "n")
			case k == 1:
				return rapid.Bool().Draw(t, "b")
			case k == 2 && depth > 0:
				l := make([]any, rapid.IntRange(0, 3).Draw(t, "len"))
				for i := range l {
					l[i] = build(depth - 1)
				}
				return l
			case k <= 4 && depth > 0:
				m := map[string]any{}
				for range rapid.IntRange(0, 3).Draw(t, "len") {
					m[rapid.String().Draw(t, "key")] = build(depth - 1)
				}
				return m
			default:
				return rapid.String().Draw(t, "s")
			}
		}
		raw, err := json.Marshal(map[string]any{"": build(4)})
		if err != nil {
			t.Fatalf("%v", err)
		}
		values, err := readJSON(raw, func(place, string, place) {})
		if err != nil || len(values) != 1 {
			t.Fatalf("%d values, %v", len(values), err)
		}
		text := values[0].appendJSON(nil)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		if size := values[0].size; size < len(text) || size > 2*len(text)+16 {
			t.Fatalf("size %d of %d bytes: %s", size, len(text), text)
		}
		again, err := readJSON(text, func(place, string, place) {})
		if err != nil || string(again[0].appendJSON(nil)) != string(text) {
			t.Fatalf("not canonical: %s", text)
		}
	})
}

func TestPathsReadAsPeopleWriteThem(t *testing.T) {
	p := spec("rules").item(0).field("matches").item(12).field("path", "value")
	if got, want := p.String(), "spec.rules[0].matches[12].path.value"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := (*path)(nil).field("metadata", "labels", "app.kubernetes.io/name").String(), "metadata.labels[app.kubernetes.io/name]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNearestNames(t *testing.T) {
	words := []string{"selector", "ports", "sessionAffinity", "clusterIP"}
	for in, want := range map[string]string{"Selector": "selector", "selectro": "selector", "port": "ports", "sesionAffinity": "sessionAffinity", "clusterip": "clusterIP", "xyz": "", "": "",
		strings.Repeat("p", 100): ""} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest(%s): got %q, want %q", in, got, want)
		}
	}
}

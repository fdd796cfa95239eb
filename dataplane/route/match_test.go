package route

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

func table(t testing.TB, routes ...ir.Route) *Table {
	t.Helper()
	out, err := NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ask(method, path string, fields ...string) *message.Head {
	h := &message.Head{}
	h.Reset()
	h.Method, h.Path, h.Scheme, h.Authority = []byte(method), []byte(path), []byte("http"), []byte("catalog.shop")
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// TestIndexAgreesWithAScan: the index finds the route that trying every route finds first.
func TestIndexAgreesWithAScan(t *testing.T) {
	// Small universes, so that routes and requests meet.
	path := rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/a/b/", "/a/bc", "/b", "/a//b", "/c/d/e/f", ""})
	value := rapid.SampledFrom([]string{"1", "2", "1,2", "1, 2", "", " 1"})
	match := func(regex bool) *rapid.Generator[mesh.ValueMatch] {
		return rapid.Custom(func(t *rapid.T) mesh.ValueMatch {
			m := mesh.ValueMatch{Name: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name"), Value: value.Draw(t, "value")}
			if regex && rapid.IntRange(0, 3).Draw(t, "regex") == 0 {
				m.Regex, m.Value = true, rapid.SampledFrom([]string{"1.*", "1, ?2|", "[12]"}).Draw(t, "expression")
			}
			return m
		})
	}
	one := rapid.Custom(func(t *rapid.T) ir.Route {
		r := ir.Route{Port: rapid.SampledFrom([]uint16{0, 0, 80, 81}).Draw(t, "port"),
			Consumer: rapid.SampledFrom([]string{"", "", "shop", "other"}).Draw(t, "consumer")}
		r.Match.PathType = rapid.SampledFrom([]mesh.PathMatchType{"", mesh.PathExact, mesh.PathPrefix, mesh.PathPrefix, mesh.PathRegex}).Draw(t, "type")
		r.Match.Path = path.Draw(t, "path")
		if r.Match.PathType == mesh.PathRegex {
			r.Match.Path = rapid.SampledFrom([]string{"/a.*", "/.*b", "/"}).Draw(t, "expression")
		}
		r.Match.Method = rapid.SampledFrom([]string{"", "", "GET", "OPTIONS"}).Draw(t, "method")
		r.Match.Headers = rapid.SliceOfN(match(true), 0, 2).Draw(t, "headers")
		r.Match.Query = rapid.SliceOfN(match(true), 0, 1).Draw(t, "query")
		if rapid.IntRange(0, 5).Draw(t, "cors") == 0 {
			r.Filters = []mesh.RouteFilter{{Kind: mesh.FilterCORS, CORS: &mesh.CORS{}}}
		}
		return r
	})
	rapid.Check(t, func(rt *rapid.T) {
		tab, err := NewTable(rapid.SliceOfN(one, 0, 60).Draw(rt, "routes"))
		if err != nil {
			rt.Fatal(err)
		}
		a := &Ask{}
		for range 8 {
			h := ask(rapid.SampledFrom([]string{"GET", "POST", "OPTIONS"}).Draw(rt, "method"), path.Draw(rt, "asked")+
				rapid.SampledFrom([]string{"", "?x=1", "?y=2&x=1"}).Draw(rt, "query"))
			for range rapid.IntRange(0, 3).Draw(rt, "lines") {
				h.Add(rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "name"), value.Draw(rt, "value"))
			}
			a.Head, a.Port, a.Namespace = h, 80, "shop"
			got := tab.Match(a)
			a.Head = h
			a.begin(tab)
			if want := tab.scan(a); got != want {
				rt.Fatalf("%s %s %q: the index finds %v, trying each %v", h.Method, h.Path, h.Fields, got, want)
			}
		}
	})
}

// verdicts is what every route of a table says to a head.
func verdicts(tab *Table, h *message.Head) string {
	var out []string
	for _, v := range tab.Explain(h, 80, false, "shop") {
		out = append(out, v.Why)
	}
	return fmt.Sprint(out)
}

// spell draws a list of values, routes that want some, and the list in five spellings: split over lines or not, with white space
// beside commas, other fields between. It returns the first of them whose verdict by read is not that of the list as one line.
func spell(rt *rapid.T, read func(*Table, *message.Head) string) (varies string) {
	member := rapid.SampledFrom([]string{"de", "en", "fr", ""})
	members := rapid.SliceOfN(member, 1, 4).Draw(rt, "members")
	want := rapid.SliceOfN(member, 1, 3).Draw(rt, "wanted")
	tab, err := NewTable([]ir.Route{
		{Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "lang", Value: strings.Join(want, ", ")}}}},
		{Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "lang", Value: rapid.SampledFrom([]string{
			"de,.*", "de, en", ".*en", "(de|en)(, fr)?"}).Draw(rt, "expression"), Regex: true}}}},
	})
	if err != nil {
		rt.Fatal(err)
	}
	plain := read(tab, ask("GET", "/", "lang", strings.Join(members, ",")))
	for range 5 {
		h := ask("GET", "/")
		line := ""
		for i, m := range members {
			if i > 0 {
				if rapid.Bool().Draw(rt, "split") {
					h.Add("lang", line)
					line = ""
					if rapid.Bool().Draw(rt, "between") {
						h.Add("other", "x")
					}
				} else {
					line += rapid.SampledFrom([]string{",", ", ", " ,", " \t, "}).Draw(rt, "comma")
				}
			}
			line += m
		}
		h.Add("lang", line)
		if got := read(tab, h); got != plain {
			varies = fmt.Sprintf("%q: %s; joined: %s", h.Fields, got, plain)
		}
	}
	return varies
}

// TestVerdictIsInvariantUnderSpelling: splitting a header over lines, joining lines, white
// space beside commas, and the order among other headers change no verdict. The controls are readers that look at the
// first line only, at each line by itself, or at white space.
func TestVerdictIsInvariantUnderSpelling(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if varies := spell(rt, verdicts); varies != "" {
			rt.Fatal(varies)
		}
	})
	langs := func(h *message.Head) (lines []*message.Head) {
		for _, f := range h.Fields {
			if string(f.Name) == "lang" {
				lines = append(lines, ask("GET", "/", "lang", string(f.Value)))
			}
		}
		return lines
	}
	for name, read := range map[string]func(*Table, *message.Head) string{
		"the first line only": func(tab *Table, h *message.Head) string { return verdicts(tab, langs(h)[0]) },
		"each line by itself": func(tab *Table, h *message.Head) string {
			var taken [2]bool
			for _, line := range langs(h) {
				for i, v := range tab.Explain(line, 80, false, "shop") {
					taken[i] = taken[i] || v.Why == ""
				}
			}
			return fmt.Sprint(taken)
		},
		"white space counts": func(tab *Table, h *message.Head) string {
			joined := bytes.Join(func() (values [][]byte) {
				for _, line := range langs(h) {
					values = append(values, line.Fields[0].Value)
				}
				return values
			}(), []byte(","))
			return verdicts(tab, ask("GET", "/", "lang", strings.NewReplacer(" ", "\v", "\t", "\v").Replace(string(joined))))
		},
	} {
		varied := ""
		rapid.Check(t, func(rt *rapid.T) { varied = cmp.Or(varied, spell(rt, read)) })
		if varied == "" {
			t.Errorf("control: where %s, no verdict varied, so nothing was shown", name)
		}
	}
}

// forge draws a spelling of one of the mesh's own names, and returns what is wrong with the fields and the trailers that strip leaves.
// Names are in lower case by then, as engines must give them: net/http's canonical form stands for what they read.
func forge(rt *rapid.T, lower func(string) string, strip func(*message.Head), trailers func([]message.Field) []message.Field) (fault string) {
	own := rapid.SampledFrom([]string{"isthmus-to", "isthmus-deadline", "isthmus-", "x-forwarded-client-cert"}).Draw(rt, "name")
	spelled := []byte(own)
	for i, c := range spelled {
		if c == '-' && rapid.Bool().Draw(rt, "underscore") {
			spelled[i] = '_'
		}
	}
	h := ask("GET", "/", "isthmus", "kept", "x-isthmus-to", "kept", lower(http.CanonicalHeaderKey(string(spelled))), "forged",
		"x-forwarded-client-certs", "kept", string(spelled), "forged again")
	if rapid.Bool().Draw(rt, "reversed") {
		slices.Reverse(h.Fields)
	}
	after := trailers(slices.Clone(h.Fields))
	strip(h)
	for _, fields := range [][]message.Field{h.Fields, after} {
		if len(fields) != 3 || slices.ContainsFunc(fields, func(f message.Field) bool { return string(f.Value) != "kept" }) {
			fault = fmt.Sprintf("%s: left %q", spelled, fields)
		}
	}
	return fault
}

// TestStripKnowsEverySpelling: the mesh's own fields are gone in whatever case and with
// whatever of '-' and '_' they come, and nothing else is. The controls lack one part of that each.
func TestStripKnowsEverySpelling(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if fault := forge(rt, strings.ToLower, Strip, StripTrailers); fault != "" {
			rt.Fatal(fault)
		}
	})
	as := func(s string) string { return s }
	keep := func(f []message.Field) []message.Field { return f }
	// exact is Strip to which '_' is another character than '-'.
	exact := func(h *message.Head) {
		swap := func(from, to string) {
			for i := range h.Fields {
				h.Fields[i].Name = bytes.ReplaceAll(h.Fields[i].Name, []byte(from), []byte(to))
			}
		}
		swap("_", "~")
		Strip(h)
		swap("~", "_")
	}
	for name, control := range map[string]func(*rapid.T) string{
		"names come in the sender's case": func(rt *rapid.T) string { return forge(rt, as, Strip, StripTrailers) },
		"'_' is not '-'":                  func(rt *rapid.T) string { return forge(rt, strings.ToLower, exact, StripTrailers) },
		"trailers are let through":        func(rt *rapid.T) string { return forge(rt, strings.ToLower, Strip, keep) },
	} {
		passed := ""
		rapid.Check(t, func(rt *rapid.T) { passed = cmp.Or(passed, control(rt)) })
		if passed == "" {
			t.Errorf("control: where %s, nothing forged was left, so nothing was shown", name)
		}
	}
}

// TestCriticalityStaysInAFieldOfItsOwn: of what applications say under our names, one criticality is left of a request, if
// it is one and is spelled as ours; of nothing else that is stripped.
func TestCriticalityStaysInAFieldOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{[]string{"isthmus-criticality", "sheddable"}, "[sheddable]"},
		{[]string{"isthmus-criticality", "highest", "isthmus-criticality", "Critical_Plus", "isthmus-criticality", "sheddable"}, "[Critical_Plus]"},
		{[]string{"isthmus_criticality", "sheddable"}, "[]"},
		{[]string{"isthmus-criticality", ""}, "[]"},
		{[]string{"isthmus-criticality", "sheddable, critical"}, "[]"},
		{[]string{"isthmus-to", "shop/vault:80", "isthmus-brownout", "critical", "x-forwarded-client-cert", "critical", "isthmus-criticalit", "critical"}, "[]"},
	} {
		h := ask("GET", "/", c.fields...)
		StripRequest(h)
		values := [][]byte{}
		for _, f := range h.Fields {
			values = append(values, f.Value)
		}
		if got := fmt.Sprintf("%s", values); got != c.want {
			t.Errorf("%q: left %s, want %s", c.fields, got, c.want)
		}
		if Strip(h); len(h.Fields) != 0 {
			t.Errorf("%q: left %q where nothing may be", c.fields, h.Fields)
		}
	}
}

func TestExpressionsMatchTheWhole(t *testing.T) {
	tab := table(t, ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathRegex, Path: "/a|/b[0-9]"}})
	for path, want := range map[string]bool{"/a": true, "/b1": true, "/ab": false, "/b12": false, "/x/a": false, "/A": false, "/a?b": true} {
		if got := tab.Match(&Ask{Head: ask("GET", path), Port: 80}) != nil; got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	for _, bad := range []string{"a)|(b", "(", "[", `\z)(`} {
		if _, err := NewTable([]ir.Route{{Match: mesh.RouteMatch{PathType: mesh.PathRegex, Path: bad}}}); err == nil {
			t.Errorf("%s is no expression by itself", bad)
		}
	}
}

// TestFirstEntryOfANameCounts: Gateway API, HTTPHeaderMatch.name.
func TestFirstEntryOfANameCounts(t *testing.T) {
	tab := table(t, ir.Route{Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "x", Value: "1"}, {Name: "x", Value: "2"}},
		Query: []mesh.ValueMatch{{Name: "q", Value: "1"}, {Name: "q", Value: "2"}}}})
	if tab.Match(&Ask{Head: ask("GET", "/?q=1&q=2", "x", "1")}) == nil {
		t.Error("the first entry holds, and the second was looked at")
	}
}

// TestWeightsAreExact: of all draws each backend gets its share to within one.
func TestWeightsAreExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.Uint32Range(0, 9), 1, 5).Draw(rt, "weights")
		r := ir.Route{}
		sum := uint32(0)
		for _, w := range weights {
			r.Backends = append(r.Backends, ir.Backend{Weight: w})
			sum += w
		}
		c := &table(t, r).routes[0]
		const draws = 1 << 12
		got := map[*ir.Backend]int{}
		for i := range uint64(draws) {
			got[c.Backend(uint32(i*(1<<32/draws)))]++
		}
		for i := range r.Backends {
			b := &c.Backends[i]
			if want := float64(draws) * float64(b.Weight) / float64(max(sum, 1)); sum > 0 && (float64(got[b]) < want-1 || float64(got[b]) > want+1) {
				rt.Errorf("%v: backend %d was drawn %d times, want %.1f", weights, i, got[b], want)
			}
		}
		if sum == 0 && got[nil] != draws {
			rt.Error("a backend without weight was drawn")
		}
	})
}

func benchmarkMatch(b *testing.B, n int, make func(i int) ir.Route, h *message.Head) {
	routes := []ir.Route{}
	for i := range n {
		routes = append(routes, make(i))
	}
	tab := table(b, routes...)
	a := &Ask{}
	b.ReportAllocs()
	for b.Loop() {
		a.Head, a.Port, a.Namespace = h, 80, "shop"
		if tab.Match(a) == nil {
			b.Fatal("no route")
		}
	}
}

// BenchmarkMatch finds the last of n routes.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10000} {
		b.Run(fmt.Sprint("prefix/", n), func(b *testing.B) {
			benchmarkMatch(b, n, func(i int) ir.Route {
				return ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: fmt.Sprintf("/api/v1/tenant%05d", i)}}
			}, ask("GET", fmt.Sprintf("/api/v1/tenant%05d/orders/17?q=1", n-1), "accept", "*/*", "user-agent", "curl"))
		})
		b.Run(fmt.Sprint("exact/", n), func(b *testing.B) {
			benchmarkMatch(b, n, func(i int) ir.Route {
				return ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathExact, Path: fmt.Sprintf("/api/v1/tenant%05d", i)}}
			}, ask("GET", fmt.Sprintf("/api/v1/tenant%05d", n-1), "accept", "*/*", "user-agent", "curl"))
		})
		b.Run(fmt.Sprint("header/", n), func(b *testing.B) {
			benchmarkMatch(b, n, func(i int) ir.Route {
				return ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/", Headers: []mesh.ValueMatch{{Name: "x-tenant", Value: fmt.Sprint(i)}}}}
			}, ask("GET", "/orders", "accept", "*/*", "user-agent", "curl", "x-tenant", fmt.Sprint(n-1)))
		})
		b.Run(fmt.Sprint("grpc/", n), func(b *testing.B) {
			benchmarkMatch(b, n, func(i int) ir.Route {
				return ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathExact, Path: fmt.Sprintf("/shop.v%d.Catalog/Get", i), Method: "POST"}}
			}, ask("POST", fmt.Sprintf("/shop.v%d.Catalog/Get", n-1), "content-type", "application/grpc"))
		})
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	tab := table(t,
		ir.Route{Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "lang", Value: "de, fr"}, {Name: "x", Value: ".*, 3", Regex: true}}}},
		ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/a", Headers: []mesh.ValueMatch{{Name: "x", Value: "1,.*", Regex: true}}}})
	h := ask("GET", "/a/b?q=1", "lang", "de", "lang", "fr", "x", "1 ,2")
	a := &Ask{}
	run := func() {
		a.Head, a.Port = h, 80
		if tab.Match(a) == nil {
			t.Fatal("no route")
		}
	}
	run()
	if raceEnabled {
		return
	}
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations a match", n)
	}
}

// TestConsumersRoutesReplaceTheProducers: GEP-1294, Multiple routes for a Service and Ports.
func TestConsumersRoutesReplaceTheProducers(t *testing.T) {
	tab := table(t,
		ir.Route{Object: "own", Consumer: "bank", Port: 80, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/pay"}},
		ir.Route{Object: "producer", Port: 80, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/"}},
		ir.Route{Object: "second", Port: 81, Match: mesh.RouteMatch{PathType: mesh.PathExact, Path: "/only"}})
	for _, c := range []struct {
		namespace, path string
		port            uint16
		want            string // the route, "-" for none though some are attached, "" where none is
	}{
		{"bank", "/pay/1", 80, "own"}, {"bank", "/cart", 80, "-"}, {"shop", "/pay/1", 80, "producer"},
		{"bank", "/only", 81, "second"}, {"bank", "/pay/1", 81, "-"}, {"shop", "/", 81, "-"},
		{"shop", "/", 3306, ""}, {"bank", "/pay/1", 3306, ""},
	} {
		a := &Ask{Head: ask("GET", c.path), Port: c.port, Namespace: c.namespace}
		got := "-"
		if r := tab.Match(a); r != nil {
			got = r.Object
		} else if !tab.Attached(c.port, false, c.namespace) {
			got = ""
		}
		attached := false
		taken := ""
		for _, v := range tab.Explain(ask("GET", c.path), c.port, false, c.namespace) {
			if attached = attached || !v.Others; v.Why == "" && taken == "" {
				taken = v.Object
			}
		}
		if got != c.want || attached != (c.want != "") || taken != strings.Trim(c.want, "-") {
			t.Errorf("%s asks %s on %d: %q, explained as %q (attached %v), want %q", c.namespace, c.path, c.port, got, taken, attached, c.want)
		}
	}
}

// TestHostIsMatchedAsAHeader: routes of services have no host names of their own, the API tells
// people to match the header instead. More routes than a bucket is tried one by one for.
func TestHostIsMatchedAsAHeader(t *testing.T) {
	var routes []ir.Route
	for i := range keyedFrom + 2 {
		routes = append(routes, ir.Route{Rule: i, Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "host", Value: fmt.Sprintf("s%d.shop", i)}}}})
	}
	routes = append(routes, ir.Route{Rule: 99, Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "host", Value: `.*[.]example[.]com(:\d+)?`, Regex: true}}}})
	tab := table(t, routes...)
	for host, want := range map[string]int{"s9.shop": 9, "s0.shop": 0, "a.example.com:8080": 99, "example.com": -1} {
		h := ask("GET", "/")
		h.Authority = []byte(host)
		got := -1
		if r := tab.Match(&Ask{Head: h, Port: 80, Namespace: "shop"}); r != nil {
			got = r.Rule
		}
		if got != want {
			t.Errorf("%s: rule %d, want %d", host, got, want)
		}
	}
}

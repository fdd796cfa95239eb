// Package route is what a service's routes say of one request: which of them takes it, how
// its head changes, whether it is answered here. Its one idea is that this is a function of a
// head and of an immutable Table, the same for the proxy that acts and for the explanation that a
// person reads.
//
// It sends nothing, chooses no endpoint and decides on no access. It also holds the one
// normal form of paths and the names that are the mesh's own, on which matching leans. Read Table
// first, then Table.Match.
package route

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Table is the routes of a service, compiled. It is immutable and safe for concurrent use.
type Table struct {
	routes []Route
	index  index
	// consumers are those whose routes replace the producer's, and on which port, 0 for every.
	consumers []consumer
}

type consumer struct {
	namespace string
	port      uint16
	datagrams bool
}

// Route is an ir.Route with its expressions compiled.
type Route struct {
	*ir.Route
	// Label names object and rule, for records.
	Label string
	// CORS is the filter of that kind, or nil.
	CORS *mesh.CORS

	requests bool // it is of a kind for requests, not connections
	path     *regexp.Regexp
	headers  []matcher
	query    []matcher
	weight   uint32 // sum over backends
}

// fieldHost is the name by which routes of services speak of the authority (GEP-1294, hostnames);
// no head bears it as a field.
const fieldHost = "host"

// matcher compares one value; re is nil where the comparison is exact.
type matcher struct {
	mesh.ValueMatch
	re *regexp.Regexp
}

// NewTable compiles routes, which are in order of precedence. The error names the one that
// cannot be understood.
func NewTable(routes []ir.Route) (*Table, error) {
	t := &Table{routes: make([]Route, len(routes))}
	for i := range routes {
		r := &routes[i]
		c := Route{Route: r, Label: r.Object + " rule " + strconv.Itoa(r.Rule)}
		kind, _, _ := strings.Cut(r.Object, " ")
		c.requests = kind == string(mesh.KindHTTPRoute) || kind == string(mesh.KindGRPCRoute)
		var err error
		if r.Match.PathType == mesh.PathRegex {
			if c.path, err = whole(r.Match.Path); err != nil {
				return nil, fmt.Errorf("%s rule %d: path: %w", r.Object, r.Rule, err)
			}
		}
		if c.headers, err = matchers(r.Match.Headers); err != nil {
			return nil, fmt.Errorf("%s rule %d: headers: %w", r.Object, r.Rule, err)
		}
		if c.query, err = matchers(r.Match.Query); err != nil {
			return nil, fmt.Errorf("%s rule %d: query: %w", r.Object, r.Rule, err)
		}
		for _, b := range r.Backends {
			c.weight += b.Weight
		}
		for j := range r.Filters {
			if f := &r.Filters[j]; f.Kind == mesh.FilterCORS && c.CORS == nil {
				c.CORS = f.CORS
			}
		}
		t.routes[i] = c
		if who := (consumer{r.Consumer, r.Port, r.Datagrams}); r.Consumer != "" && !slices.Contains(t.consumers, who) {
			t.consumers = append(t.consumers, who)
		}
	}
	t.index = newIndex(t.routes)
	return t, nil
}

// whole compiles an expression that must match all of its subject, as Gateway API's
// users know it from other implementations. It must be an expression by itself: "a)|(b" is none.
func whole(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// matchers compiles a list. Of entries with one name the first alone counts (Gateway API
// HTTPHeaderMatch.name, HTTPQueryParamMatch.name).
func matchers(in []mesh.ValueMatch) ([]matcher, error) {
	var out []matcher
	for _, m := range in {
		if slices.ContainsFunc(out, func(o matcher) bool { return o.Name == m.Name }) {
			continue
		}
		c := matcher{ValueMatch: m}
		if m.Regex {
			var err error
			if c.re, err = whole(m.Value); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// Ask is a request held against routes. It may be used again; its storage is kept.
type Ask struct {
	Head *message.Head
	// Port of the service that was asked for, and Namespace of the caller.
	Port      uint16
	Namespace string
	// Datagrams says that the port is one of UDP.
	Datagrams bool

	// consumer is whose routes count: the caller's namespace, or "" for the producer's.
	consumer            string
	method, path, query string
	joined              []byte
}

// begin splits the path of the head, which must not change while the ask is in use.
func (a *Ask) begin(t *Table) {
	a.consumer = t.consumer(a.Port, a.Datagrams, a.Namespace)
	a.split()
}

func (a *Ask) split() {
	a.method = view(a.Head.Method)
	a.path, a.query, _ = strings.Cut(view(a.Head.Path), "?")
}

// end lets go of the head.
func (a *Ask) end() { a.Head, a.consumer, a.method, a.path, a.query = nil, "", "", "", "" }

// Match returns the first route that takes the request, in order of precedence; nil if
// none does.
//
// A preflight (Fetch standard, §3.2.2) is made for a request of another method: where no
// route takes it as OPTIONS to answer it, the route of that method does, if it has a CORS filter.
func (t *Table) Match(a *Ask) *Route {
	a.begin(t)
	defer a.end()
	r := t.index.first(t.routes, a)
	if r != nil && r.CORS != nil {
		return r
	}
	if method := PreflightMethod(a.Head); method != nil {
		a.method = view(method)
		if other := t.index.first(t.routes, a); other != nil && other.CORS != nil {
			return other
		}
	}
	return r
}

// scan is Match by trying every route: what the index must agree with.
func (t *Table) scan(a *Ask) *Route {
	for i := range t.routes {
		if what, _ := t.routes[i].miss(a); what == missNothing {
			return &t.routes[i]
		}
	}
	return nil
}

// consumer is whose routes a caller takes: those of its own namespace where there are any for the
// port, else the producer's, named "". The two are never mixed (GEP-1294, Multiple routes for a
// Service).
func (t *Table) consumer(port uint16, datagrams bool, namespace string) string {
	for _, c := range t.consumers {
		if c.namespace == namespace && c.datagrams == datagrams && (c.port == 0 || c.port == port) {
			return namespace
		}
	}
	return ""
}

// Attached reports whether any route is for this caller and port: without one the service is
// its own backend there.
func (t *Table) Attached(port uint16, datagrams bool, namespace string) bool {
	consumer := t.consumer(port, datagrams, namespace)
	for i := range t.routes {
		if r := &t.routes[i]; r.Consumer == consumer && r.Datagrams == datagrams && (r.Port == 0 || r.Port == port) {
			return true
		}
	}
	return false
}

// OfRequests reports whether the routes for this caller and port tell requests apart: where they do, connections are
// not theirs. Each port has routes of one kind.
func (t *Table) OfRequests(port uint16, namespace string) bool {
	consumer := t.consumer(port, false, namespace)
	for i := range t.routes {
		if r := &t.routes[i]; r.Consumer == consumer && !r.Datagrams && (r.Port == 0 || r.Port == port) {
			return r.requests
		}
	}
	return false
}

// view is b as a string without a copy: for a call that does not keep it, while nothing
// writes to b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// missed is the part of a match that does not hold.
type missed uint8

const (
	missNothing missed = iota
	missPort
	missConsumer
	missMethod
	missPath
	missHeader
	missQuery
)

// miss returns the first part of the route's match that does not hold, with its index among
// headers or query parameters.
func (r *Route) miss(a *Ask) (missed, int) {
	m := &r.Match
	switch {
	case r.Port != 0 && r.Port != a.Port, r.Datagrams != a.Datagrams:
		return missPort, 0
	case r.Consumer != a.consumer:
		return missConsumer, 0
	case m.Method != "" && m.Method != a.method:
		return missMethod, 0
	case !r.matchesPath(a.path):
		return missPath, 0
	}
	for i := range r.headers {
		if !a.matchesHeader(&r.headers[i]) {
			return missHeader, i
		}
	}
	for i := range r.query {
		if !matchesQuery(a.query, &r.query[i]) {
			return missQuery, i
		}
	}
	return missNothing, 0
}

func (r *Route) matchesPath(path string) bool {
	switch r.Match.PathType {
	case mesh.PathExact:
		return path == r.Match.Path
	case mesh.PathPrefix:
		return hasPathPrefix(path, r.Match.Path)
	case mesh.PathRegex:
		return r.path.MatchString(path)
	}
	return true
}

// hasPathPrefix compares element by element (Gateway API PathMatchPathPrefix): /a is a
// prefix of /a and /a/b, not of /ab.
func hasPathPrefix(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// matchesHeader looks at all values of the name, so that splitting a field over lines,
// or joining lines to one, changes no verdict (RFC 9110 §5.3). An expression is held against
// the list in two forms, "a,b" and "a, b", since those who write one think of either; white space
// beside commas counts in neither.
func (a *Ask) matchesHeader(want *matcher) bool {
	h := a.Head
	var first []byte
	lines := 0
	if want.Name == fieldHost {
		first, lines = h.Authority, 1
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		if string(f.Name) != want.Name {
			continue
		}
		switch lines++; lines {
		case 1:
			first = f.Value
		case 2:
			a.joined = append(a.joined[:0], first...)
			fallthrough
		default:
			a.joined = append(append(a.joined, ','), f.Value...)
		}
	}
	got := view(first)
	switch {
	case lines == 0:
		return false
	case lines > 1:
		got = view(a.joined)
	}
	switch {
	case want.re == nil:
		return got == want.Value || sameList(got, want.Value)
	case strings.IndexByte(got, ',') < 0:
		return want.re.MatchString(got)
	}
	n := len(got) // what is joined is not overwritten: the forms stand behind it
	if lines == 1 {
		a.joined = append(a.joined[:0], got...)
	}
	a.joined = appendList(a.joined, a.joined[:n], ",")
	if want.re.Match(a.joined[n:]) {
		return true
	}
	a.joined = appendList(a.joined[:n], a.joined[:n], ", ")
	return want.re.Match(a.joined[n:])
}

// appendList appends list with its members parted by sep alone.
func appendList(b, list []byte, sep string) []byte {
	for i, more := 0, true; more; i++ {
		var member []byte
		member, list, more = bytes.Cut(list, []byte(","))
		if i > 0 {
			b = append(b, sep...)
		}
		b = append(b, bytes.Trim(member, " \t")...)
	}
	return b
}

// sameList compares values as comma-separated lists, white space beside commas aside.
func sameList(a, b string) bool {
	for {
		x, restA, moreA := strings.Cut(a, ",")
		y, restB, moreB := strings.Cut(b, ",")
		if moreA != moreB || strings.Trim(x, " \t") != strings.Trim(y, " \t") {
			return false
		}
		if !moreA {
			return true
		}
		a, b = restA, restB
	}
}

// matchesQuery compares the first value of the parameter.
func matchesQuery(query string, want *matcher) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if unescape(name) != want.Name {
			continue
		}
		if value = unescape(value); want.re != nil {
			return want.re.MatchString(value)
		}
		return value == want.Value
	}
	return false
}

// unescape decodes + and %XX of a query; what is malformed stays as it is.
func unescape(s string) string {
	if !strings.ContainsAny(s, "+%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b.WriteByte(' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b.WriteByte(fromHex(s[i+1])<<4 | fromHex(s[i+2]))
			i += 2
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func fromHex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// Backend draws one of the route's backends by weight; nil when there is none to draw
// (Gateway API: the response is then 500).
func (r *Route) Backend(random uint32) *ir.Backend {
	if r.weight == 0 {
		return nil
	}
	at := uint32(uint64(random) * uint64(r.weight) >> 32)
	for i := range r.Backends {
		b := &r.Backends[i]
		if at < b.Weight {
			return b
		}
		at -= b.Weight
	}
	return nil
}

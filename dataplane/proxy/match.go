package proxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// route is an ir.Route with its expressions compiled.
type route struct {
	*ir.Route
	path    *regexp.Regexp
	headers []*regexp.Regexp // nil where the comparison is exact
	query   []*regexp.Regexp
	weight  uint32 // sum over backends
	label   string // for the record
}

// NewService prepares a service for requests. prev, nil for none, lends its retry budget.
// The error names the route that cannot be understood; such a service is refused whole, and the
// last good one stays in force.
func NewService(s *ir.Service, view *balance.View, prev *Service) (*Service, error) {
	out := &Service{Service: s, View: view, Budget: &balance.Budget{}, routes: make([]route, len(s.Routes)), to: s.Name.String()}
	if prev != nil {
		out.Budget = prev.Budget
	}
	for i := range s.Routes {
		r := &s.Routes[i]
		c := route{Route: r, label: r.Object + " rule " + strconv.Itoa(r.Rule)}
		var err error
		if r.Match.PathType == mesh.PathRegex {
			if c.path, err = whole(r.Match.Path); err != nil {
				return nil, fmt.Errorf("%s rule %d: path: %w", r.Object, r.Rule, err)
			}
		}
		if c.headers, err = expressions(r.Match.Headers); err != nil {
			return nil, fmt.Errorf("%s rule %d: headers: %w", r.Object, r.Rule, err)
		}
		if c.query, err = expressions(r.Match.Query); err != nil {
			return nil, fmt.Errorf("%s rule %d: query: %w", r.Object, r.Rule, err)
		}
		for _, b := range r.Backends {
			c.weight += b.Weight
		}
		out.routes[i] = c
	}
	return out, nil
}

// whole compiles an expression that must match all of its subject.
func whole(expr string) (*regexp.Regexp, error) { return regexp.Compile(`\A(?:` + expr + `)\z`) }

func expressions(in []mesh.ValueMatch) ([]*regexp.Regexp, error) {
	out := make([]*regexp.Regexp, len(in))
	for i, m := range in {
		if !m.Regex {
			continue
		}
		re, err := whole(m.Value)
		if err != nil {
			return nil, err
		}
		out[i] = re
	}
	return out, nil
}

// match returns the first route that takes the request, in order of precedence; nil if
// none does.
func (s *Service) match(h *message.Head, port uint16, namespace string) *route {
	path, query, _ := strings.Cut(view(h.Path), "?") // kept by nothing below
	for i := range s.routes {
		if what, _ := s.routes[i].miss(h, port, namespace, path, query); what == missNothing {
			return &s.routes[i]
		}
	}
	return nil
}

// Verdict is one route held against a request.
type Verdict struct {
	*ir.Route
	// Others says that the route is for callers of another namespace: for this one it is as if
	// it were not attached.
	Others bool
	// Why the route does not take the request, for people; empty where it would.
	Why string
}

// Explain holds every route against a request, in order of precedence: the first without a
// Why is the one that Outbound takes.
func (s *Service) Explain(h *message.Head, port uint16, namespace string) []Verdict {
	path, query, _ := strings.Cut(string(h.Path), "?")
	out := make([]Verdict, len(s.routes))
	for i := range s.routes {
		r := &s.routes[i]
		what, at := r.miss(h, port, namespace, path, query)
		out[i] = Verdict{Route: r.Route, Others: what == missConsumer, Why: r.describe(what, at)}
	}
	return out
}

// Redirect is the status with which the route answers by itself, 0 if it forwards.
func (v *Verdict) Redirect(h *message.Head) int {
	var reply message.Head
	if redirect(&reply, h, v.Filters, &v.Match) {
		return reply.Status
	}
	return 0
}

// Forward changes h as the filters of the route and of one of its backends do: what the
// server proxy then decides on.
func (v *Verdict) Forward(h *message.Head, b *ir.Backend) {
	filterRequest(h, v.Filters, &v.Match)
	filterRequest(h, b.Filters, &v.Match)
}

// StatusOf is the status that a reason is answered with.
func StatusOf(r mesh.Reason) int { return statusOf(r) }

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
func (r *route) miss(h *message.Head, port uint16, namespace, path, query string) (missed, int) {
	m := &r.Match
	switch {
	case r.Port != 0 && r.Port != port:
		return missPort, 0
	case r.Consumer != "" && r.Consumer != namespace:
		return missConsumer, 0
	case m.Method != "" && m.Method != string(h.Method):
		return missMethod, 0
	case !r.matchesPath(path):
		return missPath, 0
	}
	for i, want := range m.Headers {
		if !matchesHeader(h, want, r.headers[i]) {
			return missHeader, i
		}
	}
	for i, want := range m.Query {
		if !matchesQuery(query, want, r.query[i]) {
			return missQuery, i
		}
	}
	return missNothing, 0
}

// describe says what a miss is.
func (r *route) describe(what missed, at int) string {
	m := &r.Match
	switch what {
	case missPort:
		return fmt.Sprintf("it is for port %d", r.Port)
	case missConsumer:
		return "it is for callers of namespace " + r.Consumer
	case missMethod:
		return "the method is not " + m.Method
	case missPath:
		return fmt.Sprintf("the path does not match %s %s", m.PathType, m.Path)
	case missHeader:
		return fmt.Sprintf("header %s is not %s", m.Headers[at].Name, m.Headers[at].Value)
	case missQuery:
		return fmt.Sprintf("query parameter %s is not %s", m.Query[at].Name, m.Query[at].Value)
	}
	return ""
}

func (r *route) matchesPath(path string) bool {
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
// or joining lines to one, changes no verdict (RFC 9110 §5.3). It allocates only for a
// field of several lines.
func matchesHeader(h *message.Head, want mesh.ValueMatch, re *regexp.Regexp) bool {
	var first []byte
	var joined strings.Builder
	lines := 0
	for i := range h.Fields {
		f := &h.Fields[i]
		if string(f.Name) != want.Name {
			continue
		}
		switch lines++; lines {
		case 1:
			first = f.Value
		case 2:
			joined.Write(first)
			fallthrough
		default:
			joined.WriteByte(',')
			joined.Write(f.Value)
		}
	}
	if lines == 0 {
		return false
	}
	got := view(first)
	if lines > 1 {
		got = joined.String()
	}
	if re != nil {
		return re.MatchString(got)
	}
	return got == want.Value || sameList(got, want.Value)
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
func matchesQuery(query string, want mesh.ValueMatch, re *regexp.Regexp) bool {
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if unescape(name) == want.Name {
			return matchesValue(unescape(value), want, re)
		}
	}
	return false
}

func matchesValue(got string, want mesh.ValueMatch, re *regexp.Regexp) bool {
	if re != nil {
		return re.MatchString(got)
	}
	return got == want.Value
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

// backend draws one of the route's backends by weight; nil when there is none to draw
// (Gateway API: the response is then 500).
func (r *route) backend(random uint32) *ir.Backend {
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

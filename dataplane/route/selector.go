package route

import (
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Selector is a mesh.RequestMatch, compiled: which requests a policy speaks of. It is
// immutable; the zero value selects all.
type Selector struct {
	methods, paths []string
	headers        []matcher
}

// NewSelector compiles a match; the error is that of an expression.
func NewSelector(m mesh.RequestMatch) (Selector, error) {
	headers, err := matchers(m.Headers)
	return Selector{m.Methods, m.Paths, headers}, err
}

// Takes reports whether the request of a is selected. Only a.Head is looked at.
func (s *Selector) Takes(a *Ask) bool {
	a.split()
	defer a.end()
	if len(s.methods) > 0 && !slices.Contains(s.methods, a.method) {
		return false
	}
	if len(s.paths) > 0 && !slices.ContainsFunc(s.paths, a.below) {
		return false
	}
	for i := range s.headers {
		if !a.matchesHeader(&s.headers[i]) {
			return false
		}
	}
	return true
}

// below compares with a path that may end in "*", as access policies do.
func (a *Ask) below(path string) bool {
	if prefix, ok := strings.CutSuffix(path, "*"); ok {
		return strings.HasPrefix(a.path, prefix)
	}
	return a.path == path
}

// Joined is all values of a field as one list; nil if there is none. It is valid until a is
// used again.
func (a *Ask) Joined(name string) []byte {
	lines := 0
	for i := range a.Head.Fields {
		f := &a.Head.Fields[i]
		if string(f.Name) != name {
			continue
		}
		if lines++; lines == 1 {
			a.joined = a.joined[:0]
		} else {
			a.joined = append(a.joined, ',')
		}
		a.joined = append(a.joined, f.Value...)
	}
	if lines == 0 {
		return nil
	}
	n := len(a.joined)
	a.joined = appendList(a.joined, a.joined[:n], ",")
	return a.joined[n:]
}

package route

import (
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// index finds the first route without trying all: by the whole path, by its prefixes, and by
// the first header that must have an exact value. Each bucket holds routes in order of precedence, so
// that what is searched is a few short lists, and the least number that takes the request is the
// same that a scan finds. It is immutable.
type index struct {
	exact  map[string]bucket
	prefix map[string]bucket // without a final slash: "/" is ""
	any    bucket            // every path, and expressions
	// depth is how many elements the deepest prefix has: a path with more slashes than that costs
	// no more.
	depth int
}

// bucket is routes by number, ascending.
type bucket struct {
	// plain must be tried one by one; keyed only where the named header has the value, a comma
	// and white space beside it aside.
	plain []int32
	keyed []keyed
}

// keyed is the routes of a bucket that want one value of one header.
type keyed struct {
	header string
	values map[string][]int32
}

// keyedFrom is the length from which a bucket is worth keys: below it trying is cheaper.
const keyedFrom = 8

func newIndex(routes []Route) index {
	exact, prefix := map[string][]int32{}, map[string][]int32{}
	var anyPath []int32
	x := index{exact: map[string]bucket{}, prefix: map[string]bucket{}}
	for i := range routes {
		m, n := &routes[i].Match, int32(i)
		switch m.PathType {
		case mesh.PathExact:
			exact[m.Path] = append(exact[m.Path], n)
		case mesh.PathPrefix:
			p := strings.TrimSuffix(m.Path, "/")
			prefix[p] = append(prefix[p], n)
			x.depth = max(x.depth, strings.Count(p, "/"))
		default:
			anyPath = append(anyPath, n)
		}
	}
	for p, list := range exact {
		x.exact[p] = newBucket(routes, list)
	}
	for p, list := range prefix {
		x.prefix[p] = newBucket(routes, list)
	}
	x.any = newBucket(routes, anyPath)
	return x
}

// newBucket keys routes by their first exact header whose value is one element: of a list
// the comparison is not of bytes (sameList).
func newBucket(routes []Route, list []int32) bucket {
	var b bucket
	if len(list) < keyedFrom {
		b.plain = list
		return b
	}
	for _, n := range list {
		at := -1
		for i := range routes[n].headers {
			if h := &routes[n].headers[i]; h.re == nil && single(h.Value) && h.Name != fieldHost {
				at = i
				break
			}
		}
		if at < 0 {
			b.plain = append(b.plain, n)
			continue
		}
		h := &routes[n].headers[at]
		k := b.key(h.Name)
		k.values[h.Value] = append(k.values[h.Value], n)
	}
	return b
}

// single reports whether a value is compared byte by byte.
func single(v string) bool {
	return !strings.ContainsAny(v, ",") && strings.Trim(v, " \t") == v
}

func (b *bucket) key(header string) *keyed {
	for i := range b.keyed {
		if b.keyed[i].header == header {
			return &b.keyed[i]
		}
	}
	b.keyed = append(b.keyed, keyed{header, map[string][]int32{}})
	return &b.keyed[len(b.keyed)-1]
}

// first returns the first route that takes the request.
func (x *index) first(routes []Route, a *Ask) *Route {
	best := int32(len(routes))
	if b, ok := x.exact[a.path]; ok {
		best = b.first(routes, a, best)
	}
	if len(x.prefix) > 0 {
		best = x.prefixes(routes, a, best)
	}
	best = x.any.first(routes, a, best)
	if int(best) == len(routes) {
		return nil
	}
	return &routes[best]
}

// prefixes tries every prefix of the path that ends before a slash or with the path
// (Gateway API PathMatchPathPrefix: element by element).
func (x *index) prefixes(routes []Route, a *Ask, best int32) int32 {
	path := a.path
	for i, n := 0, 0; n <= x.depth && i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		n++
		if b, ok := x.prefix[path[:i]]; ok {
			best = b.first(routes, a, best)
		}
	}
	return best
}

// first returns the least number below best that takes the request, or best.
func (b *bucket) first(routes []Route, a *Ask, best int32) int32 {
	best = firstOf(b.plain, routes, a, best)
	for i := range b.keyed {
		k := &b.keyed[i]
		if v, ok := a.value(k.header); ok {
			best = firstOf(k.values[v], routes, a, best)
		}
	}
	return best
}

// value is the one value of a header that a key can equal; a list of several equals none.
func (a *Ask) value(name string) (string, bool) {
	var v []byte
	found := false
	for i := range a.Head.Fields {
		f := &a.Head.Fields[i]
		if string(f.Name) != name {
			continue
		}
		if found {
			return "", false
		}
		v, found = f.Value, true
	}
	return strings.Trim(view(v), " \t"), found
}

func firstOf(list []int32, routes []Route, a *Ask, best int32) int32 {
	for _, n := range list {
		if n >= best {
			return best
		}
		if what, _ := routes[n].miss(a); what == missNothing {
			return n
		}
	}
	return best
}

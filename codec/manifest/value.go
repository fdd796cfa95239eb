package manifest

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// valueKind is the JSON kind of a value.
type valueKind uint8

const (
	kindNull valueKind = iota
	kindBool
	kindInt
	kindFloat
	kindString
	kindList
	kindObject
)

// article names the kind in a sentence.
func (k valueKind) article() string {
	return [...]string{"nothing", "a boolean", "a number", "a number", "text", "a list", "an object"}[k]
}

// place is a line and a column, both from 1; columns count characters.
type place struct{ line, column int }

// value is one JSON value with the place it was written at. An alias shares the
// value of its anchor, so the tree is a directed acyclic graph: size and depth are
// those of the expanded tree and are known without expanding it.
type value struct {
	place
	kind   valueKind
	text   string // scalars: canonical JSON for numbers and booleans, the text for strings
	list   []*value
	fields []field
	size   int // bytes of canonical JSON, saturating at maxSize
	depth  int
	broken bool // a document of which something could not be read
}

// field is one member of an object.
type field struct {
	place // of the key
	key   string
	value *value
}

// maxSize keeps the sums of sizes from overflowing: two of them still fit an int.
const maxSize = math.MaxInt32

func addSize(a, b int) int { return min(a+b, maxSize) }

// measure sets size and depth from the children.
func (v *value) measure() *value {
	switch v.kind {
	case kindNull:
		v.size = len("null")
	case kindString:
		v.size = quotedLen(v.text)
	case kindList:
		v.size = 2 + max(0, len(v.list)-1)
		for _, e := range v.list {
			v.size = addSize(v.size, e.size)
			v.depth = max(v.depth, e.depth+1)
		}
	case kindObject:
		v.size = 2 + max(0, len(v.fields)-1)
		for _, f := range v.fields {
			v.size = addSize(v.size, addSize(quotedLen(f.key)+1, f.value.size))
			v.depth = max(v.depth, f.value.depth+1)
		}
	default:
		v.size = len(v.text)
	}
	return v
}

// get returns the member named key, nil if there is none.
func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	for i := range v.fields {
		if v.fields[i].key == key {
			return v.fields[i].value
		}
	}
	return nil
}

// str returns the text of the member named key, if it is text.
func (v *value) str(key string) string {
	if e := v.get(key); e != nil && e.kind == kindString {
		return e.text
	}
	return ""
}

// at returns the value at p, or the deepest that exists on the way there.
func (v *value) at(p *path) *value {
	if p == nil {
		return v
	}
	up := v.at(p.up)
	if p.isIndex() {
		if p.index < len(up.list) {
			return up.list[p.index]
		}
		return up
	}
	if e := up.get(p.name); e != nil {
		return e
	}
	return up
}

// without returns an object without the named members.
func (v *value) without(keys ...string) *value {
	if v == nil || v.kind != kindObject {
		return v
	}
	c := *v
	c.fields = slices.DeleteFunc(slices.Clone(v.fields), func(f field) bool { return slices.Contains(keys, f.key) })
	return &c
}

// with returns an object with the member set to text.
func (v *value) with(key, text string) *value {
	return v.withValue(key, (&value{kind: kindString, text: text}).measure())
}

func (v *value) withValue(key string, e *value) *value {
	c := *v
	c.fields = slices.Clone(v.fields)
	for i := range c.fields {
		if c.fields[i].key == key {
			c.fields[i].value = e
			return &c
		}
	}
	c.fields = append(c.fields, field{key: key, value: e})
	return &c
}

// appendJSON appends canonical JSON: sorted keys, no space, no HTML escapes, members
// that are null left out of objects, as Kubernetes does not tell them from absent
// ones.
func (v *value) appendJSON(b []byte) []byte {
	switch v.kind {
	case kindNull:
		return append(b, "null"...)
	case kindString:
		return appendQuoted(b, v.text)
	case kindList:
		b = append(b, '[')
		for i, e := range v.list {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.appendJSON(b)
		}
		return append(b, ']')
	case kindObject:
		sorted := v.fields
		byKey := func(x, y field) int { return strings.Compare(x.key, y.key) }
		if !slices.IsSortedFunc(sorted, byKey) {
			sorted = slices.SortedFunc(slices.Values(sorted), byKey)
		}
		b = append(b, '{')
		first := true
		for _, f := range sorted {
			if f.value.kind == kindNull {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = appendQuoted(b, f.key)
			b = append(b, ':')
			b = f.value.appendJSON(b)
		}
		return append(b, '}')
	default:
		return append(b, v.text...)
	}
}

// quotedLen is len(appendQuoted(nil, s)) for text without exotic characters and never
// less than it by more than a few bytes a character; it bounds, it does not index.
func quotedLen(s string) int {
	n := len(s) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			n++
		case c < 0x20:
			n += 5
		}
	}
	return n
}

// appendQuoted appends s as a JSON string (RFC 8259 §7) with the fewest escapes.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c < 0x20:
			b = append(b, `\u00`...)
			b = append(b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}

// number returns a number's value: an int where it is one.
func number(text string) (valueKind, string, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return kindInt, strconv.FormatInt(n, 10), true
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return kindInt, strconv.FormatUint(n, 10), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return kindNull, "", false
	}
	return floatText(f)
}

// floatText writes a float as JSON does; a whole number of moderate size is an int,
// so that 1e3 and 1000 are the same.
func floatText(f float64) (valueKind, string, bool) {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return kindInt, strconv.FormatInt(int64(f), 10), true
	}
	return kindFloat, strconv.FormatFloat(f, 'g', -1, 64), true
}

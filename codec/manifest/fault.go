package manifest

import (
	"fmt"
	"strconv"
	"strings"
)

// Fault is one thing wrong with an input, or, among Warnings, one thing its author
// should know.
type Fault struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`   // from 1; 0 where no line is to blame
	Column int    `json:"column,omitempty"` // from 1, in characters
	// The object, as far as it is known.
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Field is the path of the field, such as spec.rules[0].matches[1].path.value.
	Field   string `json:"field,omitempty"`
	Problem string `json:"problem"`
	Remedy  string `json:"remedy,omitempty"`
}

// String is FILE:LINE:COLUMN: KIND NAMESPACE/NAME: FIELD.PATH: what is wrong; what to
// write instead. Parts that are not known are left out.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(f.Line))
		if f.Column > 0 {
			b.WriteByte(':')
			b.WriteString(strconv.Itoa(f.Column))
		}
	}
	b.WriteString(": ")
	if f.Kind != "" {
		b.WriteString(f.Kind)
		if f.Name != "" {
			b.WriteByte(' ')
			if f.Namespace != "" {
				b.WriteString(f.Namespace)
				b.WriteByte('/')
			}
			b.WriteString(f.Name)
		}
		b.WriteString(": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field)
		b.WriteString(": ")
	}
	b.WriteString(f.Problem)
	if f.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(f.Remedy)
	}
	return oneLine(b.String())
}

// oneLine keeps the promise of one fault a line whatever was quoted from the input.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\n\r") {
		return s
	}
	return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(s)
}

// path names a place inside an object; nil is its root. Paths are immutable and
// share their beginnings.
type path struct {
	up    *path
	name  string
	index int // -1 for a name
}

func (p *path) isIndex() bool { return p.index >= 0 }

// field is the path of the named members below p.
func (p *path) field(names ...string) *path {
	for _, n := range names {
		p = &path{up: p, name: n, index: -1}
	}
	return p
}

// item is the path of list element i below p.
func (p *path) item(i int) *path { return &path{up: p, index: i} }

// String is the path with dots and brackets; member names with a dot or slash in them
// stand in brackets.
func (p *path) String() string {
	if p == nil {
		return ""
	}
	up := p.up.String()
	switch {
	case p.isIndex():
		return up + "[" + strconv.Itoa(p.index) + "]"
	case strings.ContainsAny(p.name, "./[] \n\r") || p.name == "":
		return up + "[" + abbreviate(p.name) + "]"
	case up == "":
		return abbreviate(p.name)
	}
	return up + "." + abbreviate(p.name)
}

// abbreviate keeps what is quoted from an input readable.
func abbreviate(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && s[cut]&0xC0 == 0x80 { // not inside a character
		cut--
	}
	return s[:cut] + "…"
}

// quote shows text of the input.
func quote(s string) string { return strconv.Quote(abbreviate(s)) }

// nearest returns the candidate that s is likely a misspelling of: equal but for
// case, or at an edit distance of at most a third of its length. It returns "" if
// there is none.
func nearest(s string, candidates []string) string {
	best, bestCost := "", len(s)/3+1
	if len(s) > 64 {
		return ""
	}
	for _, c := range candidates {
		if strings.EqualFold(s, c) {
			return c
		}
		if len(c) > 64 {
			continue
		}
		if cost := editDistance(strings.ToLower(s), strings.ToLower(c)); cost < bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours
// (optimal string alignment).
func editDistance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// enumerate joins words as a sentence does: "a, b or c".
func enumerate(words []string) string {
	switch len(words) {
	case 0:
		return ""
	case 1:
		return words[0]
	}
	return fmt.Sprintf("%s or %s", strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
}

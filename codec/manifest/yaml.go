//house:exempt a parser

package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep values may nest. Kubernetes objects nest less than twenty deep.
const maxDepth = 100

// maxMerged bounds the members that merge keys (<<) may copy in one input.
const maxMerged = 100_000

// chunk is the text of one YAML document.
type chunk struct {
	text []byte
	line int // of its first line in the input, from 1
}

// splitDocuments cuts the input before each line that begins with the marker "---" and
// after each that begins with "...". YAML forbids such lines inside any scalar (YAML
// 1.2.2 §9.1.2), so cutting needs no parser, and a syntax error in one document does
// not hide the faults of the next.
func splitDocuments(text []byte) []chunk {
	var chunks []chunk
	start, startLine, line := 0, 1, 1
	for i := 0; i < len(text); line++ {
		if i > start && isMarker(text[i:], "---") {
			chunks = append(chunks, chunk{text[start:i], startLine})
			start, startLine = i, line
		}
		n := bytes.IndexByte(text[i:], '\n')
		if n < 0 {
			break
		}
		ended := isMarker(text[i:], "...")
		if i += n + 1; ended {
			chunks = append(chunks, chunk{text[start:i], startLine})
			start, startLine = i, line+1
		}
	}
	return append(chunks, chunk{text[start:], startLine})
}

func isMarker(text []byte, marker string) bool {
	return bytes.HasPrefix(text, []byte(marker)) && (len(text) == 3 || strings.IndexByte(" \t\r\n", text[3]) >= 0)
}

// isBlank reports whether a chunk says nothing: only comments, directives and empty
// lines.
func (c chunk) isBlank() bool {
	for line := range bytes.Lines(c.text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && string(line) != "---" && string(line) != "..." {
			return false
		}
	}
	return true
}

// yamlReader turns YAML nodes into positioned values.
type yamlReader struct {
	tell   func(at place, problem, remedy string)
	broken bool // something of this document was reported
	line   int  // added to the library's lines
	known  map[*yaml.Node]*value
	open   map[*yaml.Node]bool // being read: an alias to one of these is a cycle
	merged *int
}

// readYAML reads the documents of a chunk and reports what is wrong with them.
func readYAML(c chunk, merged *int, report func(at place, problem, remedy string)) []*value {
	r := &yamlReader{tell: report, line: c.line - 1, merged: merged,
		known: map[*yaml.Node]*value{}, open: map[*yaml.Node]bool{}}
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	var values []*value
	for {
		var doc yaml.Node
		err := decodeNode(dec, &doc)
		if errors.Is(err, io.EOF) {
			return values
		}
		if err != nil {
			r.syntax(c, err)
			return values
		}
		if len(doc.Content) == 1 {
			r.broken = false
			if v := r.value(doc.Content[0], 0); v != nil {
				v.broken = r.broken
				values = append(values, v)
			}
		}
	}
}

// decodeNode guards the border to the library: whatever it does on hostile input
// becomes an error of this input.
func decodeNode(dec *yaml.Decoder, doc *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: the parser broke on this document: %v", p)
		}
	}()
	return dec.Decode(doc)
}

// syntax reports a document that is not YAML. The library tells the line only, often
// that of the surrounding block.
func (r *yamlReader) syntax(c chunk, err error) {
	problem := strings.TrimPrefix(err.Error(), "yaml: ")
	at := place{line: 1}
	if rest, ok := strings.CutPrefix(problem, "line "); ok {
		if n, text, ok := strings.Cut(rest, ": "); ok {
			at.line, _ = strconv.Atoi(n)
			problem = text
			if strings.HasPrefix(problem, "did not find expected") {
				at.line++ // the library counts the lines of these from 0
			}
		}
	}
	remedy := "check indentation, quotes and brackets around this line"
	n := 0
	for line := range bytes.Lines(c.text) {
		n++
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 && n >= at.line && strings.Contains(problem, "cannot start any token") {
			at, problem, remedy = place{n, tab + 1}, "a tab in the indentation", "indent with spaces"
			break
		}
		if n == at.line {
			at.column = len(indent) + 1
		}
	}
	at = place{min(at.line, n), max(at.column, 1)}
	switch {
	case strings.Contains(problem, "mapping values are not allowed"):
		remedy = "check the indentation, and quote text that holds a colon and a space"
	case strings.Contains(problem, "unknown anchor"):
		remedy = "define the anchor with & before its first alias, in the same document"
		_, name, _ := strings.Cut(problem, "'")
		name, _, _ = strings.Cut(name, "'")
		if i := bytes.Index(c.text, []byte("*"+name)); i >= 0 {
			at = place{1 + bytes.Count(c.text[:i], []byte("\n")), i - bytes.LastIndexByte(c.text[:i], '\n')}
		}
	}
	r.report(place{at.line + r.line, at.column}, "not YAML: "+problem, remedy)
}

func (r *yamlReader) report(at place, problem, remedy string) {
	r.broken = true
	r.tell(at, problem, remedy)
}

func (r *yamlReader) place(n *yaml.Node) place { return place{n.Line + r.line, n.Column} }

// value reads a node; nil if it was reported.
func (r *yamlReader) value(n *yaml.Node, depth int) *value {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if v, ok := r.known[n]; ok {
		return v
	}
	at := r.place(n)
	if r.open[n] {
		r.report(at, "the anchor "+quote(n.Anchor)+" holds an alias to itself", "remove the alias")
		return nil
	}
	if depth > maxDepth {
		r.report(at, "nested deeper than "+strconv.Itoa(maxDepth)+" levels", "flatten the document")
		return nil
	}
	r.open[n] = true
	defer delete(r.open, n)
	v := &value{place: at}
	switch n.Kind {
	case yaml.ScalarNode:
		if !r.scalar(n, v) {
			return nil
		}
	case yaml.SequenceNode:
		v.kind = kindList
		for _, e := range n.Content {
			if ev := r.value(e, depth+1); ev != nil {
				v.list = append(v.list, ev)
			}
		}
	case yaml.MappingNode:
		v.kind = kindObject
		r.mapping(n, v, depth)
	}
	v.measure()
	if n.Anchor != "" {
		r.known[n] = v
	}
	return v
}

// mapping reads members, then what merge keys add: members written out win, then
// earlier merges (YAML merge key draft).
func (r *yamlReader) mapping(n *yaml.Node, v *value, depth int) {
	seen := make(map[string]place, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Tag == "!!merge" {
			merges = append(merges, n.Content[i+1])
			continue
		}
		at := r.place(n.Content[i])
		var key value
		if k.Kind != yaml.ScalarNode || !r.scalar(k, &key) {
			r.report(at, "a list or an object cannot be a key", "write a plain key")
			continue
		}
		if key.kind == kindNull {
			r.report(at, "an empty key", "write a key before the colon")
			continue
		}
		e := r.value(n.Content[i+1], depth+1)
		if first, twice := seen[key.text]; twice {
			r.report(at, "duplicate key "+quote(key.text)+", first at line "+strconv.Itoa(first.line), "remove one of the two")
			continue
		}
		seen[key.text] = at
		if e != nil {
			v.fields = append(v.fields, field{at, key.text, e})
		}
	}
	for _, m := range merges {
		r.merge(m, v, seen, depth)
	}
}

func (r *yamlReader) merge(n *yaml.Node, v *value, seen map[string]place, depth int) {
	from := r.value(n, depth+1)
	if from == nil {
		return
	}
	sources := []*value{from}
	if from.kind == kindList {
		sources = from.list
	}
	for _, s := range sources {
		if s.kind != kindObject {
			r.report(r.place(n), "<< merges "+s.kind.article(), "merge an alias of an object")
			return
		}
		for _, f := range s.fields {
			if *r.merged++; *r.merged == maxMerged {
				r.report(r.place(n), "merge keys copy more than "+strconv.Itoa(maxMerged)+" members", "write the members out")
			}
			if *r.merged >= maxMerged {
				return
			}
			if _, ok := seen[f.key]; !ok {
				seen[f.key] = f.place
				v.fields = append(v.fields, f)
			}
		}
	}
}

// scalar sets kind and text of v as YAML 1.1 reads the node, reporting false if it
// cannot.
func (r *yamlReader) scalar(n *yaml.Node, v *value) bool {
	const untagged = yaml.LiteralStyle | yaml.FoldedStyle | yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle
	if n.Style&yaml.TaggedStyle == 0 {
		if n.Style&untagged != 0 {
			v.kind, v.text = kindString, n.Value
			return true
		}
		v.kind, v.text = resolvePlain(n.Value)
	} else {
		kind, text := resolvePlain(n.Value)
		switch tag := n.ShortTag(); {
		case tag == "!!str":
			kind, text = kindString, n.Value
		case tag == "!!int" && kind == kindInt, tag == "!!bool" && kind == kindBool, tag == "!!null" && kind == kindNull:
		case tag == "!!float" && (kind == kindFloat || kind == kindInt):
		default:
			r.report(r.place(n), "the tag "+quote(n.Tag)+" does not fit the value", "write the value without a tag")
			return false
		}
		v.kind, v.text = kind, text
	}
	if v.kind == kindFloat && strings.Contains(v.text, "n") { // nan, inf
		r.report(r.place(n), quote(n.Value)+" is not a number JSON can hold", "write a finite number, or quote the text")
		return false
	}
	return true
}

// resolvePlain says what an unquoted scalar means in YAML 1.1 as kubectl reads it.
// Dates stay text.
func resolvePlain(s string) (valueKind, string) {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return kindNull, ""
	case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y":
		return kindBool, "true"
	case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N":
		return kindBool, "false"
	case ".nan", ".NaN", ".NAN":
		return kindFloat, "nan"
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF":
		return kindFloat, "inf"
	}
	if c := s[0]; !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.') || isDate(s) {
		return kindString, s
	}
	plain := s
	if s[0] != '.' {
		plain = strings.ReplaceAll(s, "_", "")
		if n, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return kindInt, strconv.FormatInt(n, 10)
		}
		if n, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return kindInt, strconv.FormatUint(n, 10)
		}
	}
	if s[0] == '.' || looksFloat(plain) {
		if f, err := strconv.ParseFloat(plain, 64); err == nil && !math.IsInf(f, 0) {
			kind, text, _ := floatText(f)
			return kind, text
		}
	}
	return kindString, s
}

// looksFloat reports whether s has the form [-+]?(\.D+|D+(\.D*)?)([eE][-+]?D+)?
func looksFloat(s string) bool {
	digits := func() int {
		n := len(s)
		s = strings.TrimLeft(s, "0123456789")
		return n - len(s)
	}
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	whole, part := digits(), 0
	if s != "" && s[0] == '.' {
		s = s[1:]
		part = digits()
	}
	if whole+part == 0 {
		return false
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		if s = s[1:]; s != "" && (s[0] == '-' || s[0] == '+') {
			s = s[1:]
		}
		if digits() == 0 {
			return false
		}
	}
	return s == ""
}

// isDate reports whether s begins as a timestamp does: YYYY-.
func isDate(s string) bool {
	return len(s) > 4 && s[4] == '-' && strings.Trim(s[:4], "0123456789") == ""
}

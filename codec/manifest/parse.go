package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of an input. Beyond them it is refused before it is understood.
const (
	// MaxInput is the largest input, in bytes.
	MaxInput = 10 << 20
	// MaxObject is the largest object, in bytes of JSON, aliases expanded.
	MaxObject = 1 << 20
	// MaxFaults is how many faults, and how many warnings, are listed.
	MaxFaults = 10_000
	// maxExpanded bounds what the aliases of one input expand to, in bytes of JSON.
	maxExpanded = 64 << 20
)

// Stdin is the File of an input named "-".
const Stdin = "<stdin>"

// Options say how to read an input. The zero value is useful.
type Options struct {
	// Namespace of namespaced objects that name none; "" is "default".
	Namespace string
	// Stored says that the input comes from a store or a peer, where nobody can be
	// asked to write it better. An AccessPolicy or ResidencyPolicy with faults is then
	// returned with Invalid set, so that it denies what it selects; faults are listed
	// all the same.
	Stored bool
	// Now is when it is written: by that certificates that do not hold are warned of; zero warns of none.
	Now time.Time
}

// Result is all that an input says and all that is wrong with it.
type Result struct {
	// Objects without faults, in the order of the input.
	Objects []Object
	// Faults and Warnings are in the order of the input, at most MaxFaults of each.
	Faults, Warnings []Fault
	// More says that there are more faults than listed: reading stopped there.
	More bool
}

// Read reads an input to its end and parses it; file is "-" for standard input. The
// error is of reading; what is wrong with the input is in the result.
func Read(file string, r io.Reader, o Options) (Result, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxInput+1))
	if err != nil {
		return Result{}, fmt.Errorf("read %s: %w", file, err)
	}
	return Parse(file, text, o), nil
}

// Parse parses YAML with any number of documents, or JSON, with any number of Lists.
// It never fails as a whole: everything understood and every fault is in the result.
// It is safe for concurrent use.
func Parse(file string, text []byte, o Options) Result {
	if file == "-" {
		file = Stdin
	}
	o.Namespace = cmp.Or(o.Namespace, "default")
	p := &parser{file: file, options: o, kinds: allKinds(), seen: map[mesh.Key]place{}}
	p.input(text)
	byPlace := func(a, b Fault) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) }
	slices.SortStableFunc(p.result.Faults, byPlace)
	slices.SortStableFunc(p.result.Warnings, byPlace)
	return p.result
}

// Join puts the results of several inputs together; an object that two of them hold
// is a fault.
func Join(results ...Result) Result {
	var all Result
	type home struct {
		file string
		line int
	}
	first := map[mesh.Key]home{}
	for _, r := range results {
		all.Faults = append(all.Faults, r.Faults...)
		all.Warnings = append(all.Warnings, r.Warnings...)
		all.More = all.More || r.More
		for _, o := range r.Objects {
			k := mesh.Key{Kind: mesh.Kind(o.Kind), Origin: mesh.ClusterName(groupOf(o.APIVersion)), Namespace: o.Namespace, Name: o.Name}
			if h, twice := first[k]; twice {
				all.Faults = append(all.Faults, Fault{File: o.File, Line: o.Line, Column: 1, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name,
					Problem: fmt.Sprintf("a second object of this name, the first is at %s:%d", h.file, h.line), Remedy: "remove one of the two"})
				continue
			}
			first[k] = home{o.File, o.Line}
			all.Objects = append(all.Objects, o)
		}
	}
	return all
}

// parser reads one input.
type parser struct {
	file     string
	options  Options
	kinds    []Kind
	seen     map[mesh.Key]place
	expanded int
	broken   bool // the document is: its objects are checked and not returned
	result   Result
}

func (p *parser) fault(f Fault) {
	f.File = p.file
	if len(p.result.Faults) == MaxFaults {
		p.result.More = true
		return
	}
	p.result.Faults = append(p.result.Faults, f)
}

func (p *parser) faultAt(at place, problem, remedy string) {
	p.fault(Fault{Line: at.line, Column: at.column, Problem: problem, Remedy: remedy})
}

func (p *parser) input(text []byte) {
	switch {
	case len(text) > MaxInput:
		p.fault(Fault{Problem: "larger than 10 MiB", Remedy: "split it into smaller files"})
		return
	case bytes.HasPrefix(text, []byte{0xFF, 0xFE}), bytes.HasPrefix(text, []byte{0xFE, 0xFF}):
		p.fault(Fault{Problem: "the text is UTF-16", Remedy: "save it as UTF-8"})
		return
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	if !utf8.Valid(text) {
		line := 1
		for l := range bytes.Lines(text) {
			if !utf8.Valid(l) {
				break
			}
			line++
		}
		p.faultAt(place{line, 1}, "the text is not UTF-8", "save it as UTF-8")
		return
	}
	if p.json(text) {
		return
	}
	merged := 0
	for _, c := range splitDocuments(text) {
		if c.isBlank() {
			continue
		}
		if p.result.More {
			return
		}
		for _, v := range readYAML(c, &merged, p.faultAt) {
			p.document(v)
		}
	}
}

// json reads the input as JSON and reports whether it is.
func (p *parser) json(text []byte) bool {
	if t := bytes.TrimLeft(text, " \t\r\n"); len(t) == 0 || t[0] != '{' && t[0] != '[' {
		return false
	}
	type duplicate struct {
		at, first place
		key       string
	}
	var duplicates []duplicate
	values, err := readJSON(text, func(at place, key string, first place) {
		duplicates = append(duplicates, duplicate{at, first, key})
	})
	if errors.Is(err, errNotJSON) {
		return false
	}
	for _, d := range duplicates {
		p.faultAt(d.at, fmt.Sprintf("duplicate key %s, first at line %d", quote(d.key), d.first.line), "remove one of the two")
	}
	if err != nil {
		p.faultAt(place{1, 1}, err.Error(), "flatten the document")
		return true
	}
	for _, v := range values {
		if p.result.More {
			break
		}
		v.broken = len(duplicates) > 0
		p.document(v)
	}
	return true
}

func (p *parser) document(v *value) {
	if v.kind == kindNull {
		return
	}
	if p.expanded = addSize(p.expanded, v.size); p.expanded > maxExpanded {
		p.faultAt(v.place, "the aliases of this input expand to more than 64 MiB", "write the objects out, in several files")
		return
	}
	p.broken = v.broken
	p.item(v)
}

// item parses an object, or each of a List.
func (p *parser) item(v *value) {
	if v.kind != kindObject {
		p.faultAt(v.place, "want an object with apiVersion and kind, not "+v.kind.article(), "write apiVersion: and kind: at the top")
		return
	}
	kind := v.str("kind")
	base, isList := strings.CutSuffix(kind, "List")
	items := v.get("items")
	if !isList || items == nil || base != "" && !slices.ContainsFunc(p.kinds, func(k Kind) bool { return k.Kind == base }) {
		p.object(v)
		return
	}
	switch items.kind {
	case kindNull:
	case kindList:
		for _, e := range items.list {
			if p.result.More {
				return
			}
			// The API server leaves apiVersion and kind out of the elements of typed lists.
			if base != "" && e.kind == kindObject && e.get("kind") == nil {
				e = e.with("kind", base).with("apiVersion", v.str("apiVersion"))
			}
			p.item(e)
		}
	default:
		p.fault(Fault{Line: items.line, Column: items.column, Kind: kind, Field: "items", Problem: "want a list, not " + items.kind.article(), Remedy: "write a list of objects"})
	}
}

func (p *parser) object(root *value) {
	k, ok := p.kindOf(root)
	if !ok {
		return
	}
	s := p.newScope(k, root)
	if root.size > MaxObject {
		s.fault(nil, "larger than 1 MiB", "split the object")
		return
	}
	o := Object{APIVersion: root.str("apiVersion"), Kind: k.Kind, Namespace: s.namespace, Name: s.name, File: p.file, Line: root.line}
	if !k.reads(o.APIVersion) {
		s.fault((*path)(nil).field("apiVersion"), "an unknown version of a security policy", "write "+k.APIVersion)
	}
	s.metadata(&o)
	o.Value = s.value()
	s.duplicate()
	if k.Kept {
		s.warn(nil, "kept, nothing acts on it yet", "")
	}
	if s.faults > 0 {
		if o.Value = s.invalid(o.Value); !p.options.Stored || o.Value == nil || s.name == "" {
			return
		}
	}
	if p.broken {
		return
	}
	c := canonical(root, s.namespace)
	o.JSON = c.appendJSON(make([]byte, 0, c.size))
	o.SpecDigest = digest(c, k.APIVersion)
	p.result.Objects = append(p.result.Objects, o)
}

// kindOf finds the kind of an object, or says what it should be.
func (p *parser) kindOf(root *value) (Kind, bool) {
	apiVersion, kind := root.str("apiVersion"), root.str("kind")
	refuse := func(field, problem, remedy string) (Kind, bool) {
		at := root.at((*path)(nil).field(field))
		m := root.get("metadata")
		p.fault(Fault{Line: at.line, Column: at.column, Kind: kind, Namespace: m.str("namespace"), Name: m.str("name"),
			Field: field, Problem: problem, Remedy: remedy})
		return Kind{}, false
	}
	for _, f := range []string{"kind", "apiVersion"} {
		switch v := root.get(f); {
		case v == nil || v.kind == kindNull || v.kind == kindString && v.text == "":
			remedy := "write it, it is required"
			if i := slices.IndexFunc(p.kinds, func(k Kind) bool { return k.Kind == kind }); i >= 0 {
				remedy = "write " + p.kinds[i].APIVersion
			}
			return refuse(f, "missing", remedy)
		case v.kind != kindString:
			return refuse(f, "want text, not "+v.kind.article(), "quote it")
		}
	}
	var names []string
	for _, k := range p.kinds {
		names = append(names, k.Kind)
		if k.Kind != kind {
			continue
		}
		if k.reads(apiVersion) || p.options.Stored && k.isSecurity() && groupOf(apiVersion) == k.Group() {
			return k, true // of an unknown version, object makes it Invalid
		}
		return refuse("apiVersion", quote(apiVersion)+" has no "+kind+" that the mesh reads", "write "+k.APIVersion)
	}
	if near := nearest(kind, names); near != "" {
		i := slices.Index(names, near)
		return refuse("kind", "unknown kind "+quote(kind), "write "+near+" with apiVersion "+p.kinds[i].APIVersion)
	}
	return refuse("kind", "unknown kind "+quote(kind), "write a kind of the mesh, such as Service, HTTPRoute or AccessPolicy")
}

// Package golden prints values for people: in the manner of YAML, one form for one
// content, what is zero left out. Tests keep such texts beside them and compare.
//
// Its one idea is that a reviewer reads the difference of two texts as he reads the values:
// what is small stands on one line, a list of structures has a line or a block for each.
// It reads nothing back, and it is not for the wire (ir.AppendCanonical is what digests are
// made of). Read Text.
package golden

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// width is how long a value on one line may be, in octets.
const width = 110

// Text prints a value, with a final newline. Fields are named as YAML would name them; a
// type that has a String method of its own prints by it; bytes that are text print as text.
func Text(v any) string {
	p := printer{}
	p.block(reflect.ValueOf(v), 0)
	return p.b.String()
}

type printer struct{ b strings.Builder }

// field is a member of a structure or of a map.
type field struct {
	name  string
	value reflect.Value
}

// block prints v from the start of a line, indented, with a newline at its end.
func (p *printer) block(v reflect.Value, indent int) {
	v = follow(v)
	pad := strings.Repeat("  ", indent)
	switch {
	case isScalar(v):
		p.b.WriteString(pad + scalar(v) + "\n")
	case isList(v) && v.Len() > 0:
		for i := range v.Len() {
			p.item(v.Index(i), indent)
		}
	case isList(v):
		p.b.WriteString(pad + "[]\n")
	default:
		fields := fieldsOf(v)
		if len(fields) == 0 {
			p.b.WriteString(pad + "{}\n")
		}
		for _, f := range fields {
			p.b.WriteString(pad + f.name + ":")
			if line, ok := flow(f.value); ok {
				p.b.WriteString(" " + line + "\n")
				continue
			}
			p.b.WriteString("\n")
			deeper := indent + 1
			if isList(follow(f.value)) {
				deeper = indent
			}
			p.block(f.value, deeper)
		}
	}
}

// item prints an element of a list that has its own line, or its own block.
func (p *printer) item(v reflect.Value, indent int) {
	pad := strings.Repeat("  ", indent)
	if line, ok := flow(v); ok {
		p.b.WriteString(pad + "- " + line + "\n")
		return
	}
	inner := printer{}
	inner.block(v, indent+1)
	p.b.WriteString(pad + "- " + strings.TrimPrefix(inner.b.String(), pad+"  "))
}

// flow prints v on one line; false if it is too long or holds a list of structures.
func flow(v reflect.Value) (string, bool) {
	v = follow(v)
	var parts []string
	ends := "{}"
	switch {
	case isScalar(v):
		return scalar(v), true
	case isList(v):
		ends = "[]"
		for i := range v.Len() {
			e := follow(v.Index(i))
			if !isScalar(e) {
				return "", false
			}
			parts = append(parts, scalar(e))
		}
	default:
		for _, f := range fieldsOf(v) {
			line, ok := flow(f.value)
			if !ok {
				return "", false
			}
			parts = append(parts, f.name+": "+line)
		}
	}
	line := ends[:1] + strings.Join(parts, ", ") + ends[1:]
	return line, len(line) <= width
}

// follow leads through pointers and interfaces; nil ends in the zero Value.
func follow(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

func isList(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Array) && !isScalar(v)
}

func isScalar(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		return v.Type().Elem().Kind() == reflect.Uint8
	case reflect.Struct:
		return hasOwnString(v.Type())
	case reflect.Map:
		return false
	}
	return true
}

var stringer = reflect.TypeFor[fmt.Stringer]()

// hasOwnString leaves out a structure whose String is that of a part of it.
func hasOwnString(t reflect.Type) bool {
	if !t.Implements(stringer) {
		return false
	}
	for i := range t.NumField() {
		if t.Field(i).Anonymous {
			return false
		}
	}
	return true
}

func scalar(v reflect.Value) string {
	if v.IsValid() && v.Type().Implements(stringer) && v.CanInterface() {
		return quoted(v.Interface().(fmt.Stringer).String())
	}
	switch v.Kind() {
	case reflect.Invalid:
		return "null"
	case reflect.String:
		return quoted(v.String())
	case reflect.Slice, reflect.Array:
		b := make([]byte, v.Len())
		for i := range b {
			b[i] = byte(v.Index(i).Uint())
		}
		if utf8.Valid(b) {
			return quoted(string(b))
		}
		return fmt.Sprintf("0x%x", b)
	}
	return fmt.Sprint(v.Interface())
}

// quoted quotes what would read as something else.
func quoted(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(`{}[]"`, r) }
	if s == "" || strings.TrimSpace(s) != s || strings.Contains(s, ": ") || strings.Contains(s, ", ") || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

// fieldsOf lists the members that say something: of a structure in order of declaration,
// those of its embedded parts as its own; of a map by key.
func fieldsOf(v reflect.Value) []field {
	var out []field
	if v.Kind() == reflect.Map {
		for iter := v.MapRange(); iter.Next(); {
			out = append(out, field{scalar(follow(iter.Key())), iter.Value()})
		}
		slices.SortFunc(out, func(a, b field) int { return cmp.Compare(a.name, b.name) })
		return out
	}
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		switch {
		case f.Anonymous && follow(value).Kind() == reflect.Struct && !isScalar(follow(value)):
			out = append(out, fieldsOf(follow(value))...)
		case f.IsExported() && !isEmpty(value):
			out = append(out, field{nameOf(f.Name), value})
		}
	}
	return out
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// nameOf writes a field's name as YAML does: trustDomain, rtt, tlsRoutes.
func nameOf(name string) string {
	r := []rune(name)
	for i := range r {
		if !unicode.IsUpper(r[i]) || i > 0 && i+1 < len(r) && unicode.IsLower(r[i+1]) {
			break
		}
		r[i] = unicode.ToLower(r[i])
	}
	return string(r)
}

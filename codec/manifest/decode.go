//house:exempt a parser, driven by the tables of shapes

package manifest

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// decoder fills structs from values. Field names come from the tag json; the tag is
// says what a field may hold, in words parted by spaces:
//
//	required      the member must be there and not null
//	enum=A|B      one of these texts
//	1..65535      a number in this range
//	len=1..63     text of this many bytes
//	items=1..16   a list or map of this many elements
//	unique=a,b    no two list elements have equal members a and b; "." is the element
//	unlike=a      the same whatever the case, as header names (RFC 9110 §5.1)
//	NAME          a format, see formats
//
// On lists and maps, words that speak of text or numbers hold for each element.
// Unknown members are reported through unknown, everything else through fault.
type decoder struct {
	fault   func(at place, p *path, problem, remedy string)
	unknown func(at place, p *path, name string, known []string)
	// hide keeps values out of messages.
	hide bool
}

// valueDecoder is a type that reads itself.
type valueDecoder interface {
	decodeValue(d *decoder, v *value, p *path)
}

// openFields, embedded in a struct, lets it have members we do not know: their
// meaning belongs to a later version.
type openFields struct{}

// structPlan is what the tags of a struct say.
type structPlan struct {
	fields []fieldPlan
	keys   []string
	open   bool
}

type fieldPlan struct {
	key      string
	index    []int
	required bool
	rules    *rules
}

func (d *decoder) plan(t reflect.Type) *structPlan {
	if p, ok := plans().Load(t); ok {
		return p.(*structPlan)
	}
	p := &structPlan{}
	p.add(t, nil)
	for _, f := range p.fields {
		p.keys = append(p.keys, f.key)
	}
	plans().Store(t, p)
	return p
}

// plans has the plan of each shape that was read: what a type's tags say does not change.
var plans = sync.OnceValue(func() *sync.Map { return new(sync.Map) })

func (p *structPlan) add(t reflect.Type, index []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(index[:len(index):len(index)], i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Type == reflect.TypeFor[openFields]():
			p.open = true
		case option == "inline" || f.Anonymous && name == "":
			p.add(f.Type, at)
		case name != "" && name != "-":
			plan := fieldPlan{key: name, index: at}
			plan.rules, plan.required = parseRules(f.Tag.Get("is"))
			p.fields = append(p.fields, plan)
		}
	}
}

// decode fills into, which must be settable, from v. Null leaves it as it is, as in
// Kubernetes.
func (d *decoder) decode(v *value, into reflect.Value, p *path, r *rules) {
	if v.kind == kindNull {
		return
	}
	if into.CanAddr() {
		if vd, ok := into.Addr().Interface().(valueDecoder); ok {
			vd.decodeValue(d, v, p)
			return
		}
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.decode(v, into.Elem(), p, r)
	case reflect.Struct:
		if d.want(v, kindObject, p) {
			d.object(v, into, p)
		}
	case reflect.Slice:
		if d.want(v, kindList, p) {
			d.list(v, into, p, r)
		}
	case reflect.Map:
		if d.want(v, kindObject, p) {
			d.mapping(v, into, p, r)
		}
	case reflect.String:
		if d.want(v, kindString, p) {
			into.SetString(v.text)
			r.text(d, v, p)
		}
	case reflect.Bool:
		if d.want(v, kindBool, p) {
			into.SetBool(v.text == "true")
		}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32:
		if d.want(v, kindInt, p) {
			d.integer(v, into, p, r)
		}
	default:
		panic(fmt.Sprintf("manifest: no decoding into %s", into.Type()))
	}
}

// want reports whether v is of the kind, and a fault otherwise.
func (d *decoder) want(v *value, k valueKind, p *path) bool {
	if v.kind == k {
		return true
	}
	remedy := "write " + k.article()
	switch {
	case k == kindString && (v.kind == kindBool || v.kind == kindInt || v.kind == kindFloat):
		remedy = "quote it"
	case k == kindInt && v.kind == kindFloat:
		d.fault(v.place, p, v.text+" is not a whole number", "write a whole number")
		return false
	case k == kindInt && v.kind == kindString, k == kindBool && v.kind == kindString:
		if kind, text := resolvePlain(v.text); kind == k {
			remedy = "write " + text + " without quotes"
		}
	case k == kindList && v.kind != kindObject:
		remedy = "write a list: - " + abbreviate(v.text)
		if d.hide {
			remedy = "write a list"
		}
	case k == kindList:
		remedy = "write a list: begin the element with -"
	}
	d.fault(v.place, p, "want "+k.article()+", not "+v.kind.article(), remedy)
	return false
}

func (d *decoder) object(v *value, into reflect.Value, p *path) {
	plan := d.plan(into.Type())
	found := 0
	for i := range plan.fields {
		f := &plan.fields[i]
		e := v.get(f.key)
		if e != nil {
			found++
		}
		if e == nil || e.kind == kindNull {
			if f.required {
				d.fault(v.place, p.field(f.key), "missing", f.rules.hint())
			}
			continue
		}
		d.decode(e, into.FieldByIndex(f.index), p.field(f.key), f.rules)
	}
	if found == len(v.fields) || plan.open {
		return
	}
	for _, f := range v.fields {
		if !contains(plan.keys, f.key) {
			d.unknown(f.place, p.field(f.key), f.key, plan.keys)
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func (d *decoder) list(v *value, into reflect.Value, p *path, r *rules) {
	r.count(d, v, len(v.list), p)
	into.Set(reflect.MakeSlice(into.Type(), len(v.list), len(v.list)))
	for i, e := range v.list {
		if e.kind == kindNull {
			d.fault(e.place, p.item(i), "an empty element", "remove it or fill it in")
			continue
		}
		d.decode(e, into.Index(i), p.item(i), r)
	}
	r.distinct(d, v, p)
}

func (d *decoder) mapping(v *value, into reflect.Value, p *path, r *rules) {
	r.count(d, v, len(v.fields), p)
	m := reflect.MakeMapWithSize(into.Type(), len(v.fields))
	for _, f := range v.fields {
		e := reflect.New(into.Type().Elem()).Elem()
		if f.value.kind == kindNull && e.Kind() == reflect.String {
			d.fault(f.value.place, p.field(f.key), "want text, not nothing", `write "" for empty text`)
			continue
		}
		d.decode(f.value, e, p.field(f.key), r)
		m.SetMapIndex(reflect.ValueOf(f.key).Convert(into.Type().Key()), e)
	}
	into.Set(m)
}

func (d *decoder) integer(v *value, into reflect.Value, p *path, r *rules) {
	low, high := int64(-1)<<(into.Type().Bits()-1), int64(1)<<(into.Type().Bits()-1)-1
	if into.CanUint() {
		low, high = 0, int64(1)<<into.Type().Bits()-1
	}
	if r != nil && r.bounded {
		low, high = max(low, r.low), min(high, r.high)
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil || n < low || n > high {
		d.fault(v.place, p, v.text+" is out of range", fmt.Sprintf("write a number from %d to %d", low, high))
		return
	}
	if into.CanUint() {
		into.SetUint(uint64(n))
	} else {
		into.SetInt(n)
	}
}

// anything accepts every value and keeps none: its shape is somebody else's.
type anything struct{}

func (*anything) decodeValue(*decoder, *value, *path) {}

// intOrString is a port's number or name.
type intOrString struct {
	number int64
	text   string // "" for a number
}

func (x *intOrString) decodeValue(d *decoder, v *value, p *path) {
	switch v.kind {
	case kindString:
		x.text = v.text
	case kindInt:
		n, err := strconv.ParseInt(v.text, 10, 32)
		if err != nil {
			d.fault(v.place, p, v.text+" is out of range", "write a number from 1 to 65535")
		}
		x.number = n
	default:
		d.fault(v.place, p, "want a number or a name, not "+v.kind.article(), "write a port's number or name")
	}
}

// decimal is a number with a fraction; quoted, as Kubernetes APIs prefer, or not.
type decimal float64

func (x *decimal) decodeValue(d *decoder, v *value, p *path) {
	f, err := strconv.ParseFloat(v.text, 64)
	numeric := v.kind == kindInt || v.kind == kindFloat || v.kind == kindString && looksFloat(v.text)
	if !numeric || err != nil || f < 0 || f > 1e15 {
		d.fault(v.place, p, "want a number that is not negative", "write a number such as 0.02")
		return
	}
	*x = decimal(f)
}

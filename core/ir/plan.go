package ir

import (
	"encoding/binary"
	"math"
	"net/netip"
	"reflect"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// plan is what reflection says of a type, asked once: how its values are encoded and compared. A control plane encodes
// or compares each value it computes, so that to ask every time was a fifth of its work.
type plan struct {
	shape  shape
	fields []field
	elem   *plan // of a pointer, slice or array
}

// field is one that is encoded; label is its name with the length in front.
type field struct {
	index int
	label []byte
	plan  *plan
}

// shape is the way a type is encoded.
type shape uint8

const (
	bySlowPath shape = iota // maps, interfaces: by appendValue
	byStruct
	byPointer
	bySequence
	byOctets
	byString
	byBool
	byInt
	byUint
	byFloat
	byAddr
	byAddrPort
	byTime
)

// plans are of the types that are encoded often, and of all within them; what is not here is encoded by asking.
// The table is never written after it was made.
var plans = plansOf(
	reflect.TypeFor[Service](), reflect.TypeFor[Endpoints](), reflect.TypeFor[Access](), reflect.TypeFor[Cluster](),
	reflect.TypeFor[Name](), reflect.TypeFor[Proxy](), reflect.TypeFor[Slots](),
	reflect.TypeFor[mesh.Split](), reflect.TypeFor[mesh.RemoteService](), reflect.TypeFor[mesh.Reach](), reflect.TypeFor[mesh.SlotTable](), reflect.TypeFor[mesh.Bundle](),
	reflect.TypeFor[mesh.Workload](), reflect.TypeFor[mesh.Service](), reflect.TypeFor[mesh.ServiceExport](), reflect.TypeFor[mesh.Cluster](),
)

func plansOf(types ...reflect.Type) map[reflect.Type]*plan {
	all := map[reflect.Type]*plan{}
	for _, t := range types {
		planOf(all, t)
		planOf(all, reflect.PointerTo(t))
	}
	return all
}

// planOf makes the plan of t and of what is within it.
func planOf(all map[reflect.Type]*plan, t reflect.Type) *plan {
	if p := all[t]; p != nil {
		return p
	}
	p := &plan{}
	all[t] = p // before its parts: a type may hold itself
	switch t.Kind() {
	case reflect.Pointer:
		p.shape, p.elem = byPointer, planOf(all, t.Elem())
	case reflect.Slice, reflect.Array:
		if p.shape = bySequence; t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			p.shape = byOctets
		}
		p.elem = planOf(all, t.Elem())
	case reflect.Struct:
		p.ofStruct(all, t)
	case reflect.String:
		p.shape = byString
	case reflect.Bool:
		p.shape = byBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		p.shape = byInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		p.shape = byUint
	case reflect.Float32, reflect.Float64:
		p.shape = byFloat
	}
	return p
}

func (p *plan) ofStruct(all map[reflect.Type]*plan, t reflect.Type) {
	switch t {
	case addrType:
		p.shape = byAddr
	case addrPortType:
		p.shape = byAddrPort
	case timeType:
		p.shape = byTime
	default:
		p.shape = byStruct
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				label := append(binary.AppendUvarint(nil, uint64(len(f.Name))), f.Name...)
				p.fields = append(p.fields, field{i, label, planOf(all, f.Type)})
			}
		}
	}
}

// empty is isEmpty.
func (p *plan) empty(v reflect.Value) bool {
	switch p.shape {
	case byString, byOctets:
		return v.Len() == 0
	case bySequence:
		return isEmpty(v)
	case byBool:
		return !v.Bool()
	case byInt:
		return v.Int() == 0
	case byUint:
		return v.Uint() == 0
	case byPointer:
		return v.IsNil()
	}
	return isEmpty(v)
}

// append is appendValue.
func (p *plan) append(b []byte, v reflect.Value) []byte {
	switch p.shape {
	case byPointer:
		if v.IsNil() {
			return append(b, 0)
		}
		return p.elem.append(append(b, 1), v.Elem())
	case byStruct:
		for i := range p.fields {
			f := &p.fields[i]
			if fv := v.Field(f.index); !f.plan.empty(fv) {
				b = f.plan.append(append(b, f.label...), fv)
			}
		}
		return append(b, 0)
	case bySequence:
		n := v.Len()
		b = binary.AppendUvarint(b, uint64(n))
		for i := range n {
			b = p.elem.append(b, v.Index(i))
		}
		return b
	case byOctets:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.Bytes()...)
	case byString:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.String()...)
	case byBool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case byInt:
		return binary.AppendVarint(b, v.Int())
	case byUint:
		return binary.AppendUvarint(b, v.Uint())
	case byFloat:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float()))
	case byAddr:
		return appendAddress(b, addrOf(v))
	case byAddrPort:
		return appendAddress(b, addrPortOf(v))
	}
	return appendValue(b, v)
}

// appendAddress appends the text with its length, which is one octet unless a zone has a long name.
func appendAddress[A interface {
	IsValid() bool
	AppendTo([]byte) []byte
	String() string
}](b []byte, a A) []byte {
	if at := len(b); a.IsValid() {
		b = a.AppendTo(append(b, 0))
		if n := len(b) - at - 1; n < 0x80 {
			b[at] = byte(n)
			return b
		}
		b = b[:at]
	}
	s := a.String()
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// addrOf copies no value to the heap where v is part of one that is there.
func addrOf(v reflect.Value) netip.Addr {
	if v.CanAddr() {
		return *v.Addr().Interface().(*netip.Addr)
	}
	return v.Interface().(netip.Addr)
}

func addrPortOf(v reflect.Value) netip.AddrPort {
	if v.CanAddr() {
		return *v.Addr().Interface().(*netip.AddrPort)
	}
	return v.Interface().(netip.AddrPort)
}

// Equal reports whether two values of one type have one canonical encoding, and so one Digest. It encodes neither.
func Equal[V any](a, b *V) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a == b {
		return true
	}
	if p := plans[reflect.TypeFor[V]()]; p != nil {
		return p.equal(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem())
	}
	return DigestOf(a) == DigestOf(b)
}

func (p *plan) equal(a, b reflect.Value) bool {
	switch p.shape {
	case byPointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return a.Pointer() == b.Pointer() || p.elem.equal(a.Elem(), b.Elem())
	case byStruct:
		for i := range p.fields {
			f := &p.fields[i]
			x, y := a.Field(f.index), b.Field(f.index)
			switch none := f.plan.empty(x); {
			case none != f.plan.empty(y):
				return false
			case !none && !f.plan.equal(x, y):
				return false
			}
		}
		return true
	case bySequence:
		n := a.Len()
		if n != b.Len() {
			return false
		}
		if n == 0 || a.Kind() == reflect.Slice && a.Pointer() == b.Pointer() {
			return true
		}
		for i := range n {
			if !p.elem.equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case byOctets:
		return string(a.Bytes()) == string(b.Bytes())
	case byString:
		return a.String() == b.String()
	case byBool:
		return a.Bool() == b.Bool()
	case byInt:
		return a.Int() == b.Int()
	case byUint:
		return a.Uint() == b.Uint()
	case byFloat:
		return math.Float64bits(a.Float()) == math.Float64bits(b.Float())
	case byAddr:
		return addrOf(a) == addrOf(b)
	case byAddrPort:
		x, y := addrPortOf(a), addrPortOf(b)
		return x == y || !x.IsValid() && !y.IsValid()
	case byTime:
		return a.Interface().(time.Time).UnixNano() == b.Interface().(time.Time).UnixNano()
	}
	return string(appendValue(nil, a)) == string(appendValue(nil, b))
}

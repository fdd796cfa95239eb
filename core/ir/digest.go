package ir

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Digest is the version of a resource: equal content has an equal digest whichever
// replica computed it, on whatever architecture.
type Digest [16]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// DigestOf hashes the canonical encoding of v.
func DigestOf(v any) Digest {
	sum := sha256.Sum256(AppendCanonical(make([]byte, 0, 512), v))
	return Digest(sum[:16])
}

// AppendCanonical appends the canonical encoding of v, a value made of structs,
// pointers, slices, maps, strings, numbers, booleans, times and addresses.
//
// A struct is its non-zero exported fields in order of declaration, each with its name, so
// that a field a newer version adds leaves digests alone until it is used. Sequences
// and strings carry their length, maps are sorted by encoded key: two different values never
// share an encoding. Protobuf bytes are not used because their order is not promised
// between versions.
func AppendCanonical(b []byte, v any) []byte {
	r := reflect.ValueOf(v)
	if r.IsValid() {
		if p := plans[r.Type()]; p != nil {
			return p.append(b, r)
		}
	}
	return appendValue(b, r)
}

var (
	addrType     = reflect.TypeFor[netip.Addr]()
	addrPortType = reflect.TypeFor[netip.AddrPort]()
	timeType     = reflect.TypeFor[time.Time]()
)

func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Invalid:
		return append(b, 0)
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, 0)
		}
		return appendValue(append(b, 1), v.Elem())
	case reflect.Struct:
		return appendStruct(b, v)
	case reflect.Slice, reflect.Array:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		if v.Type().Elem().Kind() == reflect.Uint8 && v.Kind() == reflect.Slice {
			return append(b, v.Bytes()...)
		}
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
		return b
	case reflect.Map:
		return appendMap(b, v)
	case reflect.String:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.String()...)
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint())
	case reflect.Float32, reflect.Float64:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float()))
	}
	panic("ir: no canonical encoding for " + v.Type().String())
}

func appendStruct(b []byte, v reflect.Value) []byte {
	switch v.Type() {
	case addrType, addrPortType:
		s := v.Interface().(fmt.Stringer).String()
		b = binary.AppendUvarint(b, uint64(len(s)))
		return append(b, s...)
	case timeType:
		return binary.AppendVarint(b, v.Interface().(time.Time).UnixNano())
	}
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || isEmpty(v.Field(i)) {
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(f.Name)))
		b = append(b, f.Name...)
		b = appendValue(b, v.Field(i))
	}
	return binary.AppendUvarint(b, 0)
}

// isEmpty treats nil and empty sequences alike: no codec tells them apart.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

func appendMap(b []byte, v reflect.Value) []byte {
	type entry struct{ key, value string }
	entries := make([]entry, 0, v.Len())
	for iter := v.MapRange(); iter.Next(); {
		entries = append(entries, entry{string(appendValue(nil, iter.Key())), string(appendValue(nil, iter.Value()))})
	}
	slices.SortFunc(entries, func(x, y entry) int { return strings.Compare(x.key, y.key) })
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = append(append(b, e.key...), e.value...)
	}
	return b
}

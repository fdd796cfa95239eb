package ir

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// fill draws a value of any type: often what came before, empty, nil and zero ones too.
func fill(r *rand.Rand, v reflect.Value, deep int) {
	if r.IntN(4) == 0 || deep > 5 {
		v.SetZero()
		return
	}
	switch v.Type() {
	case addrType:
		v.Set(reflect.ValueOf(someAddr(r)))
		return
	case addrPortType:
		v.Set(reflect.ValueOf(netip.AddrPortFrom(someAddr(r), uint16(r.IntN(3)))))
		return
	case timeType:
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(2), 0)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), deep+1)
	case reflect.Slice:
		n := r.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), deep+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), deep+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, k, deep+1)
			fill(r, e, deep+1)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(r, v.Field(i), deep+1)
			}
		}
	case reflect.String:
		v.SetString([]string{"", "a", "b", string(bytes.Repeat([]byte("x"), 200))}[r.IntN(4)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(r.Int64N(3) - 1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.Uint64N(3))
	case reflect.Float32, reflect.Float64:
		v.SetFloat([]float64{0, 1, -1.5}[r.IntN(3)])
	}
}

func someAddr(r *rand.Rand) netip.Addr {
	return []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%eth0"),
		netip.MustParseAddr("2001:db8::1").WithZone(string(bytes.Repeat([]byte("z"), 130)))}[r.IntN(5)]
}

// TestPlansSayWhatAskingSays holds the planned encoding against the one that asks reflection, for every type that has a
// plan: digests are versions, which replicas of other builds must agree about. And two values are equal exactly if their
// encodings are.
func TestPlansSayWhatAskingSays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	equal := 0
	for typ, p := range plans {
		if typ.Kind() == reflect.Pointer {
			continue
		}
		a, b := reflect.New(typ), reflect.New(typ)
		for range 300 {
			fill(r, a.Elem(), 0)
			if r.IntN(2) == 0 {
				fill(r, b.Elem(), 0)
			} else {
				b.Elem().Set(a.Elem())
				if typ.Kind() == reflect.Struct && typ.NumField() > 0 && typ.Field(0).IsExported() {
					i := r.IntN(typ.NumField())
					if typ.Field(i).IsExported() {
						fill(r, b.Elem().Field(i), 1)
					}
				}
			}
			x, y := appendValue(nil, a.Elem()), appendValue(nil, b.Elem())
			if got := p.append(nil, a.Elem()); !bytes.Equal(got, x) {
				t.Fatalf("%v: %+v is encoded as\n%q by plan, as\n%q by asking", typ, a.Elem().Interface(), got, x)
			}
			if got := p.append(nil, reflect.ValueOf(a.Elem().Interface())); !bytes.Equal(got, x) { // one that has no address
				t.Fatalf("%v: %+v without an address is encoded as\n%q by plan, as\n%q by asking", typ, a.Elem().Interface(), got, x)
			}
			if got := p.equal(a.Elem(), b.Elem()); got != bytes.Equal(x, y) {
				t.Fatalf("%v: equal is %t of\n%+v and\n%+v, encoded as\n%q and\n%q", typ, got, a.Elem().Interface(), b.Elem().Interface(), x, y)
			} else if got {
				equal++
			}
		}
	}
	if equal < 1000 {
		t.Errorf("%d pairs were equal: too few to prove anything", equal)
	}
}

// TestEqualOfWhatHasNoPlan compares by digest.
func TestEqualOfWhatHasNoPlan(t *testing.T) {
	type strange struct{ M map[string]int }
	a, b := &strange{map[string]int{"a": 1}}, &strange{map[string]int{"a": 1}}
	if !Equal(a, b) || Equal(a, &strange{}) || Equal(a, nil) || !Equal[strange](nil, nil) {
		t.Error("what has no plan is compared wrongly")
	}
}

func BenchmarkEqual(b *testing.B) {
	x, y := someAccess(), someAccess()
	b.ReportAllocs()
	for b.Loop() {
		if !Equal(x, y) {
			b.Fatal("unequal")
		}
	}
}

func BenchmarkDigestOf(b *testing.B) {
	x := someAccess()
	b.ReportAllocs()
	for b.Loop() {
		DigestOf(x)
	}
}

func someAccess() *Access {
	v := reflect.New(reflect.TypeFor[Access]())
	r := rand.New(rand.NewPCG(3, 4))
	for v.Elem().FieldByName("Policies").Len() < 2 || v.Elem().FieldByName("Clusters").Len() < 2 {
		fill(r, v.Elem(), 0)
	}
	return v.Interface().(*Access)
}

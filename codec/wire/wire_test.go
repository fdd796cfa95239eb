package wire

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// resources are one value of each resource type, the work list of every law.
func resources() []any {
	return []any{&ir.Name{}, &ir.Service{}, &ir.Endpoints{}, &ir.Proxy{}, &ir.Access{}, &ir.Slots{}, &ir.Cluster{}, &mesh.Bundle{}, &mesh.Split{}, &ir.Gateway{}}
}

// fill sets every exported field at any depth, so that a field that ir grows and wire
// forgets fails the round trip.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{127, 11, 0, byte(r.IntN(250) + 1)})))
		return
	case netip.AddrPort:
		v.Set(reflect.ValueOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 11, 0, byte(r.IntN(250) + 1)}), uint16(r.IntN(65535)+1))))
		return
	case mesh.Hidden:
		v.Set(reflect.ValueOf(mesh.Hide([]byte{byte(r.IntN(256)), 1})))
		return
	case mesh.Reachability:
		v.SetUint(uint64(r.IntN(4)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), depth+1)
		}
	case reflect.Pointer:
		if depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(r, v.Elem(), depth+1)
		}
	case reflect.Slice:
		if depth < 9 {
			v.Set(reflect.MakeSlice(v.Type(), r.IntN(2)+1, 4))
			for i := range v.Len() {
				fill(r, v.Index(i), depth+1)
			}
		}
	case reflect.String:
		v.SetString("s" + strings.Repeat("x", r.IntN(5)+1))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(1000) + 1))
	case reflect.Float64:
		v.SetFloat(r.Float64() + 1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(r.IntN(200) + 1))
	default:
		panic("fill: " + v.Type().String())
	}
}

func TestDecodeInvertsEncode(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		for _, v := range resources() {
			fill(r, reflect.ValueOf(v).Elem(), 0)
			if s, ok := v.(*ir.Slots); ok {
				s.Table.Moved = make([]uint64, len(s.Table.Slots))
			}
			typ, b := Encode(v)
			got, err := Decode(typ, b)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if diff := cmp.Diff(v, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Fatalf("seed %d: %s: decode(encode(x)) differs (-want +got):\n%s", seed, typ, diff)
			}
			if ir.DigestOf(v) != ir.DigestOf(got) {
				t.Fatalf("seed %d: %s: digests differ after a round trip", seed, typ)
			}
		}
	}
}

func TestEmptyValuesKeepTheirDigest(t *testing.T) {
	name := mesh.ServiceName{Namespace: "a", Name: "b"}
	for _, v := range []any{&ir.Name{Service: name}, &ir.Service{Name: name, Routes: []ir.Route{}}, &ir.Endpoints{Service: name},
		&ir.Access{Service: name}, &ir.Proxy{}, &mesh.Bundle{}} {
		typ, b := Encode(v)
		got, err := Decode(typ, b)
		if err != nil {
			t.Fatal(err)
		}
		if ir.DigestOf(v) != ir.DigestOf(got) {
			t.Errorf("%s: the digest of an empty value changes on its way: %+v, %+v", typ, v, got)
		}
	}
}

func TestUnknownSecurityFieldDenies(t *testing.T) {
	_, b := Encode(&ir.Access{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Exported: true,
		Clusters: []ir.Caller{{TrustDomain: "eu.isthmus.local", Cluster: "eu"}},
		Policies: []ir.AccessEntry{{Object: "P", Policy: mesh.AccessPolicy{Action: mesh.Allow, Rules: []mesh.AccessRule{{}}}}}})
	caller := policy.Request{Caller: mesh.Identity{TrustDomain: "eu.isthmus.local", Namespace: "shop", ServiceAccount: "a"}}
	v, err := Decode(ir.TypeAccess, b)
	if err != nil {
		t.Fatal(err)
	}
	if d := policy.Compile(v.(*ir.Access), "eu").Decide(caller); !d.Allowed {
		t.Fatalf("control: %+v, want allowed", d)
	}
	m := &wirepb.Access{}
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	m.Policies[0].Rules[0].ProtoReflect().SetUnknown([]byte{0x78, 0x01}) // field 15, varint 1
	b, _ = proto.Marshal(m)
	if v, err = Decode(ir.TypeAccess, b); err != nil {
		t.Fatal(err)
	}
	d := policy.Compile(v.(*ir.Access), "eu").Decide(caller)
	if d.Allowed || d.Reason != mesh.ReasonPolicyInvalid || !strings.Contains(d.Why, notUnderstood) {
		t.Errorf("Decide = %+v, want denied for the unknown field", d)
	}
}

func TestFaultWithUnknownFieldIsLeftOut(t *testing.T) {
	name := mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	_, b := Encode(&ir.Service{Name: name, Traffic: ir.Traffic{Faults: []ir.Fault{
		{Object: "narrow", Fault: mesh.Fault{Abort: 503, AbortMilliPercent: 100_000}}, {Object: "plain", Fault: mesh.Fault{Abort: 500}}}}})
	m := &wirepb.Service{}
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	m.Traffic.Faults[0].Match.ProtoReflect().SetUnknown([]byte{0x78, 0x01}) // field 15, varint 1
	b, _ = proto.Marshal(m)
	v, err := Decode(ir.TypeService, b)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.(*ir.Service).Traffic.Faults; len(got) != 1 || got[0].Object != "plain" {
		t.Errorf("faults = %+v, want the one that is understood and no other", got)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for i, v := range resources() {
		fill(r, reflect.ValueOf(v).Elem(), 0)
		if s, ok := v.(*ir.Slots); ok {
			s.Table.Moved = make([]uint64, len(s.Table.Slots))
		}
		_, b := Encode(v)
		f.Add(i, b)
	}
	types := []ir.Type{ir.TypeName, ir.TypeService, ir.TypeEndpoints, ir.TypeProxy, ir.TypeAccess, ir.TypeSlots, ir.TypeCluster, ir.TypeBundle, ir.TypeGateway}
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		if i < 0 || i >= len(types) {
			return
		}
		v, err := Decode(types[i], b)
		if err != nil {
			return
		}
		typ, again := Encode(v)
		w, err := Decode(typ, again)
		if err != nil || ir.DigestOf(v) != ir.DigestOf(w) {
			t.Fatalf("decode(encode(decode(b))) differs: %v\n%+v\n%+v", err, v, w)
		}
	})
}

package wire

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

var sameAddress = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}

// filled makes a value of every field; arrays and maps are what the shared filler lacks.
func filled[T any](seed uint64) *T {
	v := new(T)
	r := rand.New(rand.NewPCG(seed, 2))
	fillAll(r, reflect.ValueOf(v).Elem())
	return v
}

func fillAll(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillAll(r, v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fillAll(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillAll(r, k)
		fillAll(r, e)
		v.SetMapIndex(k, e)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(2)+1, 4))
		for i := range v.Len() {
			fillAll(r, v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillAll(r, v.Elem())
	default:
		fill(r, v, 0)
	}
}

func TestFederationMessagesSurviveTheWire(t *testing.T) {
	for seed := range uint64(20) {
		for _, m := range []replica.Up{filled[replica.Subscribe](seed), filled[replica.Versions](seed), filled[replica.Ack](seed), filled[replica.Witness](seed)} {
			b, _ := proto.Marshal(EncodeUp(m))
			p := &wirepb.Up{}
			if err := proto.Unmarshal(b, p); err != nil {
				t.Fatal(err)
			}
			got, err := DecodeUp(p)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, got, sameAddress); diff != "" {
				t.Fatalf("seed %d: %T differs (-want +got):\n%s", seed, m, diff)
			}
		}
		for _, m := range []replica.Down{filled[replica.Hello](seed), filled[replica.Response](seed), filled[replica.Enumerate](seed), filled[replica.Heartbeat](seed)} {
			b, _ := proto.Marshal(EncodeDown(m))
			p := &wirepb.Down{}
			if err := proto.Unmarshal(b, p); err != nil {
				t.Fatal(err)
			}
			got, err := DecodeDown(p)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, got, sameAddress); diff != "" {
				t.Fatalf("seed %d: %T differs (-want +got):\n%s", seed, m, diff)
			}
		}
	}
}

func TestRemoteServiceSurvivesTheWire(t *testing.T) {
	for seed := range uint64(20) {
		want := &mesh.RemoteService{}
		fill(rand.New(rand.NewPCG(seed, 3)), reflect.ValueOf(want).Elem(), 0)
		want.Slots = uint32(len(want.Moved))
		got, err := DecodeRemoteService(EncodeRemoteService(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, sameAddress); diff != "" {
			t.Fatalf("seed %d differs (-want +got):\n%s", seed, diff)
		}
	}
}

func FuzzDecodeFederation(f *testing.F) {
	b, _ := proto.Marshal(EncodeDown(filled[replica.Response](1)))
	f.Add(b)
	b, _ = proto.Marshal(EncodeUp(filled[replica.Subscribe](1)))
	f.Add(b)
	f.Add(EncodeRemoteService(&mesh.RemoteService{ServiceName: mesh.ServiceName{Namespace: "a", Name: "b"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		up, down := &wirepb.Up{}, &wirepb.Down{}
		if proto.Unmarshal(b, up) == nil {
			if m, err := DecodeUp(up); err == nil {
				if _, err := DecodeUp(EncodeUp(m)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if proto.Unmarshal(b, down) == nil {
			if m, err := DecodeDown(down); err == nil {
				if _, err := DecodeDown(EncodeDown(m)); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = DecodeRemoteService(b)
	})
}

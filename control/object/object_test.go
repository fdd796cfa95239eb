package object_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop, annotations: {note: "a < b & c"}}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules: [{backendRefs: [{name: catalog, port: 80}]}]
`

func parse(t *testing.T, text string) manifest.Object {
	t.Helper()
	r := manifest.Parse("test.yaml", []byte(text), manifest.Options{})
	if len(r.Faults) > 0 || len(r.Objects) != 1 {
		t.Fatalf("parse: %v, %d objects", r.Faults, len(r.Objects))
	}
	return r.Objects[0]
}

var meta = object.Meta{UID: "u-1", Created: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Generation: 3,
	Stamp: mesh.Stamp{WallMillis: 17, Counter: 2, Origin: "eu-west"}}

func TestDecodeOfEncodeIsTheObject(t *testing.T) {
	o := parse(t, route)
	value, err := object.Encode(o, meta)
	if err != nil {
		t.Fatal(err)
	}
	stored := store.Object{Key: object.Key(o), Value: value, Revision: 9}
	epoch := mesh.Epoch{StartMillis: 5, ID: "abc"}
	f, got, m, err := object.Decode(stored, "eu-west", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(meta, m); diff != "" {
		t.Errorf("meta (-want +got):\n%s", diff)
	}
	if string(got.JSON) != string(o.JSON) || got.SpecDigest != o.SpecDigest {
		t.Errorf("the author's JSON changed:\n%s\n%s", o.JSON, got.JSON)
	}
	want := mesh.Key{Kind: mesh.KindHTTPRoute, Origin: "eu-west", Namespace: "shop", Name: "split"}
	if f.Key != want || f.Position != (mesh.Position{Epoch: epoch, Revision: 9}) || f.Stamp != meta.Stamp || string(f.Raw) != string(o.JSON) {
		t.Errorf("fact %v at %v, stamp %v", f.Key, f.Position, f.Stamp)
	}
	if c := f.Value.(*mesh.Route).Created; !c.Equal(meta.Created) {
		t.Errorf("route created %v, want %v", c, meta.Created)
	}
	again, err := object.Encode(got, m)
	if err != nil || string(again) != string(value) {
		t.Errorf("encode again: %v\n%s\n%s", err, value, again)
	}
}

func TestKindsHaveOneKey(t *testing.T) {
	for _, k := range manifest.Kinds() {
		got, ok := object.KindOf(object.KindKey(k))
		if want := k.Kind != manifest.KindLocalMesh; ok != want || ok && got.Kind != k.Kind {
			t.Errorf("KindOf(%q) = %s, %v", object.KindKey(k), got.Kind, ok)
		}
	}
	for _, other := range []string{"SlotTable", "Epoch", "services", "service", "Service.example.com", "HTTPRoute"} {
		if k, ok := object.KindOf(other); ok {
			t.Errorf("KindOf(%q) = %s, want none", other, k.Kind)
		}
	}
}

func TestDecodeRefusesWhatIsNotTheObject(t *testing.T) {
	o := parse(t, route)
	value, err := object.Encode(o, meta)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := object.Decode(store.Object{Key: store.Key{Kind: "SlotTable", Namespace: "shop", Name: "a"}, Value: []byte("x")}, "eu", mesh.Epoch{}); !errors.Is(err, object.ErrNotManifest) {
		t.Errorf("slot table: %v, want ErrNotManifest", err)
	}
	other := object.Key(o)
	other.Name = "other"
	for name, s := range map[string]store.Object{
		"another key": {Key: other, Value: value},
		"torn":        {Key: object.Key(o), Value: value[:len(value)/2]},
		"no object":   {Key: object.Key(o), Value: []byte(`{"uid":"x"}`)},
		"faulty":      {Key: object.Key(o), Value: []byte(strings.Replace(string(value), `"port":80`, `"port":0`, 1))},
	} {
		f, _, _, err := object.Decode(s, "eu", mesh.Epoch{})
		if err == nil || f != nil || errors.Is(err, object.ErrNotManifest) {
			t.Errorf("%s: fact %v, error %v", name, f, err)
		}
	}
}

func TestSecurityPolicyThatIsNotUnderstoodDenies(t *testing.T) {
	key := store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: "p"}
	value := `{"uid":"u","generation":1,"object":{"apiVersion":"isthmus.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"p","namespace":"shop"},"spec":{"action":"Alow"}}}`
	f, _, _, err := object.Decode(store.Object{Key: key, Value: []byte(value)}, "eu", mesh.Epoch{})
	if err != nil {
		t.Fatal(err)
	}
	if p := f.Value.(*mesh.AccessPolicy); p.Invalid == "" {
		t.Errorf("policy %+v is valid", p)
	}
}

func TestSecretIsNoFact(t *testing.T) {
	o := parse(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n")
	value, err := object.Encode(o, meta)
	if err != nil {
		t.Fatal(err)
	}
	f, got, _, err := object.Decode(store.Object{Key: object.Key(o), Value: value}, "eu", mesh.Epoch{})
	if err != nil || f != nil || got.Name != "s" {
		t.Errorf("fact %v, object %v, error %v", f, got, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"apiVersion":"isthmus.dev/v1alpha1","kind":"Workload","metadata":{"name":"svc-1-0","namespace":"bench","labels":{"app":"svc-1"}},` +
		`"spec":{"address":"10.0.1.0","locality":{"zone":"a"},"ports":[{"name":"http","port":8080}],"proxy":"10.0.1.0:15008","serviceAccount":"svc"}}`)
	r := manifest.Parse("bench", text, manifest.Options{})
	if len(r.Objects) != 1 {
		b.Fatal(r.Faults)
	}
	value, err := object.Encode(r.Objects[0], object.Meta{UID: "u", Created: time.Unix(0, 0)})
	if err != nil {
		b.Fatal(err)
	}
	s := store.Object{Key: object.Key(r.Objects[0]), Value: value}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := object.Decode(s, "eu", mesh.Epoch{}); err != nil {
			b.Fatal(err)
		}
	}
}

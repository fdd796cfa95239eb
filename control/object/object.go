// Package object is what the standalone store holds under a key: one object as its author
// wrote it, in an envelope of what the server adds. Its one idea is that the two never mix: the
// author's JSON is stored as it is, so that its digest is the same in every cluster, and who
// watches the store decodes with the same function as who answers a person.
//
// It reads and writes no store, validates nothing (codec/manifest does) and knows nothing of
// the values that a control plane stores for itself, such as slot tables: Decode says
// ErrNotManifest of them.
//
// Read Encode and Decode, then Meta.
package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ErrNotManifest says that a key is not of a kind that people write.
var ErrNotManifest = errors.New("not a kind of manifest")

// Meta is what the server adds to an object.
type Meta struct {
	// UID names this incarnation of the object: another one under the same name has
	// another.
	UID string
	// Created is when it was created.
	Created time.Time
	// Generation counts changes of what the author wrote, from 1.
	Generation int64
	// Stamp orders unequal objects of several origins.
	Stamp mesh.Stamp
}

// envelope is the stored form, its members in alphabetical order.
type envelope struct {
	Created    time.Time       `json:"created"`
	Generation int64           `json:"generation"`
	Object     json.RawMessage `json:"object"`
	Stamp      stamp           `json:"stamp"`
	UID        string          `json:"uid"`
}

type stamp struct {
	Counter    uint32           `json:"counter"`
	Origin     mesh.ClusterName `json:"origin"`
	WallMillis int64            `json:"wallMillis"`
}

// KindKey is the Kind of a store.Key: the kind and its group, "Service" or
// "HTTPRoute.gateway.networking.k8s.io".
func KindKey(k manifest.Kind) string {
	if g := k.Group(); g != "" {
		return k.Kind + "." + g
	}
	return k.Kind
}

// KindOf is the kind that a store.Key's Kind names; false if it is none of manifest's.
func KindOf(key string) (manifest.Kind, bool) {
	word, _, _ := strings.Cut(key, ".")
	k, ok := manifest.KindNamed(word)
	return k, ok && KindKey(k) == key && k.Kind != manifest.KindLocalMesh
}

// Key is where an object is stored.
func Key(o manifest.Object) store.Key {
	key := store.Key{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
	if k, ok := manifest.KindNamed(o.Kind); ok {
		key.Kind = KindKey(k)
	}
	return key
}

// Encode is the stored value of an object.
func Encode(o manifest.Object, m Meta) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // the author's bytes stay as they are
	err := enc.Encode(envelope{Created: m.Created.UTC(), Generation: m.Generation, Object: o.JSON, UID: m.UID,
		Stamp: stamp{m.Stamp.Counter, m.Stamp.Origin, m.Stamp.WallMillis}})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// hidden stands for what a Secret holds wherever people read it. It is no base64, so that nobody applies it by mistake.
const hidden = "(hidden)"

// Shown is the object's JSON as people may read it: of a Secret the names of what it holds.
func Shown(o manifest.Object) []byte {
	if _, is := o.Value.(*manifest.Secret); !is {
		return o.JSON
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(o.JSON, &top); err != nil {
		return []byte("{}") // rather nothing than all
	}
	data := map[string]string{}
	for _, field := range []string{"data", "stringData"} {
		var held map[string]json.RawMessage
		_ = json.Unmarshal(top[field], &held) // what it holds was read before, or it has none
		delete(top, field)
		for name := range held {
			data[name] = hidden
		}
	}
	if len(data) > 0 {
		top["data"], _ = json.Marshal(data) // texts always can be
	}
	text, err := json.Marshal(top)
	if err != nil {
		return []byte("{}")
	}
	return text
}

// StampOf is the stamp of a stored value; false for values that no person writes.
func StampOf(o store.Object) (mesh.Stamp, bool) {
	if _, ok := KindOf(o.Kind); !ok {
		return mesh.Stamp{}, false
	}
	var e struct{ Stamp stamp }
	if err := json.Unmarshal(o.Value, &e); err != nil {
		return mesh.Stamp{}, false
	}
	return mesh.Stamp{WallMillis: e.Stamp.WallMillis, Counter: e.Stamp.Counter, Origin: e.Stamp.Origin}, true
}

// Decode reads a stored object as a fact of origin in the history epoch. The fact is nil
// for kinds that are no facts (Secrets but those of certificates, and kinds that nothing acts on yet). A security policy that
// cannot be understood comes with Invalid set, so that it denies what it selects; anything else that
// cannot be understood is an error, and what was known of it before stays in force. The error is
// ErrNotManifest for values that no person writes.
func Decode(s store.Object, origin mesh.ClusterName, epoch mesh.Epoch) (*mesh.Fact, manifest.Object, Meta, error) {
	fail := func(err error) (*mesh.Fact, manifest.Object, Meta, error) {
		return nil, manifest.Object{}, Meta{}, fmt.Errorf("decode stored %s: %w", s.Key, err)
	}
	if _, ok := KindOf(s.Kind); !ok {
		return fail(ErrNotManifest)
	}
	var e envelope
	if err := json.Unmarshal(s.Value, &e); err != nil {
		return fail(err)
	}
	r := manifest.Parse("store", e.Object, manifest.Options{Namespace: s.Namespace, Stored: true})
	if len(r.Objects) != 1 {
		if len(r.Faults) > 0 {
			return fail(errors.New(r.Faults[0].String()))
		}
		return fail(fmt.Errorf("%d objects in one value", len(r.Objects)))
	}
	o := r.Objects[0]
	if got := Key(o); got != s.Key {
		return fail(fmt.Errorf("the value holds %s", got))
	}
	m := Meta{UID: e.UID, Created: e.Created, Generation: e.Generation,
		Stamp: mesh.Stamp{WallMillis: e.Stamp.WallMillis, Counter: e.Stamp.Counter, Origin: e.Stamp.Origin}}
	if route, ok := o.Value.(*mesh.Route); ok {
		route.Created = m.Created // breaks ties between routes; nobody else has seen this value yet
	}
	f, ok := o.Fact(origin)
	if !ok {
		return nil, o, m, nil
	}
	f.Position = mesh.Position{Epoch: epoch, Revision: s.Revision}
	f.Stamp = m.Stamp
	if f.Kind != mesh.KindSecret { // a world has no use for its text
		f.Raw = o.JSON
	}
	return &f, o, m, nil
}

package store

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ValueBytesMax bounds an object's value, and with it a message: 1 MiB. It fits
// an etcd server that runs with the limits it ships with.
const ValueBytesMax = 1 << 20

// keyPartBytesMax bounds each part of a Key, as Kubernetes bounds names.
const keyPartBytesMax = 253

// A Key says which object. It is a tuple: no part may hold a "/", so that no
// two keys share an encoding.
type Key struct {
	// Kind and its API group, as in "HTTPRoute.gateway.networking.k8s.io".
	Kind string
	// Namespace is empty for objects that live in none.
	Namespace string
	Name      string
}

// String is the key as a person writes it.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// validate says what is wrong with k.
func (k Key) validate() error {
	if k.Kind == "" || k.Name == "" {
		return fmt.Errorf("key %q: kind and name must be set", k)
	}
	return Scope{Kind: k.Kind, Namespace: k.Namespace, name: k.Name}.validate()
}

// A Scope is a set of keys: all of them if it is zero, those of a kind, or those
// of a kind and namespace.
type Scope struct {
	Kind, Namespace string
	name            string
}

func (s Scope) validate() error {
	if s.Kind == "" && s.Namespace != "" {
		return fmt.Errorf("scope: namespace %q without a kind", s.Namespace)
	}
	for _, part := range []string{s.Kind, s.Namespace, s.name} {
		if len(part) > keyPartBytesMax {
			return fmt.Errorf("key part %.40q…: %d bytes, at most %d are allowed", part, len(part), keyPartBytesMax)
		}
		if !utf8.ValidString(part) || strings.ContainsFunc(part, func(r rune) bool { return r == '/' || unicode.IsControl(r) }) {
			return fmt.Errorf("key part %q: must be text without / and control characters", part)
		}
	}
	return nil
}

// An Object is one stored value.
type Object struct {
	Key
	// Value is canonical JSON; the store neither reads nor changes it.
	Value []byte
	// Revision is the store revision at which the object was last written.
	// Preconditions compare it. Put ignores it.
	Revision int64
	// Created is the store revision at which the object was created: it tells
	// an object from an earlier one of the same key. Put ignores it.
	Created int64
}

// A Position is a state of the store: a revision in the history that the epoch
// names. Revisions of different epochs do not compare. The zero Position is
// before everything.
type Position struct {
	Epoch    string
	Revision int64
}

// encode is the etcd key of k under prefix.
func (k Key) encode(prefix string) string {
	return prefix + objectsFolder + k.Kind + "/" + k.Namespace + "/" + k.Name
}

// encode is the prefix of the etcd keys of s under prefix.
func (s Scope) encode(prefix string) string {
	p := prefix + objectsFolder
	if s.Kind != "" {
		p += s.Kind + "/"
	}
	if s.Namespace != "" {
		p += s.Namespace + "/"
	}
	return p
}

const (
	objectsFolder = "objects/"
	epochName     = "epoch"
)

// decodeKey is the inverse of Key.encode. Keys that this package did not write
// are not ok, and are passed over: somebody else's entry must not stop a mesh.
func decodeKey(prefix string, raw []byte) (k Key, ok bool) {
	rest, ok := strings.CutPrefix(string(raw), prefix+objectsFolder)
	if !ok {
		return Key{}, false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return Key{}, false
	}
	k = Key{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	return k, k.validate() == nil
}

package recall

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// kindGone begins the kinds under which deletions are stored.
const kindGone = "Gone-"

// deletion is when a policy was deleted, as it is stored.
type deletion struct {
	WallMillis int64            `json:"wallMillis"`
	Counter    uint32           `json:"counter"`
	Origin     mesh.ClusterName `json:"origin"`
}

// Statement is the stored statement of a deletion; false for what is no policy.
func Statement(n replica.Name, at mesh.Stamp) (store.Object, bool) {
	kind, ok := manifest.KindNamed(string(n.Kind))
	if !ok || !replica.Tightens(n.Kind) {
		return store.Object{}, false
	}
	value, err := json.Marshal(deletion{at.WallMillis, at.Counter, at.Origin})
	return store.Object{Key: store.Key{Kind: kindGone + object.KindKey(kind), Namespace: n.Namespace, Name: n.Name}, Value: value}, err == nil
}

// Policy is the policy that a key of the store names.
func Policy(k store.Key) (replica.Name, bool) {
	kind, ok := object.KindOf(k.Kind)
	n := replica.Name{Kind: mesh.Kind(kind.Kind), Namespace: k.Namespace, Name: k.Name}
	return n, ok && replica.Tightens(n.Kind)
}

// Gone is the policy whose deletion a key of the store states.
func Gone(k store.Key) (replica.Name, bool) {
	of, ok := strings.CutPrefix(k.Kind, kindGone)
	if !ok {
		return replica.Name{}, false
	}
	k.Kind = of
	return Policy(k)
}

// Stamp is when the policy was deleted of whose deletion this is the stored statement.
func Stamp(statement []byte) (mesh.Stamp, error) {
	var d deletion
	if err := json.Unmarshal(statement, &d); err != nil {
		return mesh.Stamp{}, fmt.Errorf("a stored deletion: %w", err)
	}
	return mesh.Stamp{WallMillis: d.WallMillis, Counter: d.Counter, Origin: d.Origin}, nil
}

// word is the latest that a state of the store says of a policy: that it is there, or that it was deleted.
type word struct {
	object store.Object
	stamp  mesh.Stamp
	gone   bool
}

// held is what a state holds of one policy.
type held struct {
	last word
	// revisions of the policy and of the statement of its deletion; 0 is absent.
	policy, statement int64
}

// read is what a state of the store says of policies. What cannot be read counts as the oldest word.
func read(state []store.Object) map[replica.Name]held {
	out := map[replica.Name]held{}
	for _, o := range state {
		w := word{object: o}
		n, ok := Policy(o.Key)
		if ok {
			w.stamp, _ = object.StampOf(o)
		} else if n, w.gone = Gone(o.Key); w.gone {
			w.stamp, _ = Stamp(o.Value) // the zero stamp, if it cannot be read
		} else {
			continue
		}
		h := out[n]
		if w.gone {
			h.statement = o.Revision
		} else {
			h.policy = o.Revision
		}
		// Of two that are as old the policy counts: it was made again, or is not deleted yet.
		if c := w.stamp.Compare(h.last.stamp); h.last.object.Value == nil || c > 0 || c == 0 && !w.gone {
			h.last = w
		}
		out[n] = h
	}
	return out
}

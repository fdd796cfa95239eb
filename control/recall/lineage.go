package recall

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// LineageKey is of the stored object that says which earlier histories of the store the present one
// takes into account, and up to where.
var LineageKey = store.Key{Kind: "Lineage.isthmus.dev", Name: "own"}

// line is one epoch of a stored lineage.
type line struct {
	ID          string `json:"id"`
	StartMillis int64  `json:"startMillis"`
	Revision    int64  `json:"revision"`
}

// EncodeLineage is the stored form, in order of the epochs.
func EncodeLineage(l replica.Lineage) ([]byte, error) {
	var out []line
	for e, r := range l {
		out = append(out, line{e.ID, e.StartMillis, r})
	}
	slices.SortFunc(out, func(a, b line) int {
		return mesh.Position{Epoch: mesh.Epoch{StartMillis: a.StartMillis, ID: a.ID}}.Compare(mesh.Position{Epoch: mesh.Epoch{StartMillis: b.StartMillis, ID: b.ID}})
	})
	return json.Marshal(out)
}

// DecodeLineage reads the stored lineage.
func DecodeLineage(b []byte) (replica.Lineage, error) {
	var in []line
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("the stored lineage: %w", err)
	}
	l := replica.Lineage{}
	for _, e := range in {
		l[mesh.Epoch{StartMillis: e.StartMillis, ID: e.ID}] = e.Revision
	}
	return l, nil
}

// LineageOf is the lineage that a state of the store says, and the precondition of a write of it.
func LineageOf(state []store.Object) (replica.Lineage, store.Precondition, error) {
	for _, o := range state {
		if o.Key == LineageKey {
			l, err := DecodeLineage(o.Value)
			return l, store.AtRevision(o.Revision), err
		}
	}
	return nil, store.MustNotExist(), nil
}

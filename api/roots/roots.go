// Package roots says what is believed of a cluster's trust domain, beside what its Cluster object was written with: a part of the
// object's status. Its one idea is that an object stays what its author wrote, and that the truth stands under it.
//
// It believes nothing (core/compile says what proxies are told) and writes no object. Read Of.
package roots

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Roots is what the proxies of the cluster that is asked believe of another's trust domain, or of its own.
type Roots struct {
	// Generation is that of the bundle; 0 while the cluster has not been heard and spec.trustBundle is all that is known.
	Generation uint64 `json:"generation"`
	// TrustBundle are the roots in PEM.
	TrustBundle string `json:"trustBundle"`
	// Spec says how spec.trustBundle differs, and what to do; "" if it does not.
	Spec string `json:"spec,omitempty"`
}

// Of is what is believed of a cluster; nil is nothing.
func Of(w *world.World, v *mesh.Cluster) *Roots {
	b, err := derive.Eval(w, compile.BundleOf, v.TrustDomain)
	if err != nil || b == nil {
		return nil
	}
	var text strings.Builder
	for _, der := range b.Roots {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Builder takes all
	}
	return &Roots{Generation: b.Generation, TrustBundle: text.String(), Spec: differs(v.Roots, b.Roots)}
}

// differs says how the roots of an object stand to those in force.
func differs(spec, force [][]byte) string {
	in := func(list [][]byte, der []byte) bool {
		return slices.ContainsFunc(list, func(o []byte) bool { return bytes.Equal(o, der) })
	}
	gone, missing := 0, 0
	for _, der := range spec {
		if !in(force, der) {
			gone++
		}
	}
	for _, der := range force {
		if !in(spec, der) {
			missing++
		}
	}
	if gone+missing == 0 {
		return ""
	}
	out := fmt.Sprintf("of the %d in spec.trustBundle %d are not believed any more, and of the %d in force it lacks %d", len(spec), gone, len(force), missing)
	if gone == len(spec) {
		return out + ": whoever joins by this object cannot verify the cluster; put status.roots.trustBundle there"
	}
	return out + ": what is in force counts; put status.roots.trustBundle there once the replacement has ended"
}

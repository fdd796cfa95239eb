// Package mishap is the faults that policies make on purpose, ready to be looked at by requests: of which requests, and of whose,
// each speaks. Its one idea is that a fault never reaches what no policy names.
//
// It makes nothing fail and draws nothing: dataplane/proxy does. Read Fault.
package mishap

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Fault is an ir.Fault with its match compiled. It is immutable.
type Fault struct {
	*mesh.Fault
	Object string
	takes  route.Selector
}

// New compiles faults; the error names the object whose match cannot be.
func New(in []ir.Fault) ([]Fault, error) {
	out := make([]Fault, len(in))
	for i := range in {
		f := &in[i]
		takes, err := route.NewSelector(f.Fault.Match)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Object, err)
		}
		out[i] = Fault{&f.Fault, f.Object, takes}
	}
	return out, nil
}

// Meant reports whether a fault speaks of a request of the proxy's own workload; bytes says that it is a connection.
func (f *Fault) Meant(a *route.Ask, bytes bool, self *ir.Proxy, clusters map[mesh.ClusterName]*ir.Cluster) bool {
	if bytes && len(f.Match.Methods)+len(f.Match.Paths)+len(f.Match.Headers) > 0 {
		return false // what is inside a connection nobody sees
	}
	if !f.takes.Takes(a) {
		return false
	}
	if len(f.Sources) == 0 {
		return true
	}
	if self == nil {
		return false
	}
	at := ir.Caller{TrustDomain: self.Identity.TrustDomain, Cluster: self.Locality.Cluster}
	if c := clusters[at.Cluster]; c != nil {
		at.Jurisdiction = c.Jurisdiction
	}
	return policy.MatchesSources(f.Sources, self.Identity, &at)
}

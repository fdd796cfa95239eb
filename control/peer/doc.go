// Package peer carries facts between clusters: it dials the control planes of peers and
// drives core/replica's state machines over mTLS streams, in both directions. Its one idea is
// that it has hands and no judgement: what is sent, applied, refused or kept is decided by the
// state machines; this package owns sockets, clocks, the cache on disk and the goroutines. A stream
// costs its cluster one goroutine that decides and one that receives; both end with it.
//
// What a peer may cost is bounded: one response of at most 1 MiB is unacknowledged, a message
// has at most MessageMax octets, a Send that nobody reads ends the stream, and of one
// peer's streams the newest StreamsMax live.
//
// It does not decide whether a cluster is alive (core/liveness), what is exported
// (core/compile) or what an object means (codec/manifest).
//
// Read Exports and Server (what we tell), then Follower (what we are told).
package peer

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ControlPlane is the service account of control planes in the system namespace: the
// identity that may speak for a cluster.
const ControlPlane = "control-plane"

// SystemNamespace is the namespace of the mesh's own parts.
const SystemNamespace = "isthmus-system"

// IdentityOf is the identity of the control plane of a trust domain.
func IdentityOf(td mesh.TrustDomain) mesh.Identity {
	return mesh.Identity{TrustDomain: td, Namespace: SystemNamespace, ServiceAccount: ControlPlane}
}

// Resource is a fact of this cluster as it travels; false for facts that stay.
func Resource(f *mesh.Fact) (*replica.Resource, bool) {
	if !replica.Travels(f.Kind) || f.Home {
		return nil, false
	}
	n := replica.NameOf(f.Key)
	switch v := f.Value.(type) {
	case *mesh.RemoteService:
		return replica.NewResource(n, f.Position, f.Stamp, f.Digest, wire.EncodeRemoteService(v)), true
	case *mesh.Bundle:
		_, body := wire.Encode(v)
		return replica.NewResource(n, f.Position, f.Stamp, f.Digest, body), true
	case *mesh.Cluster:
		return nil, false // what we think of a cluster is our own affair
	}
	if f.Raw == nil {
		return nil, false
	}
	return replica.NewResource(n, f.Position, f.Stamp, f.Digest, f.Raw), true
}

// Fact reads what a peer stated. It trusts nothing: the body must say what the name says,
// identities and a bundle may be only of the owner's own trust domain, the digest is computed
// and not believed, and what a peer says of clusters is nobody's business but its own.
func Fact(owner mesh.ClusterName, td mesh.TrustDomain, r *replica.Resource) (*mesh.Fact, error) {
	f := &mesh.Fact{Key: r.Key(owner), Position: r.Position, Stamp: r.Stamp, Digest: r.Digest}
	switch r.Kind {
	case mesh.KindRemoteService:
		v, err := wire.DecodeRemoteService(r.Body)
		if err != nil {
			return nil, err
		}
		if v.Namespace != r.Namespace || v.Name != r.Name.Name {
			return nil, fmt.Errorf("the summary is of %s and bears the name %s", v.ServiceName, r.Name)
		}
		for _, id := range v.Identities {
			if id.TrustDomain != td {
				return nil, fmt.Errorf("identity %s is not of trust domain %s", id, td)
			}
		}
		f.Value, f.Digest = v, ir.DigestOf(v)
		return f, nil
	case mesh.KindBundle:
		v, err := wire.Decode(ir.TypeBundle, r.Body)
		if err != nil {
			return nil, err
		}
		b := v.(*mesh.Bundle)
		if b.TrustDomain != td || r.Name.Name != string(td) {
			return nil, fmt.Errorf("a bundle of trust domain %s: want its own, %s", b.TrustDomain, td)
		}
		f.Value, f.Digest = b, ir.DigestOf(b)
		return f, nil
	}
	if !r.Kind.Replicated() {
		return nil, fmt.Errorf("facts of kind %s do not travel", r.Kind)
	}
	return object(owner, r, f)
}

// object reads a configured object. A security policy with faults denies what it
// selects; any other object with faults is refused.
func object(owner mesh.ClusterName, r *replica.Resource, f *mesh.Fact) (*mesh.Fact, error) {
	result := manifest.Parse(string(owner), r.Body, manifest.Options{Stored: true})
	if len(result.Objects) != 1 {
		if len(result.Faults) > 0 {
			return nil, fmt.Errorf("%s", result.Faults[0])
		}
		return nil, fmt.Errorf("%d objects in one resource", len(result.Objects))
	}
	got, ok := result.Objects[0].Fact(owner)
	if !ok || got.Key != f.Key {
		return nil, fmt.Errorf("the body is %s and bears the name %s", result.Objects[0], r.Name)
	}
	if got.Home {
		return nil, fmt.Errorf("%s is labelled to stay in its cluster", got.Key)
	}
	got.Position, got.Stamp, got.Raw = r.Position, r.Stamp, result.Objects[0].JSON
	return &got, nil
}

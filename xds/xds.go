// Package xds carries resources from a control plane to those who follow it: delta
// discovery (Envoy's incremental xDS) on gRPC over mTLS, server and client. Its one idea
// is that a resource is encoded once and shared by every stream, and that a stream is a
// cursor over what it was sent, never a copy.
//
// It does not know what resources mean, where they come from (Source) or how a proxy
// applies them (Handler). Read Source and Server first, then Client.
package xds

import (
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Resource is one version of one resource, encoded once. It is immutable.
type Resource struct {
	Type, Name string
	// Version is the digest of the content in its canonical form, in hexadecimal: equal
	// content has an equal version whichever replica serves it.
	Version string
	// Body is the encoded message, the value of the Any on the wire.
	Body []byte
}

// Node is who asks: Identity is from the certificate of the connection, the rest is
// what the first request of the stream says of itself.
type Node struct {
	Identity mesh.Identity
	// ID is "namespace/workload".
	ID      string
	Cluster mesh.ClusterName
	Mode    string // "sidecar", "gateway", "node"
	Zone    mesh.Zone
	// Version is the build's, Protocols what it speaks of Protocols; the zero Range is the first.
	Version      string
	Protocols    skew.Range
	Capabilities []string
	// Vector is how much the state that the node last applied knew.
	Vector mesh.Vector
}

// Source is where a server's resources come from. Its methods never block; what they
// cause arrives later through Server.Publish.
type Source interface {
	// Scope authorises a node to read a type and names the set of resources it reads:
	// nodes of one scope share their resources. An error refuses the node.
	Scope(n Node, typ string) (scope string, err error)
	// Watch says that a name has its first subscriber: its value or its absence will be
	// published soon. The name "*" asks for every resource of the scope and type, followed by
	// an Update named "*" without a resource, which says that the set is complete.
	Watch(scope, typ, name string)
	// Unwatch says that the last subscriber of a name has gone.
	Unwatch(scope, typ, name string)
}

// Update is a change of one resource of a scope. A nil Resource says that it does not
// exist, or does no longer.
type Update struct {
	Scope, Type, Name string
	Resource          *Resource
}

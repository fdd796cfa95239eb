package shape

import (
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
)

// Builds are what nodes run as: the newest but one, and what it works with. The last is served by most and refused by
// the first protocol's, three minor versions before it.
func Builds() []skew.Build {
	return []skew.Build{{Version: "v1.2.0"}, {Version: "v1.1.0"}, {Version: "v1.0.0", Protocols: skew.Range{Min: replica.ProtocolFirst, Max: replica.ProtocolFirst}},
		{Version: "v1.3.0"}}
}

// Fits reports whether two builds serve each other.
func Fits(a, b skew.Build) bool {
	_, common := a.Speaks(replica.Protocols()).Common(b.Speaks(replica.Protocols()))
	return common && skew.Served(skew.ControlPlane, skew.Parse(a.Version), skew.ControlPlane, skew.Parse(b.Version))
}

package xds

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/skew"
)

// Protocols are what this code speaks between a control plane and its proxies, by number; each is the one before and more,
// and it rises by one at most in a minor version. A node that states none speaks the first.
func Protocols() skew.Range { return skew.Range{Min: 1, Max: 2} }

// protocolRanges is the first protocol in which a node states a range.
const protocolRanges = 2

// refusedMax bounds how many refused nodes are remembered.
const refusedMax = 64

// RefusedNode is a node that is not served for its version, and why: what is to be upgraded first.
type RefusedNode struct {
	Node Node
	Why  string
	At   time.Time
}

// unserved says why a node of such a version is not served, "" where it is.
func (s *Server) unserved(n *Node) string {
	ours, theirs := s.cfg.Build.Speaks(Protocols()), n.Protocols
	if theirs == (skew.Range{}) {
		theirs = skew.Range{Min: 1, Max: 1}
	}
	us, them := "this control plane", "proxy "+n.ID
	v, w := skew.Parse(s.cfg.Build.Version), skew.Parse(n.Version)
	if _, ok := ours.Common(theirs); !ok {
		return skew.Refuse(us, ours, v, them, theirs, w)
	}
	if !skew.Served(skew.ControlPlane, v, skew.Sidecar, w) {
		return skew.ApartFrom(us, v, them, w)
	}
	return ""
}

// refuse notes a node that is not served; served forgets it. The caller holds mu.
func (s *Server) refuse(n Node, why string) {
	if _, known := s.refusedNodes[n.ID]; !known && len(s.refusedNodes) >= refusedMax {
		oldest := slices.MinFunc(slices.Collect(maps.Values(s.refusedNodes)), func(a, b RefusedNode) int { return a.At.Compare(b.At) })
		delete(s.refusedNodes, oldest.Node.ID)
	}
	if _, known := s.refusedNodes[n.ID]; !known {
		s.cfg.Log.Warn("a proxy is not served for its version; it goes on with what it has", "proxy", n.ID, "version", n.Version, "error", why)
	}
	s.refusedNodes[n.ID] = RefusedNode{n, why, s.cfg.Now()}
}

// RefusedNodes lists the nodes that were not served for their version, by ID, until they are.
func (s *Server) RefusedNodes() []RefusedNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.refusedNodes), func(a, b RefusedNode) int { return cmp.Compare(a.Node.ID, b.Node.ID) })
}

// speaking is a node that says which protocols it speaks.
func speaking(n Node) Node {
	if n.Protocols == (skew.Range{}) {
		n.Protocols = Protocols()
	}
	return n
}

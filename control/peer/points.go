package peer

import "github.com/isthmus-mesh/isthmus/internal/failpoint"

// Points of this package at which a test may make things go wrong.
const (
	// PointSend is before a message of an owner leaves, PointSent after.
	PointSend failpoint.Point = "peer.send"
	PointSent failpoint.Point = "peer.sent"
	// PointApply is before what a peer stated goes into the world, PointApplied after, before the peer is
	// told and before the cache knows.
	PointApply   failpoint.Point = "peer.apply"
	PointApplied failpoint.Point = "peer.applied"
	// PointAnswer is before a message of an importer leaves.
	PointAnswer failpoint.Point = "peer.answer"
	// PointCacheWrite is before the cache is written, PointCacheRename when the new one is whole and not
	// yet in place, PointCacheWritten after.
	PointCacheWrite   failpoint.Point = "peer.cache.write"
	PointCacheRename  failpoint.Point = "peer.cache.rename"
	PointCacheWritten failpoint.Point = "peer.cache.written"
)

// Failpoints lists the points of this package, for failpoint.New.
func Failpoints() []failpoint.Point {
	return []failpoint.Point{PointSend, PointSent, PointApply, PointApplied, PointAnswer, PointCacheWrite, PointCacheRename, PointCacheWritten}
}

// Package relay is how a remote cluster takes part in the mesh by one connection, to one of its primaries. Its one
// idea is that a remote cluster owns its facts as any other does and tells and is told of them by the same protocol
// (core/replica); it only cannot be dialled, and dials one. So over its connection go, for each cluster of the mesh,
// a stream by which it is told and one by which it tells, and the primary passes them on without judging them.
//
// At the primary a [Hub] keeps what remote clusters offer to tell until somebody wants it, and [Splice] joins the
// two. At the remote an [Uplink] holds the connection, and when it is lost another one to the next primary. What a
// session knows is not of the connection but of the facts, so that a move sends the difference, which is nothing.
//
// It does not decide what is told, and keeps nothing: the caches are control/peer's, the facts control/filestore's.
//
// Read Uplink first, then Hub.
package relay

// Package sim runs a whole mesh in one process, on one goroutine, in virtual time: the
// same seed gives the same run, event for event.
//
// Its one idea: the protocol code is the product's (core/replica); only its hands are
// replaced. Clusters of three control-plane replicas, a relay with its own small
// partition, stores, disks, links and proxies are models that can be killed, cut off,
// slowed down, and given back an old disk. Checkers compare every state that comes
// into force with what its origin really stated at that position, and hold still only
// when they see a promise kept.
//
// A checker that never complains proves nothing: each defence has a control run
// without it, in which some checker must.
//
// It deliberately does not model the request path, bytes on a wire or certificates
// beyond their expiry; local meshes of real processes do.
//
// Read Config and Run first, then mesh.check in check.go.
package sim

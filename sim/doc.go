// Package sim runs a whole mesh in one process, on one goroutine, in virtual time: the
// same seed gives the same run, event for event.
//
// Its one idea is that what decides is the product's (core/replica, core/world, core/compile over core/derive,
// core/balance's slot tables, core/liveness, and how control/peer reads and writes facts); only its hands are
// replaced. Three to eight clusters, in one seed of twenty fifty, of control-plane replicas, relays of remote clusters,
// stores, disks, links and up to some thousand proxies are models that can be killed, cut off,
// slowed down, given back an old disk, another version or a wrong clock. Checkers compare every state that comes
// into force with what its origin really told at that position, and in the end every proxy with a compile from nothing;
// they hold still only when they see a promise kept.
//
// A checker that never complains proves nothing: each defence has a control run
// without it, in which some checker must.
//
// It deliberately does not model the request path, bytes on a wire or certificates
// beyond their expiry; local meshes of real processes do.
//
// Read Config and Run first, then Checkers in check.go and the fault kinds in faults.go.
package sim

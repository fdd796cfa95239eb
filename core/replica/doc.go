// Package replica is the protocol by which clusters learn each other's facts, as
// two state machines without hands: an Importer keeps the partition of one owner
// cluster, an Exporter serves a partition to one peer. They take messages and the
// time as values and return a Ready that says what to send, what to apply and
// what to raise an alarm about; package control/peer owns sockets, clocks and disks.
//
// Its one idea: what is in force is always one whole state that the owner stated,
// proven by its digest, and never an older one. A Partition is immutable and is
// its own digest tree (a root over 256 buckets), so "what do you lack?" costs 4 KiB
// of digests and then exactly the difference, whoever asks whom: a resumed link, a
// link that moved to another replica, a sibling fed by a sibling, a restarted
// process fed by its disk. Changes are staged and swapped in when their last
// message has come and the root agrees; there is no half state to clean up.
//
// Time never goes back: an Importer refuses a position before the one it has. When
// an owner's history restarts (a new mesh.Epoch), its absences prove nothing, for
// they may be what was lost. Security and residency policies of the old history
// are then held over and witnessed back to the owner, until its Lineage says that
// it has taken them into account. Nothing is ever deleted because somebody
// was silent.
//
// What it does not do: dial, wait, persist, decode bodies, decide whether a cluster
// is alive (core/liveness), or decide which of several origins' objects wins in a
// world (it offers Effective and Accepts for that).
//
// Read Partition first, then Importer.
package replica

// Package localmesh runs a whole mesh of several clusters on this machine: real
// processes, without root, joined by links that behave as a WAN does.
//
// Its one idea: a [Plan] says everything about a mesh before anything runs. It gives
// each cluster, instance and service its address, each process its configuration and
// each control plane its objects, from the mesh file alone, so that the same file gives
// the same mesh every time. [Run] then only starts what the plan says, waits until it
// works, and keeps it working. Processes, not goroutines, so that kill -9 and SIGSTOP
// mean something.
//
// # Addresses
//
// Cluster n has 127.B.0.0/16, B the base and n: see [Layout]. Every process binds its
// outgoing connections to its own address, and peers know each other only by the ends of
// their link, so that a socket table tells who speaks with whom.
//
// # Death
//
// Children hold the read end of a pipe (internal/parent) and end with the supervisor,
// however it dies. They also hold a lock on the state directory, so that [Down] returns
// when the last process of the mesh has ended, and not before. What dies any other way
// than by a drill is started again with back-off.
//
// # What it deliberately does not do
//
// It moves no request and takes no decision of the mesh: the control planes do, told
// through the same API that users have. A drill only signals processes and turns the
// knobs of links; it tells the mesh nothing. It takes nothing of the user's away: what an
// earlier mesh file said is gone at the next start, told by its label, and only that.
//
// Read [Config] and [Run] first, then [Plan].
package localmesh

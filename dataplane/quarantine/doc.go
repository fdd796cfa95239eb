// Package quarantine keeps a proxy from ending again and again by something that it was told.
//
// Its one idea: what a process did last before it crashed is on disk before it is done. A Ledger notes each version of a resource
// before it is put in force, the runtime writes the report of a crash into a file, and the next process reads both. After
// two crashes within a minute of one another the versions that came in the minute before the first, or between them, are held:
// the one that was in force before serves on in its place, and the control plane reads in its answer why. Another version of the
// same resource is taken as any other.
//
// A process that is killed, or that ends of itself with an error, has not crashed. A proxy that has never worked for a minute
// holds nothing: there is nothing before that it could serve. It does not know which of several versions it was, and holds all of them;
// a resource that was taken away is not among them; and certificates and trust are none of its matters.
//
// Read first: Ledger.
package quarantine

// Package store is the client half of the standalone object store: objects in
// etcd, with optimistic concurrency and a watch that loses nothing.
//
// Its one idea: a position. Every state the store was ever in has a Position,
// which is the epoch of its history and a revision in it, and Watch turns a
// position into everything that happened since, whatever happens to the
// connection, the server or the server's disk meanwhile. Where the answer
// cannot be given as changes (the history was compacted, wiped, restored, or the
// consumer fell too far behind) it is given as the whole state, and says so.
//
// It deliberately does not know what is in an object, does not cache, and does
// not run the server: that is package storeserver, a process of its own that
// may die at any moment. Every call has a deadline; the store being away is an
// error that says where and why, never a wait without end.
//
// The first type to read is Object, then Store, then Events.
package store

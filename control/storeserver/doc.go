// Package storeserver is the server half of the standalone object store: one
// etcd member in a process of its own, reached over a Unix socket.
//
// Its one idea: etcd ends its process when its log cannot be written, and a
// control plane must not, so the store is a child process that may die at any
// time and be started again on the same directory. Run is that process's whole
// job. It therefore may do, and does, what a library must not: it sets etcd's
// package variables for segment and map sizes, once, before etcd starts.
//
// What is left out of etcd is the point of the package. There is no TCP port,
// no HTTP handler, no metrics or profiling page and no gateway: only etcd's
// gRPC services on one socket that only the owner of the directory can open.
// A store has one member; whoever wants several runs an etcd cluster and points
// control/store at it.
//
// It deliberately does not supervise: starting the process, watching the parent
// and starting it again are the caller's. It knows nothing of objects either;
// those are control/store's, which links none of etcd's server.
//
// The first type to read is Config, then Run.
package storeserver

// Package http2 is an HTTP/2 engine (RFC 9113, RFC 7541) for both ends of a
// connection: ServeConn answers requests, ClientConn asks. It speaks in the values of
// package message and copies no byte of a message from one connection to another
// without having parsed it.
//
// Its one idea: everything that wants to be sent is appended to one bounded buffer a
// connection, under one lock, and a single flusher takes the whole buffer and writes
// it at once. Before it does, it lets the producers that are ready append first. So the frames
// of many requests share one TLS record and one system call, which is what an
// HTTP/2 proxy pays for; the order of frames is the order of appends, so that HPACK's
// state needs no lock of its own; and the buffer's bound is the back-pressure.
//
// A connection has one reader, one flusher and, on the server's side, a goroutine a
// request taken from a bounded stock of idle ones. Streams, heads and buffers are
// reused: a request allocates nothing in steady state.
//
// The package deliberately does not dial, accept, speak TLS, prioritise, push, route or
// log, and it knows nothing of the fields that proxies exchange among themselves.
// It imports neither net/http nor x/net/http2.
//
// Read Config first, then ServeConn and ClientConn; conn holds what both share.
package http2

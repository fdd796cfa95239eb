// Package http1 speaks HTTP/1.1 (RFC 9112) on both sides of a proxy. Its one idea is
// that a head is understood or refused, never passed on: bytes become a message.Head
// through one strict grammar, and every head that leaves is written anew from a Head,
// so two neighbours of this proxy cannot be made to disagree on where a message ends.
//
// It is stricter than the RFC demands wherever leniency has been used to smuggle
// requests: one line ending (CRLF), no folding, one Content-Length, `chunked` as the only
// transfer coding, never both, a host without user information or percent-encoding.
// testdata/requests.txt lists what is accepted and refused and why.
//
// It deliberately does not normalise paths, retry, choose endpoints, log, or start
// goroutines: a connection is driven by its caller's own. It holds no buffer for a
// connection that waits.
//
// Read ServerConn first, then ClientConn, then Pool. Writing for speed: see
// Exchange.Cork and Stream.Buffered.
package http1

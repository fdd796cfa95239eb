package mesh

import "encoding/binary"

// A client that cannot reach a cluster asks a gateway of a third to pass its connection on: before its ClientHello, whose server
// name is that of the destination as ever, stand some octets that name the gateway that is asked. The gateway takes them off, so
// that a connection is passed on once at most, wherever it leads. A gateway that does not know them sees no ClientHello, and refuses.

// The head is as long as that of a TLS record (RFC 8446 §5.1), and has the length in the same place; no record begins with passOnMark.
const (
	passOnMark    = 'I'
	passOnVersion = 1
	passOnHead    = 5
	passOnMost    = 253
)

// PassOn is what stands before a ClientHello to ask a gateway of a trust domain to pass the connection on.
func PassOn(by TrustDomain) []byte {
	b := []byte{passOnMark, passOnVersion, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(by)))
	return append(b, by...)
}

// PassOnSize is how many octets of a connection that begins with b stand before its ClientHello: 0 if it does not begin so. It
// needs the first five; fewer are 0.
func PassOnSize(b []byte) int {
	if len(b) < passOnHead || b[0] != passOnMark || b[1] != passOnVersion || b[2] != 0 {
		return 0
	}
	n := int(binary.BigEndian.Uint16(b[3:passOnHead]))
	if n == 0 || n > passOnMost {
		return 0
	}
	return passOnHead + n
}

// PassedBy is who is asked to pass a connection on that begins with b, and how many octets say so. None is no such connection,
// or one of which they are not all there, or out of form.
func PassedBy(b []byte) (by TrustDomain, size int) {
	size = PassOnSize(b)
	if size == 0 || len(b) < size || !IsSubdomain(string(b[passOnHead:size])) {
		return "", 0
	}
	return TrustDomain(b[passOnHead:size]), size
}

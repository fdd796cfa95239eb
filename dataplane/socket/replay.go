package socket

import "net"

// Replay is a connection of which the first bytes have been read already: they are read again before what comes.
func Replay(c net.Conn, first []byte) net.Conn { return &replay{c, first} }

type replay struct {
	net.Conn
	first []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	if r.first = r.first[n:]; len(r.first) == 0 {
		r.first = nil // nothing holds what was read ahead any longer
	}
	return n, nil
}

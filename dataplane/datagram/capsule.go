// Package datagram presents UDP as HTTP's two ends. Its one idea is that a session, which is what one
// client address sends to one port and what comes back, is to the request pipeline a CONNECT like that of
// package raw, whose bytes are datagrams in capsules (RFC 9297): framed where they come in, unframed where
// they leave, and bytes to everything between.
//
// It chooses no endpoint and dials nothing, and it repairs nothing: what finds no room is dropped and
// counted, as UDP has it. Read Port first, then Stream.
package datagram

import "fmt"

const (
	// MaxSize is the largest datagram, in bytes: what the length field of UDP can say (RFC 768).
	MaxSize = 65535
	// headMost is the longest head that Append writes: a type of one byte and a length of four.
	headMost = 5
	// typeDatagram is the type of a DATAGRAM capsule (RFC 9297 §3.5).
	typeDatagram = 0
	// bufferKeep is the largest buffer that is kept while nothing is in it, in bytes.
	bufferKeep = 4 << 10
)

// Append appends datagram to dst as a DATAGRAM capsule (RFC 9297 §3.2).
func Append(dst, datagram []byte) []byte {
	return append(appendHead(dst, len(datagram)), datagram...)
}

// appendHead appends what stands before a datagram of n bytes; the length is a variable-length integer
// (RFC 9000 §16).
func appendHead(dst []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(dst, typeDatagram, byte(n))
	case n < 1<<14:
		return append(dst, typeDatagram, 1<<6|byte(n>>8), byte(n))
	}
	return append(dst, typeDatagram, 2<<6|byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// Decoder finds the datagrams in a stream of capsules, however that is cut. The zero Decoder stands at
// the beginning of a stream. It is used by one goroutine at a time.
type Decoder struct {
	head [16]byte // type and length, n bytes of them
	n    int
	left uint64 // of the value
	in   bool   // head is whole
	skip bool   // the value is of a type that is not known
	part []byte // of a datagram that came in pieces
}

// Next takes a datagram from p and returns what is left of p; ok is false when p held no more whole ones,
// and all of p is taken. datagram is good until the next call, and while p is. An error is for good.
func (d *Decoder) Next(p []byte) (datagram, rest []byte, ok bool, err error) {
	for {
		if p, ok = d.takeHead(p); !ok {
			return nil, nil, false, nil
		}
		if d.left > MaxSize && !d.skip {
			return nil, nil, false, fmt.Errorf("a capsule of %d bytes: a datagram has at most %d", d.left, MaxSize)
		}
		if n := d.left; !d.skip && len(d.part) == 0 && n <= uint64(len(p)) {
			d.n, d.in = 0, false
			return p[:n], p[n:], true, nil // the usual case: nothing is copied
		}
		n := min(d.left, uint64(len(p)))
		if !d.skip {
			d.part = append(d.part, p[:n]...)
		}
		if p, d.left = p[n:], d.left-n; d.left > 0 {
			return nil, nil, false, nil
		}
		d.n, d.in = 0, false
		if d.skip { // unknown types are passed over (RFC 9297 §3.2)
			continue
		}
		whole := d.part
		if d.part = whole[:0]; cap(whole) > bufferKeep {
			d.part = nil
		}
		return whole, p, true, nil
	}
}

// takeHead takes type and length, and reports whether both are there.
func (d *Decoder) takeHead(p []byte) ([]byte, bool) {
	for !d.in {
		if len(p) == 0 {
			return nil, false
		}
		d.head[d.n] = p[0]
		d.n++
		p = p[1:]
		t := 1 << (d.head[0] >> 6) // how many bytes the integer has (RFC 9000 §16)
		if d.n <= t || d.n < t+1<<(d.head[t]>>6) {
			continue
		}
		d.in = true
		d.skip = integer(d.head[:t]) != typeDatagram
		d.left = integer(d.head[t:d.n])
	}
	return p, true
}

func integer(b []byte) uint64 {
	v := uint64(b[0] & 0x3f)
	for _, c := range b[1:] {
		v = v<<8 | uint64(c)
	}
	return v
}

package http2

import (
	"hash/maphash"
)

// encoder turns fields into field sections (RFC 7541). What repeats is inserted into the
// dynamic table at its second sight, found again by one hash, and then costs one or
// two octets; what does not repeat never enters the table. So in steady state the table does not
// change and a head costs a hash and a comparison a field. It never uses Huffman's code:
// between proxies both ends' time is worth more than a fifth of the octets.
type encoder struct {
	t       table
	low     int // lowest maximum since the last section, or -1: to be told to the peer (RFC 7541 §4.2)
	cap     int // our own bound
	seed    maphash.Seed
	statics map[string]uint8
	slots   [256]uint32 // by hash: the number of an insertion, from 1
	seen    [256]uint32 // by hash: the hash of a field seen once and not inserted
}

func newEncoder(limit int) encoder {
	e := encoder{low: -1, cap: limit, seed: maphash.MakeSeed(), statics: staticNames()}
	e.t.max = defaultTableBytes
	if limit < defaultTableBytes {
		e.setPeerLimit(defaultTableBytes)
	}
	return e
}

// setPeerLimit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setPeerLimit(n int) {
	n = min(n, e.cap)
	if n == e.t.max {
		return
	}
	if e.low < 0 || n < e.low {
		e.low = n
	}
	e.t.setMax(n)
}

// begin starts a section.
func (e *encoder) begin(dst []byte) []byte {
	if e.low >= 0 {
		if e.low < e.t.max { // fell and rose: emptied, as package hpack of x/net refuses the second update otherwise
			e.t.evictTo(0)
			dst = appendInt(dst, 0x20, 5, 0)
		}
		dst = appendInt(dst, 0x20, 5, e.t.max)
		e.low = -1
	}
	return dst
}

// field appends a field, choosing how.
func (e *encoder) field(dst, name, value []byte) []byte {
	policy := policyOf(name, value)
	if policy != indexRepeated {
		return e.literal(dst, policy, name, value)
	}
	h := maphash.Bytes(e.seed, name)*31 ^ maphash.Bytes(e.seed, value)
	slot := &e.slots[h&255]
	if age := e.t.inserted - *slot; *slot != 0 && age < uint32(e.t.n) {
		n, v := e.t.at(int(age))
		if string(v) == string(value) && string(n) == string(name) {
			return appendInt(dst, 0x80, 7, staticLen+1+int(age))
		}
	}
	seen := &e.seen[h>>8&255]
	if *seen != uint32(h>>32)|1 {
		*seen = uint32(h>>32) | 1
		return e.literal(dst, indexNot, name, value)
	}
	// The name's index is that before the insertion.
	dst = e.literal(dst, indexRepeated, name, value)
	if e.t.add(name, value) {
		*slot = e.t.inserted
	}
	return dst
}

// literal appends a literal, with its name's index in the static table if it has one.
func (e *encoder) literal(dst []byte, p policy, name, value []byte) []byte {
	prefix, bits := byte(0x00), uint(4)
	switch p {
	case indexRepeated:
		prefix, bits = 0x40, 6
	case indexNever:
		prefix = 0x10
	}
	if i := e.statics[string(name)]; i != 0 {
		dst = appendInt(dst, prefix, bits, int(i))
	} else {
		dst = appendString(append(dst, prefix), name)
	}
	return appendString(dst, value)
}

// named appends a literal without indexing whose name stands in the static table.
func (e *encoder) named(dst []byte, index int, value []byte) []byte {
	return appendString(appendInt(dst, 0, 4, index), value)
}

// policy says how a field may enter the dynamic table.
type policy uint8

const (
	indexRepeated policy = iota // once it has been seen twice
	indexNot                    // its values are known not to repeat
	indexNever                  // nor by any intermediary (RFC 7541 §7.1.3)
)

// secretShort is the length below which a secret could be guessed by trying what the
// table compresses (RFC 7541 §7.1).
const secretShort = 20

func policyOf(name, value []byte) policy {
	if len(value) > 1024 { // would push out everything else
		return indexNot
	}
	switch string(name) {
	case ":path", "age", "content-length", "content-range", "date", "etag", "expires", "if-match", "if-modified-since",
		"if-none-match", "if-range", "if-unmodified-since", "last-modified", "location", "range", "referer", "traceparent",
		"x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "grpc-timeout", "grpc-message":
		return indexNot
	case "set-cookie":
		return indexNever
	case "authorization", "proxy-authorization", "cookie":
		if len(value) < secretShort {
			return indexNever
		}
	}
	return indexRepeated
}

// appendInt appends n with a prefix of the given bits (RFC 7541 §5.1).
func appendInt(dst []byte, first byte, bits uint, n int) []byte {
	mask := 1<<bits - 1
	if n < mask {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(mask))
	for n -= mask; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func appendString(dst, s []byte) []byte {
	return append(appendInt(dst, 0, 7, len(s)), s...)
}

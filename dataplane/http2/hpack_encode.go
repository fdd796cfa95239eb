package http2

import (
	"hash/maphash"
)

// encoder turns fields into field sections (RFC 7541). What repeats is inserted into the
// dynamic table at its second sight, is found again at one of two places, and then costs
// one or two octets; what does not repeat never enters the table. So in steady state the table
// does not change, and is itself the cache of encoded heads: a comparison a field. It never uses Huffman's code:
// between proxies both ends' time is worth more than a fifth of the octets.
type encoder struct {
	t       table
	low     int // lowest maximum since the last section, or -1: to be told to the peer (RFC 7541 §4.2)
	cap     int // our own bound
	seed    maphash.Seed
	statics map[string]uint8
	slots   [256]uint32 // by place: the number of an insertion, from 1
	seen    [256]uint32 // by seenAt: the hash of a field seen once and not inserted
	novels  uint32      // how often seen was asked
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
	if dst, ok := e.indexed(dst, name, value); ok {
		return dst
	}
	return e.novel(dst, name, value)
}

// novel appends a field that indexed did not find.
func (e *encoder) novel(dst, name, value []byte) []byte {
	policy := policyOf(name, value)
	if policy != indexRepeated {
		return e.literal(dst, policy, name, value)
	}
	h := e.hash(name, value)
	seen := &e.seen[e.seenAt(h)]
	if *seen != uint32(h>>32)|1 {
		*seen = uint32(h>>32) | 1
		return e.literal(dst, indexNot, name, value)
	}
	for age := range e.t.n { // a slot may have been taken from it
		if n, v := e.t.at(age); string(v) == string(value) && string(n) == string(name) {
			e.setSlot(name, value, e.t.inserted-uint32(age))
			return appendInt(dst, 0x80, 7, staticLen+1+age)
		}
	}
	dst = e.literal(dst, indexRepeated, name, value)
	if e.t.add(name, value, true) {
		e.setSlot(name, value, e.t.inserted)
	}
	return dst
}

func (e *encoder) hash(name, value []byte) uint64 {
	return maphash.Bytes(e.seed, name)*31 ^ maphash.Bytes(e.seed, value)
}

// seenAt is a field's place in seen. Which octet of the hash says so changes now and then: two
// fields that repeat by turns and share a place would push each other out for ever.
func (e *encoder) seenAt(hash uint64) uint8 {
	turn := e.novels / uint32(len(e.seen))
	e.novels++
	return uint8(hash >> (turn % 4 * 8))
}

// indexed appends the index of a field that stands in the dynamic table, and reports whether
// it does. It comes first: what stands there has passed all other questions.
func (e *encoder) indexed(dst, name, value []byte) ([]byte, bool) {
	h := place(name, value)
	for _, slot := range [2]uint32{e.slots[h], e.slots[h^1]} {
		age := e.t.inserted - slot
		if slot == 0 || age >= uint32(e.t.n) {
			continue
		}
		if n, v := e.t.at(int(age)); string(v) == string(value) && string(n) == string(name) {
			return appendInt(dst, 0x80, 7, staticLen+1+int(age)), true
		}
	}
	return dst, false
}

// place hashes a field by its lengths and four of its octets: good enough to find what
// is compared anyway, and no dearer than the comparison.
func place(name, value []byte) uint8 {
	h := uint32(len(name))*0x9e3779b1 + uint32(len(value))*0x85ebca6b
	if n := len(name); n > 0 {
		h += uint32(name[n-1])*0xc2b2ae35 + uint32(name[n/2])*0x27d4eb2f
	}
	if n := len(value); n > 0 {
		h += uint32(value[n-1])*0x165667b1 + uint32(value[n/2])*0xd3a2646c
	}
	return uint8(h >> 24)
}

// setSlot makes indexed find the entry of the given insertion, in a slot that is free if
// there is one.
func (e *encoder) setSlot(name, value []byte, insertion uint32) {
	h := place(name, value)
	if live := e.slots[h]; live != 0 && e.t.inserted-live < uint32(e.t.n) {
		h ^= 1
	}
	e.slots[h] = insertion
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
		"x-request-id", "isthmus-load", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "grpc-timeout", "grpc-message":
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

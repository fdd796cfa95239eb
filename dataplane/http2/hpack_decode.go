//house:exempt a parser
package http2

import (
	"errors"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// Errors of a field section that cannot be decoded: the connection ends (RFC 9113 §4.3).
var (
	errTruncated   = errors.New("field section cut short")
	errInteger     = errors.New("integer too large")
	errIndex       = errors.New("index outside the tables")
	errHuffman     = errors.New("invalid Huffman code")
	errTableUpdate = errors.New("table size update above the limit, out of place or missing")
)

// fieldSink takes the fields of a section in order. The slices are valid during the call
// and must not be changed. It says whether the octets of name and value are valid, which the
// table remembers: known says that the same field has been found valid before. An error
// stops the decoder for good.
type fieldSink interface {
	field(name, value []byte, known bool) (valid bool, err error)
}

// decoder turns field sections into fields (RFC 7541 §3). It allocates only while its
// storage grows.
type decoder struct {
	t          table
	limit      int  // what we announced and the peer acknowledged
	mustUpdate bool // the limit fell below what is in use: the next section begins with an update (RFC 7541 §4.2)
	huff       *huffman
	statics    *[staticLen][2][]byte
	name       []byte // scratch
	value      []byte
}

func newDecoder() decoder {
	return decoder{t: table{max: defaultTableBytes}, limit: defaultTableBytes, huff: huffmanTable(), statics: staticFields()}
}

// setLimit says that the peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE.
func (d *decoder) setLimit(n int) {
	d.limit = n
	d.mustUpdate = d.t.max > n
}

// decode gives the fields of the section b to sink.
func (d *decoder) decode(b []byte, sink fieldSink) error {
	for first := true; len(b) > 0; {
		c := b[0]
		var err error
		if c&0xe0 == 0x20 { // 001: dynamic table size update (RFC 7541 §6.3)
			var n int
			if n, b, err = readInt(b, 5); err != nil {
				return err
			}
			if !first || n > d.limit {
				return errTableUpdate
			}
			d.t.setMax(n)
			d.mustUpdate = false
			continue
		}
		if d.mustUpdate {
			return errTableUpdate
		}
		first = false
		switch {
		case c&0x80 != 0: // 1: indexed (§6.1)
			b, err = d.indexed(b, sink)
		case c&0x40 != 0: // 01: literal with incremental indexing (§6.2.1)
			b, err = d.literal(b, 6, true, sink)
		default: // 0000 and 0001: literal without indexing, never indexed (§6.2.2, §6.2.3)
			b, err = d.literal(b, 4, false, sink)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) indexed(b []byte, sink fieldSink) ([]byte, error) {
	i, b, err := readInt(b, 7)
	if err != nil {
		return nil, err
	}
	switch {
	case i == 0 || i > staticLen+d.t.n:
		return nil, errIndex
	case i <= staticLen:
		e := &d.statics[i-1]
		_, err = sink.field(e[0], e[1], true)
		return b, err
	}
	name, value := d.t.at(i - staticLen - 1)
	_, err = sink.field(name, value, d.t.valid(i-staticLen-1))
	return b, err
}

func (d *decoder) literal(b []byte, bits uint, index bool, sink fieldSink) ([]byte, error) {
	i, b, err := readInt(b, bits)
	if err != nil {
		return nil, err
	}
	switch {
	case i == 0:
		if d.name, b, err = d.str(d.name[:0], b); err != nil {
			return nil, err
		}
	case i > staticLen+d.t.n:
		return nil, errIndex
	case i <= staticLen:
		d.name = append(d.name[:0], staticTable[i-1].name...)
	default: // copied: the insertion may evict or move it (RFC 7541 §4.4)
		name, _ := d.t.at(i - staticLen - 1)
		d.name = append(d.name[:0], name...)
	}
	if d.value, b, err = d.str(d.value[:0], b); err != nil {
		return nil, err
	}
	valid, err := sink.field(d.name, d.value, false)
	if index && err == nil {
		d.t.add(d.name, d.value, valid)
	}
	return b, err
}

// str appends the string literal at the front of b to dst (RFC 7541 §5.2).
func (d *decoder) str(dst, b []byte) (_, rest []byte, err error) {
	if len(b) == 0 {
		return dst, nil, errTruncated
	}
	coded := b[0]&0x80 != 0
	n, b, err := readInt(b, 7)
	if err != nil {
		return dst, nil, err
	}
	if n > len(b) {
		return dst, nil, errTruncated
	}
	if !coded {
		return append(dst, b[:n]...), b[n:], nil
	}
	dst, ok := d.huff.decode(dst, b[:n])
	if !ok {
		return dst, nil, errHuffman
	}
	return dst, b[n:], nil
}

// readInt reads an integer with a prefix of the given bits (RFC 7541 §5.1), up to 2^28.
func readInt(b []byte, bits uint) (int, []byte, error) {
	if len(b) == 0 {
		return 0, nil, errTruncated
	}
	mask := 1<<bits - 1
	n := int(b[0]) & mask
	b = b[1:]
	if n < mask {
		return n, b, nil
	}
	for shift := uint(0); shift <= 21; shift += 7 {
		if len(b) == 0 {
			return 0, nil, errTruncated
		}
		c := b[0]
		b = b[1:]
		n += int(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, b, nil
		}
	}
	return 0, nil, errInteger
}

// huffman decodes RFC 7541 Appendix B four bits at a time: no code is shorter than five
// bits, so a step yields at most one symbol. A state is an inner node of the code's tree.
type huffman [256][16]huffmanStep

type huffmanStep struct {
	next  uint8
	sym   uint8
	flags uint8
}

const (
	huffmanSymbol = 1 << iota // sym is complete
	huffmanFail               // the code of EOS (RFC 7541 §5.2)
	huffmanEnd                // the string may end after this step
)

// huffmanTable builds the decoder from the code table of package hpack, whose encoder
// tells the code of each symbol.
var huffmanTable = sync.OnceValue(func() *huffman {
	type node struct {
		child [2]int // index of an inner node; -1-sym for a leaf; 0 for none
	}
	tree := make([]node, 1, 256)
	insert := func(code uint32, bits, sym int) {
		at := 0
		for i := bits - 1; i > 0; i-- {
			bit := code >> i & 1
			if tree[at].child[bit] == 0 {
				tree = append(tree, node{})
				tree[at].child[bit] = len(tree) - 1
			}
			at = tree[at].child[bit]
		}
		tree[at].child[code&1] = -1 - sym
	}
	for sym := range 256 {
		// Eight times a symbol is as many octets as its code has bits.
		one := string([]byte{byte(sym)})
		bits := int(hpack.HuffmanEncodeLength(one + one + one + one + one + one + one + one))
		var code uint32
		for i, b := range append(hpack.AppendHuffmanString(nil, one), 0, 0, 0)[:4] {
			code |= uint32(b) << (24 - 8*i)
		}
		insert(code>>(32-bits), bits, sym)
	}
	const eos = 256
	insert(1<<30-1, 30, eos)

	// Padding is up to seven ones: the states on the path of all ones at that depth.
	end := make([]bool, len(tree))
	for at, depth := 0, 0; depth < 8; depth++ {
		end[at] = true
		at = tree[at].child[1]
	}
	h := new(huffman)
	for state := range tree {
		for nibble := range 16 {
			at, step := state, huffmanStep{}
			for i := 3; i >= 0 && step.flags&huffmanFail == 0; i-- {
				at = tree[at].child[nibble>>i&1]
				switch {
				case at == -1-eos:
					step.flags |= huffmanFail
				case at < 0:
					step.sym, step.flags, at = uint8(-1-at), step.flags|huffmanSymbol, 0
				}
			}
			if step.flags&huffmanFail == 0 {
				step.next = uint8(at)
				if end[at] {
					step.flags |= huffmanEnd
				}
			}
			h[state][nibble] = step
		}
	}
	return h
})

// decode appends the decoded b to dst.
func (h *huffman) decode(dst, b []byte) ([]byte, bool) {
	state, flags := uint8(0), uint8(huffmanEnd)
	for _, c := range b {
		step := h[state][c>>4]
		if step.flags&huffmanSymbol != 0 {
			dst = append(dst, step.sym)
		}
		failed := step.flags
		step = h[step.next][c&15]
		if step.flags&huffmanSymbol != 0 {
			dst = append(dst, step.sym)
		}
		if (failed|step.flags)&huffmanFail != 0 {
			return dst, false
		}
		state, flags = step.next, step.flags
	}
	return dst, flags&huffmanEnd != 0
}

//house:exempt parser

package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// helloMax bounds a ClientHello, records' headers included, in bytes.
const helloMax = 16 << 10

var (
	errHello    = errors.New("not a TLS ClientHello")
	errHelloBig = errors.New("a ClientHello larger than 16 KiB")
	errNoSNI    = errors.New("a ClientHello without a server name")
)

// readHello reads a connection's first bytes up to the end of its ClientHello, however
// they are cut into segments and records, and returns them with the server name. It reads
// nothing beyond the record that holds the end.
func readHello(r io.Reader, buf []byte) (raw []byte, name string, err error) {
	raw = buf[:0]
	var hello []byte // the handshake message, put together from records
	for {
		at := len(raw)
		if raw, err = readMore(r, raw, 5); err != nil {
			return raw, "", err
		}
		header := raw[at:]
		// RFC 8446 §5.1: handshake(22), a legacy version of 3.x, at most 2^14 bytes, none empty.
		n := int(binary.BigEndian.Uint16(header[3:5]))
		if header[0] != 22 || header[1] != 3 || n == 0 || n > 1<<14 {
			return raw, "", errHello
		}
		if raw, err = readMore(r, raw, n); err != nil {
			return raw, "", err
		}
		hello = append(hello, raw[at+5:]...)
		if len(hello) < 4 {
			continue
		}
		// RFC 8446 §4: client_hello(1), a length in three bytes.
		if hello[0] != 1 {
			return raw, "", errHello
		}
		want := 4 + (int(hello[1])<<16 | int(hello[2])<<8 | int(hello[3]))
		switch {
		case want > helloMax:
			return raw, "", errHelloBig
		case len(hello) > want:
			return raw, "", errHello // nothing may follow a ClientHello before an answer
		case len(hello) == want:
			name, err = serverName(hello[4:])
			return raw, name, err
		}
	}
}

// helloFirst is how much of a ClientHello there is room for at first, in bytes. There is more when that has come: who
// announces 16 KiB and sends none of them holds none.
const helloFirst = 512

func readMore(r io.Reader, raw []byte, n int) ([]byte, error) {
	if len(raw)+n > helloMax {
		return raw, errHelloBig
	}
	for n > 0 {
		at := len(raw)
		step := min(n, max(cap(raw), helloFirst, 2*at)-at)
		raw = slices.Grow(raw, step)[:at+step]
		m, err := io.ReadFull(r, raw[at:])
		if err != nil {
			return raw[:at+m], err
		}
		n -= step
	}
	return raw, nil
}

// serverName finds the one host_name of a ClientHello's body (RFC 8446 §4.1.2, RFC 6066
// §3). Anything out of form is refused: two parsers that disagree on a name are a way past a
// policy.
func serverName(b []byte) (string, error) {
	p := parser{b: b}
	p.skip(2 + 32)            // legacy_version, random
	p.skip(p.uint8())         // legacy_session_id
	p.skip(p.uint16())        // cipher_suites
	p.skip(p.uint8())         // legacy_compression_methods
	all := p.take(p.uint16()) // extensions
	if p.bad || len(p.b) != 0 {
		return "", errHello
	}
	name, found := "", false
	for e := (parser{b: all}); len(e.b) > 0; {
		kind := e.uint16()
		data := e.take(e.uint16())
		if e.bad {
			return "", errHello
		}
		if kind != 0 {
			continue
		}
		if found {
			return "", errHello // RFC 8446 §4.2: one extension of a type
		}
		found = true
		l := parser{b: data}
		list := parser{b: l.take(l.uint16())}
		typ := list.uint8()
		host := list.take(list.uint16())
		if l.bad || list.bad || len(l.b) != 0 || len(list.b) != 0 || typ != 0 || len(host) == 0 || len(host) > 253 {
			return "", errHello
		}
		name = string(host)
	}
	if !found {
		return "", errNoSNI
	}
	return name, nil
}

// parser takes lengths and bytes off a slice; bad says that it ran out.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if p.bad || n > len(p.b) {
		p.bad = true
		return nil
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) skip(n int) { p.take(n) }

func (p *parser) uint8() int {
	if b := p.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (p *parser) uint16() int {
	if b := p.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

//house:exempt parser

package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
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

func readMore(r io.Reader, raw []byte, n int) ([]byte, error) {
	if len(raw)+n > helloMax {
		return raw, errHelloBig
	}
	at := len(raw)
	raw = append(raw, make([]byte, n)...)
	m, err := io.ReadFull(r, raw[at:])
	return raw[:at+m], err
}

// border finds the end of a ClientHello in what has come of a connection. The zero value is ready for use.
type border struct {
	at   int // of a record's header
	got  int // octets of the handshake message in the records before
	head [4]byte
}

// total is how many bytes a connection's beginning is to have for its ClientHello, or what is out of form, to be whole, as far
// as b tells: no more than len(b) when it is. It never goes beyond the record that holds the end, as readHello does not.
func (d *border) total(b []byte) int {
	for len(b) >= d.at+5 {
		header := b[d.at:]
		n := int(binary.BigEndian.Uint16(header[3:5]))
		end := d.at + 5 + n
		if header[0] != 22 || header[1] != 3 || n == 0 || n > 1<<14 || end > helloMax {
			return d.at + 5
		}
		if len(b) < end {
			return end
		}
		for i := d.got; i < min(len(d.head), d.got+n); i++ {
			d.head[i] = header[5+i-d.got]
		}
		d.got += n
		d.at = end
		if d.got < len(d.head) {
			continue
		}
		if want := 4 + (int(d.head[1])<<16 | int(d.head[2])<<8 | int(d.head[3])); d.head[0] != 1 || want > helloMax || d.got >= want {
			return end
		}
	}
	return d.at + 5
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

// Package trace reads and writes a request's place in a distributed trace (W3C Trace Context,
// level 2). Its one idea is strictness: what is not exactly valid is as if it were not there, so that no
// hop goes on with what another would read otherwise.
//
// It draws no identifiers, decides on no sampling and exports nothing. Read Context first, then
// Of.
package trace

import (
	"bytes"
	"encoding/hex"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

const (
	FieldParent = "traceparent"
	FieldState  = "tracestate"
	// parentLen is that of version 00: 2-32-16-2 digits with three dashes.
	parentLen = 55
	// Sampled of trace-flags (§3.2.2.5.1), Random of level 2 (§3.2.2.5.2).
	Sampled, Random = 1, 2
	// tracestateMax and tracestateMembers bound a tracestate (§3.3.1.1, §3.3.1.5: at least 512
	// characters are to be passed on; 32 members).
	tracestateMax, tracestateMembers = 2048, 32
)

// Context is a traceparent. The zero value is none.
type Context struct {
	Trace  [16]byte
	Parent [8]byte
	Flags  byte
}

// Parse reads the field strictly: what is not exactly valid starts anew
// (§4.3). Of a version above 00 the first four parts are read (§4.3, step 4).
func Parse(v []byte) (c Context, ok bool) {
	if len(v) < parentLen || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return Context{}, false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], v[:2]) || !lowerHex(c.Trace[:], v[3:35]) || !lowerHex(c.Parent[:], v[36:52]) || !lowerHex(flags[:], v[53:55]) {
		return Context{}, false
	}
	switch {
	case version[0] == 0xff, c.Trace == [16]byte{}, c.Parent == [8]byte{}:
		return Context{}, false
	case len(v) > parentLen && (version[0] == 0 || v[parentLen] != '-'):
		return Context{}, false
	}
	c.Flags = flags[0]
	if version[0] != 0 { // what we send is of our version: unknown flags are zero (§3.2.2.5.3)
		c.Flags &= Sampled
	}
	return c, true
}

// lowerHex decodes hexadecimal digits, of which upper-case ones are invalid here
// (§3.2.2: lower case).
func lowerHex(out, in []byte) bool {
	for i := range out {
		hi, lo := in[2*i], in[2*i+1]
		if !isLowerHex(hi) || !isLowerHex(lo) {
			return false
		}
		out[i] = digit(hi)<<4 | digit(lo)
	}
	return true
}

func digit(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

func isLowerHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// Append writes the context as version 00.
func (c *Context) Append(b []byte) []byte {
	b = append(b, "00-"...)
	b = append(hex.AppendEncode(b, c.Trace[:]), '-')
	b = append(hex.AppendEncode(b, c.Parent[:]), '-')
	return hex.AppendEncode(b, []byte{c.Flags & (Sampled | Random)})
}

// Of finds the context that a request bears: one traceparent, or none (two cannot both be
// the parent). bad says that the fields are to be dropped.
func Of(h *message.Head) (c Context, ok, bad bool) {
	var v []byte
	for i := range h.Fields {
		if f := &h.Fields[i]; string(f.Name) == FieldParent {
			if v != nil {
				return Context{}, false, true
			}
			v = f.Value
		}
	}
	if v == nil {
		return Context{}, false, h.Has(FieldState) // alone it means nothing (§3.3)
	}
	c, ok = Parse(v)
	return c, ok, !ok
}

// ValidState holds all lines of the field, which are one list, against §3.3.1.
func ValidState(h *message.Head) bool {
	members, size := 0, 0
	for i := range h.Fields {
		f := &h.Fields[i]
		if string(f.Name) != FieldState {
			continue
		}
		if size += len(f.Value); size > tracestateMax {
			return false
		}
		for rest, more := f.Value, true; more; {
			var member []byte
			member, rest, more = bytes.Cut(rest, []byte(","))
			if member = bytes.Trim(member, " \t"); len(member) == 0 {
				continue // empty members are allowed
			}
			if members++; members > tracestateMembers || !validMember(member) {
				return false
			}
		}
	}
	return true
}

// validMember is §3.3.1.3: key=value, of which the key is 1 to 256 of a small set and the value
// up to 256 printable characters other than comma and equals sign, not ending in a space.
func validMember(m []byte) bool {
	key, value, ok := bytes.Cut(m, []byte("="))
	if !ok || len(key) == 0 || len(key) > 256 || len(value) == 0 || len(value) > 256 {
		return false
	}
	for i, c := range key {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '-' && c != '*' && c != '/' && c != '@') {
			return false
		}
	}
	for _, c := range value {
		if c < ' ' || c > '~' || c == '=' {
			return false
		}
	}
	return value[len(value)-1] != ' '
}

// AppendRequestID appends a random UUID (RFC 9562 §5.4) made of x and y.
func AppendRequestID(b []byte, x, y uint64) []byte {
	x = x&^0xf000 | 0x4000
	y = y&^(3<<62) | 2<<62
	const digits = "0123456789abcdef"
	for i, v := range [2]uint64{x, y} {
		for shift := 60; shift >= 0; shift -= 4 {
			if i == 0 && (shift == 28 || shift == 12) || i == 1 && (shift == 60 || shift == 44) {
				b = append(b, '-')
			}
			b = append(b, digits[v>>shift&15])
		}
	}
	return b
}

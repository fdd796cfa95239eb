package balance

import (
	"encoding/base64"
	"encoding/binary"
)

// Session names the endpoint that a session stays with, and when it began. Names are hashes: they
// tell a client nothing, and a proxy only whether one of the endpoints that it knows is meant. What
// it is not told to be lawful it does not know, so that a session that is made up gets its maker
// nothing that another request would not.
type Session struct {
	// Started is in Unix seconds.
	Started int64
	// tag and slot are an endpoint's names by tag and by slot; 0 is unknown.
	tag, slot uint64
}

const (
	sessionVersion = 1
	sessionBytes   = 1 + 4 + 8 + 8 + 3
	// SessionLength is the length of a session's text.
	SessionLength = sessionBytes * 4 / 3
)

// AppendSession appends the text of a session: 32 letters, digits, - and _ (RFC 4648 §5).
func AppendSession(dst []byte, s Session) []byte {
	var b [sessionBytes]byte
	b[0] = sessionVersion
	binary.BigEndian.PutUint32(b[1:], uint32(s.Started))
	binary.BigEndian.PutUint64(b[5:], s.tag)
	binary.BigEndian.PutUint64(b[13:], s.slot)
	sum := sessionSum(b[:sessionBytes-3])
	copy(b[sessionBytes-3:], sum[:])
	return base64.RawURLEncoding.AppendEncode(dst, b[:])
}

// ParseSession reads the text of a session; false for anything that AppendSession did not make.
func ParseSession(text []byte) (Session, bool) {
	var b [sessionBytes]byte
	if len(text) != SessionLength {
		return Session{}, false
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(b[:], text); err != nil || n != sessionBytes || b[0] != sessionVersion {
		return Session{}, false
	}
	if sum := sessionSum(b[:sessionBytes-3]); string(sum[:]) != string(b[sessionBytes-3:]) {
		return Session{}, false
	}
	return Session{Started: int64(binary.BigEndian.Uint32(b[1:])), tag: binary.BigEndian.Uint64(b[5:]), slot: binary.BigEndian.Uint64(b[13:])}, true
}

// sessionSum tells what was damaged or made up carelessly; it is no signature.
func sessionSum(b []byte) [3]byte {
	h := HashBytes(b)
	return [3]byte{byte(h >> 16), byte(h >> 8), byte(h)}
}

// SessionOf is the session of an endpoint.
func SessionOf(e *Endpoint, started int64) Session {
	if e.Tag != "" {
		return Session{Started: started, tag: e.name}
	}
	s := Session{Started: started, slot: e.name}
	if l := e.learnt.Load(); l != nil {
		s.tag = l.name
	}
	return s
}

// Resolve finds the endpoint of a session: by its tag where its address is known, behind gateways
// by its slot, or, when slots were given out anew, by the tag that the server proxy said. Nil if it is gone.
func (v *View) Resolve(s Session) *Endpoint {
	if e := v.named(s.tag); e != nil {
		return e
	}
	if e := v.named(s.slot); e != nil {
		if l := e.learnt.Load(); l == nil || s.tag == 0 || l.name == s.tag {
			return e
		}
	}
	if s.tag == 0 {
		return nil
	}
	for _, g := range v.groups {
		for _, e := range g.all.endpoints {
			if l := e.learnt.Load(); l != nil && l.name == s.tag {
				return e
			}
		}
	}
	return nil
}

// named finds an endpoint by name; 0 is nobody's.
func (v *View) named(name uint64) *Endpoint {
	if name == 0 || v.names != nil {
		return v.names[name]
	}
	for _, g := range v.groups { // a service that only another's routes have sessions with
		for _, e := range g.all.endpoints {
			if e.name == name {
				return e
			}
		}
	}
	return nil
}

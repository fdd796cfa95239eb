package route

import (
	"bytes"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// What of a request says where it belongs: its session, and the key of consistent hashing.

// clockSkew is how far ahead of ours the clock may be of the proxy that began a session.
const clockSkew = 5 * time.Minute

// Session is what is known of a request's session. The zero Session is that of a service that keeps
// none.
type Session struct {
	rules *mesh.Affinity
	known balance.Session
	ok    bool
}

// ReadSession reads the session that a request bears under the rules, nil for none. What is
// not understood, or whose time is up, is as if it were not there.
func ReadSession(h *message.Head, rules *mesh.Affinity, now time.Time) Session {
	s := Session{rules: rules}
	if rules == nil {
		return s
	}
	var text []byte
	if rules.Kind == mesh.AffinityHeader {
		text = h.Get(rules.Name)
	} else {
		text = cookie(h, rules.Name)
	}
	if s.known, s.ok = balance.ParseSession(text); s.ok {
		age := now.Sub(time.Unix(s.known.Started, 0))
		s.ok = age >= -clockSkew && (rules.AbsoluteTimeout == 0 || age < rules.AbsoluteTimeout)
	}
	return s
}

// Find is the session's endpoint among those of a view, nil if it has none there. What a client
// made up names an endpoint that any request may get, or none.
func (s *Session) Find(v *balance.View) *balance.Endpoint {
	if !s.ok || v == nil {
		return nil
	}
	return v.Resolve(s.known)
}

// Tell says in reply which session the endpoint that answered is, unless the client knows. meant
// is the endpoint that the request named, or nil: a session that stays, its endpoint only being known better by
// now, is no younger for it.
func (s *Session) Tell(reply *message.Head, answered, meant *balance.Endpoint, now time.Time, secure bool, scratch []byte) []byte {
	if s.rules == nil || s.ok && balance.SessionOf(answered, s.known.Started) == s.known {
		return scratch
	}
	next := balance.SessionOf(answered, now.Unix())
	if s.ok && meant == answered {
		next.Started = s.known.Started
	}
	return writeSession(reply, s.rules, next, now, secure, scratch)
}

// writeSession tells a client its session: in a field, or in a cookie that scripts cannot read
// and other sites' forms do not send (RFC 6265bis §4.1.2), which ends with the browser's session unless the
// rules say that it is permanent. scratch is used and returned.
func writeSession(reply *message.Head, a *mesh.Affinity, s balance.Session, now time.Time, secure bool, scratch []byte) []byte {
	b := scratch[:0]
	name := "set-cookie"
	if a.Kind == mesh.AffinityHeader {
		name = a.Name
		reply.Del(name)
		b = balance.AppendSession(b, s)
	} else {
		b = balance.AppendSession(append(append(b, a.Name...), '='), s)
		b = append(b, "; Path=/; HttpOnly; SameSite=Lax"...)
		if secure {
			b = append(b, "; Secure"...)
		}
		if a.Permanent && a.AbsoluteTimeout > 0 {
			left := time.Unix(s.Started, 0).Add(a.AbsoluteTimeout).Sub(now)
			b = strconv.AppendInt(append(b, "; Max-Age="...), int64(max(left, time.Second)/time.Second), 10)
		}
	}
	reply.Fields = append(reply.Fields, message.Field{Name: reply.KeepString(name), Value: reply.Keep(b)})
	return b
}

// HashKey hashes the first of keys that a request bears; false if it bears none. source stands
// for the caller.
func HashKey(h *message.Head, keys []mesh.HashKey, source string) (uint64, bool) {
	for i := range keys {
		var v []byte
		switch k := &keys[i]; {
		case k.Header != "":
			v = h.Get(k.Header)
		case k.Cookie != "":
			v = cookie(h, k.Cookie)
		case k.Query != "":
			v = queryValue(h.Path, k.Query)
		case k.Source && source != "":
			return balance.HashString(source), true
		}
		if len(v) > 0 {
			return balance.HashBytes(v), true
		}
	}
	return 0, false
}

// cookie is the value of the first cookie of a name (RFC 6265 §4.2.1), nil if there is none.
func cookie(h *message.Head, name string) []byte {
	for i := range h.Fields {
		if string(h.Fields[i].Name) != "cookie" {
			continue
		}
		for rest := h.Fields[i].Value; len(rest) > 0; {
			var pair []byte
			pair, rest = cutByte(rest, ';')
			key, value := cutByte(bytes.TrimLeft(pair, " \t"), '=')
			if string(key) == name && len(value) > 0 {
				return bytes.Trim(value, " \t\"")
			}
		}
	}
	return nil
}

// queryValue is the value of the first parameter of a name, as it was written.
func queryValue(path []byte, name string) []byte {
	for _, rest := cutByte(path, '?'); len(rest) > 0; {
		var pair []byte
		pair, rest = cutByte(rest, '&')
		if key, value := cutByte(pair, '='); string(key) == name {
			return value
		}
	}
	return nil
}

func cutByte(b []byte, at byte) (before, after []byte) {
	if i := bytes.IndexByte(b, at); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

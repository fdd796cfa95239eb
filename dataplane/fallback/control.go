//house:exempt a parser: Cache-Control

package fallback

import (
	"bytes"
	"math"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// control is what Cache-Control says of a message (RFC 9111 §5.2, RFC 5861), as far as it matters to a cache that is shared
// and gives answers only where there is no other.
type control struct {
	// noStore, noCache and private hold for the whole message even where the directive names fields: it is allowed, and
	// safer, to read them so (RFC 9111 §5.2.2.4, §5.2.2.7).
	noStore, noCache, private, public bool
	// fresh says that what is not fresh must not be given: must-revalidate, proxy-revalidate and s-maxage, which says so
	// of shared caches (§5.2.2.2, §5.2.2.8, §5.2.2.10).
	fresh bool
	// maxAge, sMaxAge, staleIfError and minFresh are absent where they are -1. A value that cannot be read is 0, as of the
	// shortest that could be meant (§4.2.1 asks to take such an answer for stale).
	maxAge, sMaxAge, staleIfError, minFresh time.Duration
}

// absent is the value of a directive that is not there.
const absent = time.Duration(-1)

// read takes all lines of Cache-Control of a head. Pragma counts where there is none (RFC 9111 §5.4).
func read(h *message.Head) control {
	c := control{maxAge: absent, sMaxAge: absent, staleIfError: absent, minFresh: absent}
	found := false
	for i := range h.Fields {
		if string(h.Fields[i].Name) == "cache-control" {
			found = true
			c.take(h.Fields[i].Value)
		}
	}
	if !found {
		for i := range h.Fields {
			if string(h.Fields[i].Name) == "pragma" && bytes.Contains(bytes.ToLower(h.Fields[i].Value), []byte("no-cache")) {
				c.noCache = true
			}
		}
	}
	return c
}

// take reads one line: directives separated by commas, each a token, with "=" and a token or a quoted string behind it where it
// has an argument (§5.2).
func (c *control) take(v []byte) {
	for len(v) > 0 {
		var name, arg []byte
		v = bytes.TrimLeft(v, " \t,")
		name, v = token(v)
		if rest := bytes.TrimLeft(v, " \t"); len(rest) > 0 && rest[0] == '=' {
			arg, v = argument(bytes.TrimLeft(rest[1:], " \t"))
		}
		c.directive(name, arg)
		// What stands before the next comma and is none of it is not understood, and not looked at.
		if i := bytes.IndexByte(v, ','); i >= 0 {
			v = v[i+1:]
		} else {
			v = nil
		}
	}
}

// token is the beginning of v up to what ends a token here.
func token(v []byte) (name, rest []byte) {
	i := bytes.IndexAny(v, " \t,=\"")
	if i < 0 {
		return v, nil
	}
	return v[:i], v[i:]
}

// argument is a token, or a quoted string without its quotes, escapes as they stand: none that matters has any. One that does
// not end takes all that is left.
func argument(v []byte) (arg, rest []byte) {
	if len(v) == 0 || v[0] != '"' {
		return token(v)
	}
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return v[1:i], v[i+1:]
		}
	}
	return v[1:], nil
}

func (c *control) directive(name, arg []byte) {
	is := func(word string) bool { return len(name) == len(word) && bytes.EqualFold(name, []byte(word)) }
	switch {
	case is("no-store"):
		c.noStore = true
	case is("no-cache"):
		c.noCache = true
	case is("private"):
		c.private = true
	case is("public"):
		c.public = true
	case is("must-revalidate"), is("proxy-revalidate"):
		c.fresh = true
	case is("max-age"):
		least(&c.maxAge, arg)
	case is("s-maxage"):
		c.fresh = true
		least(&c.sMaxAge, arg)
	case is("stale-if-error"):
		least(&c.staleIfError, arg)
	case is("min-fresh"):
		least(&c.minFresh, arg)
	}
}

// least takes a number of seconds, the least of what is said several times.
func least(to *time.Duration, arg []byte) {
	if d := seconds(arg); *to == absent || d < *to {
		*to = d
	}
}

// secondsMost is what a number beyond counts as (RFC 9111 §1.2.2).
const secondsMost = math.MaxInt32

// seconds is a delta-seconds; 0 of what is none.
func seconds(v []byte) time.Duration {
	n := int64(0)
	for _, b := range v {
		if b < '0' || b > '9' {
			return 0
		}
		n = min(n*10+int64(b-'0'), secondsMost)
	}
	return time.Duration(n) * time.Second
}

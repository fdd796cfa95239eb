//house:exempt a parser: one grammar, in three files

package http1

import (
	"bytes"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// fields gathers what the framing and connection fields of one head say.
type fields struct {
	length      int64 // noLength without Content-Length
	chunked     bool
	coded       bool // a Transfer-Encoding was seen
	host        []byte
	hostSeen    bool
	upgrade     []byte
	upgrades    int
	expect      bool
	close       bool // Connection: close
	keepUpgrade bool // Connection: upgrade
	trailers    bool // TE: trailers
	connections [4][]byte
	nConnection int
}

// parseFields reads the field lines after the first line (RFC 9112 §5).
func parseFields(h *message.Head, block []byte, fieldsMax int, f *fields, request bool) *ParseError {
	f.length = noLength
	n := 0
	for {
		var line []byte
		line, block = cutLine(block)
		if len(line) == 0 {
			return nil
		}
		if n++; n > fieldsMax {
			return refuse(431, "too many fields")
		}
		name, value, perr := parseField(line)
		if perr != nil {
			return perr
		}
		if keep, perr := f.note(name, value, request); perr != nil {
			return perr
		} else if keep {
			h.Fields = append(h.Fields, message.Field{Name: name, Value: value})
		}
	}
}

// cutLine splits b after its first CRLF, which is there.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	return b[: i-1 : i-1], b[i+1:]
}

// parseField reads field-name ":" OWS field-value OWS (RFC 9112 §5), the name
// becoming lower case. No white space may stand before the colon (§5.1), and a line
// that begins with it is a fold (§5.2) or a trick (§2.2): neither is a token.
func parseField(line []byte) (name, value []byte, perr *ParseError) {
	i := 0
	for ; i < len(line); i++ {
		l := tokenLower[line[i]]
		if l == 0 {
			break
		}
		line[i] = l
	}
	switch {
	case i == len(line):
		return nil, nil, malformed("field line without colon")
	case i == 0 && line[0] != ':':
		return nil, nil, malformed("folded or invalid field line")
	case i == 0 || line[i] != ':':
		return nil, nil, malformed("invalid field name")
	}
	value = trim(line[i+1:])
	if !validValue(value) {
		return nil, nil, malformed("control character in a field value")
	}
	return line[:i:i], value, nil
}

// note takes up a field that belongs to this connection alone; keep says that it does not.
func (f *fields) note(name, value []byte, request bool) (keep bool, perr *ParseError) {
	switch string(name) {
	case "host":
		if !request {
			return true, nil
		}
		if f.hostSeen {
			return false, malformed("more than one Host")
		}
		f.host, f.hostSeen = value[:len(value):len(value)], true
	case "content-length":
		// RFC 9110 §8.6 allows equal repetitions to be merged; we refuse them.
		if f.length != noLength {
			return false, malformed("more than one Content-Length")
		}
		if f.length = parseLength(value); f.length < 0 {
			return false, malformed("invalid Content-Length")
		}
	case "transfer-encoding":
		if f.coded {
			return false, malformed("more than one Transfer-Encoding")
		}
		f.coded, f.chunked = true, true
		return false, parseCoding(value)
	case "content_length", "transfer_encoding":
		// CGI and its heirs read these as their cousins with a hyphen.
		return false, malformed("framing field spelt with an underscore")
	case "connection":
		if f.nConnection == len(f.connections) {
			return false, malformed("too many Connection fields")
		}
		f.connections[f.nConnection] = value
		f.nConnection++
		return false, f.noteConnection(value)
	case "upgrade":
		f.upgrade = value
		f.upgrades++
	case "expect":
		if !request {
			return true, nil
		}
		if !equalFold(value, "100-continue") { // RFC 9110 §10.1.1
			return false, refuse(417, "unknown expectation")
		}
		f.expect = true
	case "te":
		f.trailers = f.trailers || request && wantsTrailers(value)
	case "keep-alive", "proxy-connection", "http2-settings":
		// RFC 9110 §7.6.1: to be removed whether nominated or not.
	default:
		return true, nil
	}
	return false, nil
}

// wantsTrailers reports whether a TE field has the member trailers (RFC 9110 §10.1.4).
func wantsTrailers(value []byte) bool {
	for more := true; more; {
		var e []byte
		if e, value, more = nextElement(value); equalFold(e, "trailers") {
			return true
		}
	}
	return false
}

// parseLength reads 1*DIGIT (RFC 9110 §8.6), at most 18 of them, or returns -1.
func parseLength(b []byte) int64 {
	if len(b) == 0 || len(b) > 18 {
		return -1
	}
	n := int64(0)
	for _, c := range b {
		if !isDigit(c) {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// parseCoding accepts `chunked` alone. Well-formed others are 501 (RFC 9112 §6.1);
// chunked twice or not last is 400 (§6.3 rule 4).
func parseCoding(value []byte) *ParseError {
	if equalFold(value, "chunked") {
		return nil
	}
	for more := true; more; {
		var e []byte
		e, value, more = nextElement(value)
		if !isToken(e) || more && equalFold(e, "chunked") {
			return malformed("invalid Transfer-Encoding")
		}
	}
	return refuse(501, "unknown transfer coding")
}

// noteConnection reads the options of one Connection field (RFC 9110 §7.6.1).
func (f *fields) noteConnection(value []byte) *ParseError {
	for more := len(value) > 0; more; {
		var e []byte
		e, value, more = nextElement(value)
		if len(e) == 0 { // RFC 9110 §5.6.1.2: empty elements are ignored
			continue
		}
		if !isToken(e) {
			return malformed("invalid Connection option")
		}
		switch string(lower(e)) {
		case "close":
			f.close = true
		case "upgrade":
			f.keepUpgrade = true
		}
	}
	return nil
}

// dropNominated removes the fields that Connection names. RFC 9110 §7.6.1 forbids to
// name fields meant for all recipients; naming one that routes, authenticates or
// frames is an attempt to have the proxy strip it, and is refused.
func dropNominated(h *message.Head, f *fields) *ParseError {
	for _, value := range f.connections[:f.nConnection] {
		for more := len(value) > 0; more; {
			var e []byte
			e, value, more = nextElement(value)
			switch string(e) {
			case "", "close", "keep-alive", "upgrade", "te", "http2-settings", "proxy-connection":
				continue // noted or gone already
			}
			if endToEnd(e) {
				return malformed("Connection nominates an end-to-end field")
			}
			kept := h.Fields[:0]
			for _, field := range h.Fields {
				if !bytes.Equal(field.Name, e) {
					kept = append(kept, field)
				}
			}
			clear(h.Fields[len(kept):])
			h.Fields = kept
		}
	}
	return nil
}

// endToEnd reports whether a field may never be removed by nomination.
func endToEnd(name []byte) bool {
	if bytes.HasPrefix(name, []byte("isthmus-")) || bytes.HasPrefix(name, []byte("x-forwarded-")) ||
		bytes.HasPrefix(name, []byte("content-")) {
		return true
	}
	switch string(name) {
	case "host", "transfer-encoding", "connection", "expect", "authorization", "cookie", "set-cookie",
		"cache-control", "date", "location", "origin", "range", "forwarded", "via", "x-real-ip",
		"x-request-id", "traceparent", "tracestate", "www-authenticate":
		return true
	}
	return false
}

func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// forbiddenTrailer reports whether a field may not come after the body (RFC 9110 §6.5.1):
// it would have had to be known for framing, routing or authentication.
func forbiddenTrailer(name []byte) bool {
	switch string(name) {
	case "transfer-encoding", "content-length", "host", "connection", "upgrade", "te", "trailer",
		"keep-alive", "proxy-connection", "expect", "content-encoding", "content-type",
		"content-range", "authorization", "cookie", "set-cookie", "cache-control",
		"content_length", "transfer_encoding":
		return true
	}
	return false
}

// parseTrailers reads a trailer section (RFC 9112 §7.1.2) into h.Fields.
func parseTrailers(h *message.Head, block []byte, fieldsMax int) *ParseError {
	for n := 1; ; n++ {
		var line []byte
		line, block = cutLine(block)
		if len(line) == 0 {
			return nil
		}
		if n > fieldsMax {
			return refuse(431, "too many trailer fields")
		}
		name, value, perr := parseField(line)
		if perr != nil {
			return perr
		}
		if forbiddenTrailer(name) {
			return malformed("field that may not be a trailer")
		}
		h.Fields = append(h.Fields, message.Field{Name: name, Value: value})
	}
}

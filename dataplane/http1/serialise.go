package http1

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// appendRequest writes the head of a request in canonical form (RFC 9112 §3, §5): always
// HTTP/1.1, Host first, one framing field at most, names in lower case. It says how
// the body has to follow. Fields that the engine owns are not copied from h.Fields.
func appendRequest(b []byte, h *message.Head, end bool) ([]byte, framing, error) {
	target := h.Path
	if h.IsConnect() {
		target = h.Authority
	}
	if !isToken(h.Method) || len(target) == 0 || !validTarget(target) {
		return b, 0, fmt.Errorf("%w: method or target", ErrHead)
	}
	if !validHostValue(h.Authority) {
		return b, 0, fmt.Errorf("%w: authority", ErrHead)
	}
	fr, length := bodyFraming(h, end)
	if end && h.Length > 0 {
		return b, 0, fmt.Errorf("%w: the body was announced and does not come", ErrHead)
	}
	b = append(b, h.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nhost: "...)
	b = append(b, h.Authority...) // RFC 9112 §3.2: empty if the target has none
	b = append(b, "\r\n"...)
	b, err := appendFields(b, h.Fields, false)
	if err != nil {
		return b, 0, err
	}
	switch {
	case h.IsConnect(): // RFC 9110 §9.3.6: no content
		fr = framingNone
	case fr == framingChunked:
		b = append(b, "transfer-encoding: chunked\r\n"...)
	case length > 0 || expectsBody(h.Method): // RFC 9110 §8.6
		b = appendLength(b, length)
	}
	if h.Expect100 && fr != framingNone {
		b = append(b, "expect: 100-continue\r\n"...)
	}
	if len(h.Upgrade) == 0 && string(h.Get("te")) == "trailers" { // RFC 9110 §10.1.4
		b = append(b, "connection: te\r\nte: trailers\r\n"...)
	}
	if b, err = appendUpgrade(b, h.Upgrade, false); err != nil {
		return b, 0, err
	}
	return append(b, "\r\n"...), fr, nil
}

// validHostValue is a guard against what a rewrite may have put in.
func validHostValue(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '@' || c == '/' {
			return false
		}
	}
	return true
}

// bodyFraming tells how the body of a message that may have one is delimited.
func bodyFraming(h *message.Head, end bool) (framing, int64) {
	switch {
	case end || h.Length == 0:
		return framingNone, 0
	case h.Length < 0:
		return framingChunked, 0
	}
	return framingLength, h.Length
}

// expectsBody reports whether the method gives content a meaning, so that its absence
// must be said (RFC 9110 §8.6).
func expectsBody(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

// answered is what the writing of a response must know of its request and connection.
type answered struct {
	head, connect bool
	upgrade       []byte // the protocol asked for
	old           bool   // HTTP/1.0
	close         bool   // say `Connection: close`
}

// appendResponse writes the head of a response in canonical form (RFC 9112 §4).
func appendResponse(b []byte, h *message.Head, end bool, a answered) ([]byte, framing, error) {
	if h.Status < 100 || h.Status > 599 {
		return b, 0, fmt.Errorf("%w: status %d", ErrHead, h.Status)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(h.Status), 10)
	b = append(b, ' ')
	b = append(b, reasonPhrase(h.Status)...)
	b = append(b, "\r\n"...)
	b, err := appendFields(b, h.Fields, false)
	if err != nil {
		return b, 0, err
	}
	fr := framingNone
	switch {
	case h.Status == 101: // RFC 9110 §15.2.2
		if len(h.Upgrade) == 0 || !bytes.Equal(a.upgrade, h.Upgrade) {
			return b, 0, fmt.Errorf("%w: 101 that was not asked for", ErrHead)
		}
		fr = framingTunnel
	case h.Status < 200 || h.Status == 204: // RFC 9110 §8.6: no Content-Length
	case a.connect && h.Status < 300: // RFC 9110 §9.3.6: no framing field either
		return append(b, "\r\n"...), framingTunnel, nil
	case a.head || h.Status == 304: // RFC 9110 §8.6: what the length would have been
		if h.Length >= 0 && (h.Status != 304 || h.Length > 0) {
			b = appendLength(b, h.Length)
		}
	default:
		if b, fr, err = appendResponseFraming(b, h, end, a.old); err != nil {
			return b, 0, err
		}
	}
	if h.Status == 101 || h.Status == 426 {
		if b, err = appendUpgrade(b, h.Upgrade, a.close && h.Status != 101); err != nil {
			return b, 0, err
		}
	}
	if (a.close || fr == framingClose) && h.Status >= 200 && !(h.Status == 426 && len(h.Upgrade) > 0) {
		b = append(b, "connection: close\r\n"...)
	}
	return append(b, "\r\n"...), fr, nil
}

func appendResponseFraming(b []byte, h *message.Head, end, old bool) ([]byte, framing, error) {
	if end && h.Length > 0 {
		return b, 0, fmt.Errorf("%w: the body was announced and does not come", ErrHead)
	}
	fr, length := bodyFraming(h, end)
	switch {
	case fr != framingChunked:
		return appendLength(b, length), fr, nil
	case old: // RFC 9112 §6.1: never chunked to a 1.0 client
		return b, framingClose, nil
	}
	return append(b, "transfer-encoding: chunked\r\n"...), fr, nil
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "content-length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, "\r\n"...)
}

// appendUpgrade writes the two fields of RFC 9110 §7.8.
func appendUpgrade(b, protocol []byte, closes bool) ([]byte, error) {
	if len(protocol) == 0 {
		return b, nil
	}
	if !validProtocol(protocol) {
		return b, fmt.Errorf("%w: upgrade protocol", ErrHead)
	}
	if closes {
		b = append(b, "connection: close, upgrade\r\nupgrade: "...)
	} else {
		b = append(b, "connection: upgrade\r\nupgrade: "...)
	}
	b = append(b, protocol...)
	return append(b, "\r\n"...), nil
}

// appendFields writes field lines. Names and values were valid when a parser filled the
// Head; they are looked at again because a rewrite may have changed them since, and a
// line end in one would be a second message.
func appendFields(b []byte, fields []message.Field, trailer bool) ([]byte, error) {
	for i := range fields {
		f := &fields[i]
		if ownField(f.Name) || trailer && forbiddenTrailer(f.Name) {
			continue
		}
		if !isToken(f.Name) || !validValue(f.Value) {
			return b, fmt.Errorf("%w: invalid character in a field", ErrHead)
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return b, nil
}

// ownField reports whether only the engine may write the field.
func ownField(name []byte) bool {
	switch string(name) {
	case "host", "content-length", "transfer-encoding", "connection", "upgrade", "keep-alive",
		"proxy-connection", "te", "expect", "http2-settings":
		return true
	}
	return false
}

func appendHex(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 16) }

// reasonPhrase gives the phrase of RFC 9110 §15; clients ignore it, people like it.
func reasonPhrase(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 204:
		return "No Content"
	case 206:
		return "Partial Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 412:
		return "Precondition Failed"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 417:
		return "Expectation Failed"
	case 421:
		return "Misdirected Request"
	case 422:
		return "Unprocessable Content"
	case 426:
		return "Upgrade Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	}
	return ""
}

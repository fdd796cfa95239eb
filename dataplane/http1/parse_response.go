//house:exempt a parser: one grammar, in three files

package http1

import (
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// asked is what the request was, as far as it changes the reading of its response.
type asked struct {
	head, connect bool
	upgrade       string // the protocol asked for
}

// framing says how a body is delimited.
type framing uint8

// parseResponse reads a whole response head. HEAD and 304 leave in h.Length what the body
// would have been. A fault is a ParseError with status 502.
func parseResponse(h *message.Head, block []byte, fieldsMax int, a asked) (fr framing, closes bool, perr *ParseError) {
	fr, closes, perr = parseResponseHead(h, block, fieldsMax, a)
	if perr != nil {
		perr = &ParseError{Status: 502, Reason: mesh.ReasonProtocol, Detail: perr.Detail}
	}
	return fr, closes, perr
}

func parseResponseHead(h *message.Head, block []byte, fieldsMax int, a asked) (fr framing, closes bool, perr *ParseError) {
	line, rest := cutLine(block)
	if perr := parseStatusLine(h, line); perr != nil {
		return 0, false, perr
	}
	var f fields
	if perr := parseFields(h, rest, fieldsMax, &f, false); perr != nil {
		return 0, false, perr
	}
	if perr := checkFraming(h, &f); perr != nil {
		return 0, false, perr
	}
	if fr, perr = responseFraming(h, &f, a); perr != nil {
		return 0, false, perr
	}
	if perr := dropNominated(h, &f); perr != nil {
		return 0, false, perr
	}
	return fr, f.close || h.Minor == 0 || fr == framingClose || fr == framingTunnel, nil
}

// parseStatusLine reads HTTP-version SP status-code SP [reason-phrase] (RFC 9112 §4). The
// second SP may be missing, as in the wild; the phrase is checked and dropped.
func parseStatusLine(h *message.Head, line []byte) (perr *ParseError) {
	if len(line) < 12 || line[8] != ' ' {
		return malformed("invalid status line")
	}
	if h.Minor, perr = parseVersion(line[:8]); perr != nil {
		return perr
	}
	code := line[9:12]
	if !isDigit(code[0]) || !isDigit(code[1]) || !isDigit(code[2]) ||
		len(line) > 12 && line[12] != ' ' || !validValue(line[12:]) {
		return malformed("invalid status line")
	}
	h.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	if h.Status < 100 || h.Status > 599 { // RFC 9110 §15
		return malformed("status outside 100 to 599")
	}
	return nil
}

// responseFraming decides the body's length (RFC 9112 §6.3).
func responseFraming(h *message.Head, f *fields, a asked) (framing, *ParseError) {
	h.Length = message.LengthUnknown
	if f.length != noLength {
		h.Length = f.length
	}
	bodiless := h.Status < 200 || h.Status == 204
	// RFC 9110 §8.6 and RFC 9112 §6.1: neither field may stand here. A zero is harmless
	// and common; anything else makes some recipients wait for a body.
	if bodiless && (f.coded || f.length > 0) {
		return 0, malformed("1xx or 204 that announces a body")
	}
	switch {
	case h.Status == 101: // RFC 9110 §15.2.2
		if a.upgrade == "" || f.upgrades != 1 || !f.keepUpgrade || !equalFold(f.upgrade, a.upgrade) {
			return 0, malformed("101 that was not asked for")
		}
		h.Length, h.Upgrade = 0, lower(f.upgrade)
		return framingTunnel, nil
	case bodiless: // rule 1
		h.Length = 0
		return framingNone, nil
	case a.connect && h.Status < 300: // rule 2: framing fields are ignored
		h.Length = message.LengthUnknown
		return framingTunnel, nil
	case a.head || h.Status == 304: // rule 1
		return framingNone, nil
	}
	if h.Status == 426 && f.upgrades == 1 && validProtocol(f.upgrade) { // RFC 9110 §15.5.22
		h.Upgrade = lower(f.upgrade)
	}
	switch {
	case f.chunked: // rule 4
		return framingChunked, nil
	case f.length > 0: // rule 6
		return framingLength, nil
	case f.length == 0:
		return framingNone, nil
	}
	return framingClose, nil // rule 8
}

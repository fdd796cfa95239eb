//house:exempt a parser: one grammar, in three files

package http1

import (
	"bytes"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// A headScan finds the end of a head in bytes that arrive piece by piece, looking at
// each byte once.
type headScan struct {
	pos  int // bytes looked at
	line int // start of the current line
}

// scan returns the length of the head in b including its empty line, or 0 if that has
// not arrived. A line that does not end in CRLF is refused as soon as it is seen:
// RFC 9112 §2.2 lets a recipient accept a bare LF, and smuggling lives on that.
func (s *headScan) scan(b []byte) (int, *ParseError) {
	for {
		i := bytes.IndexByte(b[s.pos:], '\n')
		if i < 0 {
			s.pos = len(b)
			return 0, nil
		}
		i += s.pos
		if i == 0 || b[i-1] != '\r' {
			return 0, malformed("line ends in a bare LF")
		}
		empty := i-1 == s.line
		s.pos, s.line = i+1, i+1
		if empty {
			return i + 1, nil
		}
	}
}

const noLength = -2

// parseRequest reads a whole head, from request-line to empty line, that scan has
// delimited. It changes block in place and keeps slices of it in h. closes says that
// the connection ends after this request.
func parseRequest(h *message.Head, block []byte, fieldsMax int) (closes bool, perr *ParseError) {
	line, rest := cutLine(block)
	target, perr := parseRequestLine(h, line)
	if perr != nil {
		return false, perr
	}
	var f fields
	if perr := parseFields(h, rest, fieldsMax, &f, true); perr != nil {
		return false, perr
	}
	// RFC 9112 §3.2: 400 to a 1.1 request without Host, to any with more than one or an
	// invalid one; the second is found in parseFields.
	if !f.hostSeen && h.Minor > 0 {
		return false, malformed("no Host")
	}
	if f.hostSeen && !validAuthority(f.host, false) {
		return false, malformed("invalid Host")
	}
	if perr := parseTarget(h, target, f.host); perr != nil {
		return false, perr
	}
	if perr := requestFraming(h, &f); perr != nil {
		return false, perr
	}
	// RFC 9110 §7.8: only a 1.1 request that also says `Connection: upgrade`. One that
	// has a body or names several protocols is answered as if it had not asked, which
	// §7.8 allows; so is h2c, which RFC 9113 §3.1 retired and attackers love.
	if f.upgrades == 1 && f.keepUpgrade && h.Minor > 0 && h.Length == 0 && !h.IsConnect() &&
		validProtocol(f.upgrade) && string(lower(f.upgrade)) != "h2c" {
		h.Upgrade = f.upgrade
	}
	// RFC 9110 §10.1.1: ignored in a 1.0 request, and moot without a body.
	h.Expect100 = f.expect && h.Minor > 0 && h.Length != 0
	if perr := dropNominated(h, &f); perr != nil {
		return false, perr
	}
	if f.trailers { // we pass trailers on, so we may say that they are welcome
		h.Add("te", "trailers")
	}
	// RFC 9112 §9.3: a proxy does not keep a connection with a 1.0 client.
	return f.close || h.Minor == 0, nil
}

// parseRequestLine reads method SP request-target SP HTTP-version (RFC 9112 §3).
// Method is case-sensitive and any token.
func parseRequestLine(h *message.Head, line []byte) (target []byte, perr *ParseError) {
	i := bytes.IndexByte(line, ' ')
	if i < 0 || !isToken(line[:i]) {
		return nil, malformed("invalid method")
	}
	h.Method, line = line[:i:i], line[i+1:]
	i = bytes.IndexByte(line, ' ')
	if i <= 0 {
		return nil, malformed("invalid request line")
	}
	target = line[:i:i]
	if !validTarget(target) {
		return nil, malformed("invalid character in the request target")
	}
	h.Minor, perr = parseVersion(line[i+1:])
	return target, perr
}

// parseVersion reads HTTP-version (RFC 9112 §2.3): 1.0 or 1.1, else 505.
func parseVersion(v []byte) (minor uint8, perr *ParseError) {
	switch string(v) {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	if len(v) < 5 || string(v[:5]) != "HTTP/" {
		return 0, errNotHTTP
	}
	if len(v) == 8 && string(v[:5]) == "HTTP/" && isDigit(v[5]) && v[6] == '.' && isDigit(v[7]) {
		return 0, refuse(505, "HTTP version is neither 1.0 nor 1.1")
	}
	return 0, malformed("invalid HTTP version")
}

// errNotHTTP is a first line that names no version of HTTP.
var errNotHTTP = malformed("invalid HTTP version")

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseTarget reads the four forms of RFC 9112 §3.2. host is the Host field's value.
func parseTarget(h *message.Head, target, host []byte) *ParseError {
	switch {
	case h.IsConnect(): // authority-form, §3.2.3, with a port: RFC 9110 §9.3.6
		if !validAuthority(target, true) {
			return malformed("CONNECT without host:port")
		}
		h.Authority = target
	case target[0] == '/': // origin-form, §3.2.1
		h.Authority, h.Path = host, target
	case string(target) == "*": // asterisk-form, §3.2.4
		if string(h.Method) != "OPTIONS" {
			return malformed("target * without OPTIONS")
		}
		h.Authority, h.Path = host, target
	default:
		return parseAbsolute(h, target)
	}
	return nil
}

// parseAbsolute reads absolute-form (RFC 9112 §3.2.2): its authority replaces Host.
func parseAbsolute(h *message.Head, target []byte) *ParseError {
	i := bytes.IndexByte(target, ':')
	if i < 0 || len(target) < i+3 || target[i+1] != '/' || target[i+2] != '/' {
		return malformed("invalid request target")
	}
	h.Scheme = lower(target[:i:i])
	if s := string(h.Scheme); s != "http" && s != "https" {
		return malformed("scheme is neither http nor https")
	}
	rest := target[i+3:]
	end := len(rest)
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	// RFC 9110 §4.2.1: an http URI with an empty host is invalid; §4.2.4 warns of userinfo.
	h.Authority = rest[:end:end]
	if len(h.Authority) == 0 || !validAuthority(h.Authority, false) {
		return malformed("invalid authority in the request target")
	}
	path := rest[end:]
	switch {
	case len(path) > 0 && path[0] == '/':
		h.Path = path
	case len(path) > 0: // only a query: RFC 9112 §3.2.1, an empty path is sent as "/"
		h.Path = h.Keep(append([]byte{'/'}, path...))
	case string(h.Method) == "OPTIONS": // RFC 9112 §3.2.4: the last proxy sends "*"
		h.Path = h.KeepString("*")
	default:
		h.Path = h.KeepString("/")
	}
	return nil
}

// validAuthority reports whether b is uri-host [ ":" port ] (RFC 9110 §7.2) as hostLower
// narrows it, and turns it into lower case (§4.2.3: hosts are compared without case).
// The empty authority is valid where no port is required: RFC 9112 §3.2.
func validAuthority(b []byte, port bool) bool {
	if len(b) == 0 {
		return !port
	}
	i := 0
	if b[0] == '[' { // IP-literal, RFC 3986 §3.2.2, IPv6 without zone
		end := bytes.IndexByte(b, ']')
		if end < 3 || !validIPv6(b[1:end]) {
			return false
		}
		i = end + 1
	} else {
		for i < len(b) && b[i] != ':' {
			l := hostLower[b[i]]
			if l == 0 {
				return false
			}
			b[i] = l
			i++
		}
		if i == 0 {
			return false
		}
	}
	if i == len(b) {
		return !port
	}
	return b[i] == ':' && validPort(b[i+1:])
}

// validIPv6 checks characters, not structure: whoever dials parses it.
func validIPv6(b []byte) bool {
	colons := 0
	for i, c := range b {
		switch {
		case c == ':':
			colons++
		case c == '.' || hexValue[c] != 0xff:
			b[i] = tokenLower[c]
		default:
			return false
		}
	}
	return colons >= 2
}

func validPort(b []byte) bool {
	n := 0
	for _, c := range b {
		if !isDigit(c) || len(b) > 5 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return len(b) > 0 && n <= 65535
}

// validProtocol reports whether b is protocol-name ["/" version] (RFC 9110 §7.8).
func validProtocol(b []byte) bool {
	name, version, more := bytes.Cut(b, []byte{'/'})
	return isToken(name) && (!more || isToken(version))
}

// requestFraming decides the body's length (RFC 9112 §6.3).
func requestFraming(h *message.Head, f *fields) *ParseError {
	if perr := checkFraming(h, f); perr != nil {
		return perr
	}
	switch {
	case f.chunked:
		h.Length = message.LengthUnknown
	case f.length == noLength:
		h.Length = 0 // a request without either has no body, §6.3 rule 7
	default:
		h.Length = f.length
	}
	if h.Length != 0 {
		switch string(h.Method) {
		case "CONNECT": // RFC 9110 §9.3.6
			return malformed("CONNECT with a body")
		case "TRACE": // RFC 9110 §9.3.8
			return malformed("TRACE with a body")
		}
	}
	return nil
}

// checkFraming refuses what RFC 9112 §6.1 and §6.3 rule 3 call an attempt at
// smuggling, in requests and in responses.
func checkFraming(h *message.Head, f *fields) *ParseError {
	if f.coded && f.length != noLength {
		return malformed("both Content-Length and Transfer-Encoding")
	}
	if f.coded && h.Minor == 0 {
		return malformed("Transfer-Encoding in HTTP/1.0")
	}
	return nil
}

const (
	framingNone    framing = iota
	framingLength          // Content-Length
	framingChunked         // Transfer-Encoding: chunked
	framingClose           // until the connection closes
	framingTunnel          // after CONNECT or an upgrade: bytes, not a body
)

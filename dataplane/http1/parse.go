//house:exempt a parser: one grammar, read top to bottom

package http1

import (
	"bytes"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
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

// asked is what the request was, as far as it changes the reading of its response.
type asked struct {
	head, connect bool
	upgrade       string // the protocol asked for
}

// framing says how a body is delimited.
type framing uint8

const (
	framingNone    framing = iota
	framingLength          // Content-Length
	framingChunked         // Transfer-Encoding: chunked
	framingClose           // until the connection closes
	framingTunnel          // after CONNECT or an upgrade: bytes, not a body
)

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

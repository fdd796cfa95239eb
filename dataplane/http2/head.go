//house:exempt a parser
package http2

import (
	"errors"
	"strconv"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// errHeadTooLarge stops the decoder: going on would do the sender's work for it.
var errHeadTooLarge = errors.New("field section above the limit")

// sectionKind says which rules a field section is under (RFC 9113 §8.1).
type sectionKind uint8

const (
	requestHead sectionKind = iota
	responseHead
	trailerSection
)

// Pseudo-header fields seen (RFC 9113 §8.3).
const (
	sawMethod = 1 << iota
	sawScheme
	sawAuthority
	sawPath
	sawProtocol
	sawStatus
)

// headParser builds a message.Head from decoded fields and judges it (RFC 9113 §8.2, §8.3). It
// goes on after the first fault so that the HPACK state stays in step.
type headParser struct {
	h       *message.Head
	kind    sectionKind
	limit   int // of size
	connect bool

	size    int // RFC 9113 §6.5.2
	fault   string
	saw     uint8
	regular bool // a field that is no pseudo-header field was seen
	host    []byte
	length  bool
	cookie  int    // place of the first cookie field, or -1
	crumbs  []byte // joined, if there are more than one
}

func (p *headParser) reset(h *message.Head, kind sectionKind) {
	h.Reset()
	h.Length, h.HTTP2 = message.LengthUnknown, true
	*p = headParser{h: h, kind: kind, limit: p.limit, connect: p.connect, cookie: -1, crumbs: p.crumbs[:0]}
}

func (p *headParser) bad(fault string) {
	if p.fault == "" {
		p.fault = fault
	}
}

// field implements fieldSink.
func (p *headParser) field(name, value []byte, known bool) (valid bool, err error) {
	p.size += len(name) + len(value) + entryOverhead
	if p.size > p.limit {
		return false, errHeadTooLarge
	}
	pseudo := len(name) > 0 && name[0] == ':'
	switch {
	case known:
	case !validValue(value):
		p.bad("invalid field value")
		return false, nil
	case !pseudo && !validName(name):
		p.bad("invalid field name")
		return false, nil
	}
	switch {
	case p.fault != "":
	case pseudo:
		p.pseudo(name, value)
	default:
		p.regular = true
		p.plain(name, value)
	}
	return true, nil
}

// plain takes a field that is no pseudo-header field.
func (p *headParser) plain(name, value []byte) {
	switch string(name) {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade": // RFC 9113 §8.2.2
		p.bad("connection-specific field")
	case "te":
		if string(value) != "trailers" {
			p.bad("te other than trailers")
			return
		}
		p.add(name, value)
	case "content-length":
		p.contentLength(value)
	case "host":
		p.hostField(value)
	case "expect":
		if p.kind == requestHead && equalFold(value, "100-continue") {
			p.h.Expect100 = true
			return
		}
		p.add(name, value)
	case "cookie":
		p.cookieCrumb(name, value)
	default:
		p.add(name, value)
	}
}

func (p *headParser) add(name, value []byte) {
	p.h.Fields = append(p.h.Fields, message.Field{Name: p.h.Keep(name), Value: p.h.Keep(value)})
}

func (p *headParser) pseudo(name, value []byte) {
	if p.regular {
		p.bad("pseudo-header field after a field")
		return
	}
	var bit uint8
	h := p.h
	switch string(name) {
	case ":method":
		bit, h.Method = sawMethod, h.Keep(value)
	case ":scheme":
		bit, h.Scheme = sawScheme, h.Keep(value)
	case ":authority":
		bit, h.Authority = sawAuthority, h.Keep(value)
	case ":path":
		bit, h.Path = sawPath, h.Keep(value)
	case ":protocol":
		if !p.connect {
			p.bad(":protocol without SETTINGS_ENABLE_CONNECT_PROTOCOL")
			return
		}
		bit, h.Upgrade = sawProtocol, lower(h.Keep(value))
	case ":status":
		bit, h.Status = sawStatus, status(value)
	default:
		p.bad("unknown pseudo-header field")
		return
	}
	allowed := uint8(sawMethod | sawScheme | sawAuthority | sawPath | sawProtocol)
	switch p.kind {
	case responseHead:
		allowed = sawStatus
	case trailerSection:
		allowed = 0
	}
	switch {
	case bit&allowed == 0:
		p.bad("pseudo-header field out of place")
	case p.saw&bit != 0:
		p.bad("pseudo-header field twice")
	}
	p.saw |= bit
}

// contentLength takes digits, once: what RFC 9110 §8.6 lets a recipient repair is
// refused, since another hop may repair it otherwise.
func (p *headParser) contentLength(value []byte) {
	if p.kind == trailerSection || p.length || len(value) == 0 || len(value) > 18 {
		p.bad("invalid content-length")
		return
	}
	var n int64
	for _, c := range value {
		if c < '0' || c > '9' {
			p.bad("invalid content-length")
			return
		}
		n = n*10 + int64(c-'0')
	}
	p.length, p.h.Length = true, n
}

// hostField holds host back: it must not differ from :authority (RFC 9113 §8.3.1).
func (p *headParser) hostField(value []byte) {
	switch {
	case p.kind == trailerSection:
		p.bad("host in trailers")
	case p.kind == responseHead:
		p.add([]byte("host"), value)
	case p.host != nil:
		p.bad("host twice")
	default:
		p.host = p.h.Keep(value)
		if p.host == nil {
			p.host = []byte{}
		}
	}
}

// cookieCrumb joins crumbs into one field (RFC 9113 §8.2.3).
func (p *headParser) cookieCrumb(name, value []byte) {
	if p.cookie < 0 {
		p.cookie = len(p.h.Fields)
		p.add(name, value)
		return
	}
	if len(p.crumbs) == 0 {
		p.crumbs = append(p.crumbs, p.h.Fields[p.cookie].Value...)
	}
	p.crumbs = append(append(p.crumbs, "; "...), value...)
}

// finish judges the whole section; end says that the stream ends with it. It
// returns the first fault, or "".
func (p *headParser) finish(end bool) string {
	if len(p.crumbs) > 0 {
		p.h.Fields[p.cookie].Value = p.h.Keep(p.crumbs)
	}
	switch p.kind {
	case requestHead:
		p.finishRequest()
	case responseHead:
		if p.saw&sawStatus == 0 || p.h.Status == 0 || p.h.Status == 101 { // RFC 9113 §8.6
			p.bad("missing or invalid :status")
		}
		if p.h.Status < 200 && end {
			p.bad("informational response that ends the stream") // RFC 9113 §8.1
		}
	}
	return p.fault
}

func (p *headParser) finishRequest() {
	h := p.h
	if p.saw&sawMethod == 0 || !validToken(h.Method) {
		p.bad("missing or invalid :method")
	}
	if p.host != nil {
		if p.saw&sawAuthority == 0 {
			h.Authority = p.host
		} else if !equalFold(p.host, string(h.Authority)) {
			p.bad("host differs from :authority")
		}
	}
	if !validAuthority(h.Authority) {
		p.bad("missing or invalid :authority")
	}
	connect := h.IsConnect()
	switch {
	case p.saw&sawProtocol != 0 && (!connect || !validToken(h.Upgrade)): // RFC 8441 §4
		p.bad("invalid :protocol")
	case connect && p.saw&sawProtocol == 0: // RFC 9113 §8.5
		if p.saw&(sawScheme|sawPath) != 0 {
			p.bad("CONNECT with :scheme or :path")
		}
		return
	}
	if p.saw&sawScheme == 0 || !validScheme(h.Scheme) {
		p.bad("missing or invalid :scheme")
	}
	if p.saw&sawPath == 0 || !validPath(h.Path, h.Method) {
		p.bad("missing or invalid :path")
	}
}

// status parses three digits from 100 to 599; 0 is none.
func status(b []byte) int {
	if len(b) != 3 || b[0] < '1' || b[0] > '5' || b[1]-'0' > 9 || b[2]-'0' > 9 {
		return 0
	}
	return int(b[0]-'0')*100 + int(b[1]-'0')*10 + int(b[2]-'0')
}

// Character classes.
const (
	classToken     = 1 << iota // RFC 9110 §5.6.2
	classLower                 // a token's character that may stand in a field name: no capital
	classAuthority             // RFC 3986 §3.2.2, §3.2.3: no user information
)

var class = func() (t [256]uint8) {
	for c := range 128 {
		ch := byte(c)
		alnum := ch >= '0' && ch <= '9' || ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z'
		if alnum || has("!#$%&'*+-.^_`|~", ch) {
			t[c] |= classToken
			if ch < 'A' || ch > 'Z' {
				t[c] |= classLower
			}
		}
		if alnum || has("-._~%!$&'()*+,;=:[]", ch) {
			t[c] |= classAuthority
		}
	}
	return t
}()

func has(s string, c byte) bool {
	for i := range len(s) {
		if s[i] == c {
			return true
		}
	}
	return false
}

func all(b []byte, mask uint8) bool {
	for _, c := range b {
		if class[c]&mask == 0 {
			return false
		}
	}
	return len(b) > 0
}

func validName(b []byte) bool      { return all(b, classLower) }
func validToken(b []byte) bool     { return all(b, classToken) }
func validAuthority(b []byte) bool { return all(b, classAuthority) }

// validValue refuses control characters and outer white space (RFC 9113 §8.2.1).
func validValue(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if first, last := b[0], b[len(b)-1]; first == ' ' || first == '\t' || last == ' ' || last == '\t' {
		return false
	}
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func validScheme(b []byte) bool {
	for i, c := range b {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return len(b) > 0
}

// validPath takes origin form, and "*" for OPTIONS. A fragment is no part of a
// request; a hop that cut it off and one that did not would disagree.
func validPath(b, method []byte) bool {
	if len(b) == 1 && b[0] == '*' {
		return string(method) == "OPTIONS"
	}
	if len(b) == 0 || b[0] != '/' {
		return false
	}
	for _, c := range b {
		if c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if lowerByte(c) != lowerByte(s[i]) {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func lower(b []byte) []byte {
	for i, c := range b {
		b[i] = lowerByte(c)
	}
	return b
}

// appendRequest encodes the head of a request.
func (e *encoder) appendRequest(dst []byte, h *message.Head, end bool) []byte {
	dst = e.begin(dst)
	connect := h.IsConnect() || len(h.Upgrade) > 0
	switch method := string(h.Method); {
	case connect: // RFC 8441 §4: an upgrade is a CONNECT with :protocol, whatever it was in HTTP/1.1
		dst = e.named(dst, idxMethod, []byte("CONNECT"))
	case method == "GET":
		dst = append(dst, 0x80|idxMethod)
	case method == "POST":
		dst = append(dst, 0x80|(idxMethod+1))
	default:
		dst = e.named(dst, idxMethod, h.Method)
	}
	if len(h.Upgrade) > 0 {
		dst = e.field(dst, []byte(":protocol"), h.Upgrade)
	}
	if !connect || len(h.Upgrade) > 0 {
		switch string(h.Scheme) {
		case "http", "":
			dst = append(dst, 0x80|idxScheme)
		case "https":
			dst = append(dst, 0x80|(idxScheme+1))
		default:
			dst = e.named(dst, idxScheme, h.Scheme)
		}
		if len(h.Path) == 1 && h.Path[0] == '/' {
			dst = append(dst, 0x80|idxPath)
		} else {
			dst = e.named(dst, idxPath, h.Path)
		}
	}
	if len(h.Authority) > 0 {
		dst = e.field(dst, []byte(":authority"), h.Authority)
	}
	dst = e.appendFields(dst, h.Fields, len(h.Authority) > 0)
	if h.Expect100 && !end {
		dst = e.field(dst, []byte("expect"), []byte("100-continue"))
	}
	if !connect && (h.Length > 0 || h.Length == 0 && !end) {
		dst = e.appendLength(dst, h.Length)
	}
	return dst
}

// appendResponse encodes the head of a response; status is what is sent in place of h.Status.
func (e *encoder) appendResponse(dst []byte, h *message.Head, code int) []byte {
	dst = e.begin(dst)
	switch code {
	case 200:
		dst = append(dst, 0x80|idxStatus)
	case 204:
		dst = append(dst, 0x80|(idxStatus+1))
	case 206:
		dst = append(dst, 0x80|(idxStatus+2))
	case 304:
		dst = append(dst, 0x80|(idxStatus+3))
	case 400:
		dst = append(dst, 0x80|(idxStatus+4))
	case 404:
		dst = append(dst, 0x80|(idxStatus+5))
	case 500:
		dst = append(dst, 0x80|(idxStatus+6))
	default:
		digits := [3]byte{byte('0' + code/100%10), byte('0' + code/10%10), byte('0' + code%10)}
		dst = e.named(dst, idxStatus, digits[:])
	}
	dst = e.appendFields(dst, h.Fields, false)
	if h.Length >= 0 && code >= 200 && code != 204 {
		dst = e.appendLength(dst, h.Length)
	}
	return dst
}

// appendFields encodes fields without those that framing or :authority express.
func (e *encoder) appendFields(dst []byte, fields []message.Field, dropHost bool) []byte {
	for i := range fields {
		f := &fields[i]
		var ok bool
		if dst, ok = e.indexed(dst, f.Name, f.Value); ok {
			continue
		}
		switch string(f.Name) {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "content-length":
			continue
		case "host":
			if dropHost {
				continue
			}
		case "te":
			if string(f.Value) != "trailers" {
				continue
			}
		}
		dst = e.novel(dst, f.Name, f.Value)
	}
	return dst
}

func (e *encoder) appendLength(dst []byte, n int64) []byte {
	var digits [20]byte
	return e.named(dst, idxContentLength, strconv.AppendInt(digits[:0], n, 10))
}

func (e *encoder) appendTrailers(dst []byte, fields []message.Field) []byte {
	return e.appendFields(e.begin(dst), fields, false)
}

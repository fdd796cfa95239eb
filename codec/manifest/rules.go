package manifest

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// rules is what the tag is of one field says; nil says nothing.
type rules struct {
	enum                 []string
	bounded              bool
	low, high            int64
	minLen, maxLen       int // maxLen 0: no bound
	minItems, maxItems   int // maxItems 0: no bound
	unique               []string
	fold                 bool // unique whatever the case
	format               func(string) (problem, remedy string)
	formatName           string
	hasLength, hasAmount bool
}

func parseRules(tag string) (r *rules, required bool) {
	if tag == "" {
		return nil, false
	}
	r = &rules{}
	for word := range strings.FieldsSeq(tag) {
		key, arg, _ := strings.Cut(word, "=")
		switch {
		case word == "required":
			required = true
		case key == "enum":
			r.enum = strings.Split(arg, "|")
		case key == "len":
			low, high := parseRange(arg)
			r.minLen, r.maxLen, r.hasLength = int(low), int(high), true
		case key == "items":
			low, high := parseRange(arg)
			r.minItems, r.maxItems, r.hasAmount = int(low), int(high), true
		case key == "unique", key == "unlike":
			r.unique, r.fold = strings.Split(arg, ","), key == "unlike"
		case strings.Contains(word, ".."):
			r.low, r.high = parseRange(word)
			r.bounded = true
		default:
			f, ok := format(word)
			if !ok {
				panic("manifest: no format " + word)
			}
			r.format, r.formatName = f, word
		}
	}
	return r, required
}

// parseRange reads LOW..HIGH, both present.
func parseRange(s string) (low, high int64) {
	a, b, _ := strings.Cut(s, "..")
	low, err := strconv.ParseInt(a, 10, 64)
	high, err2 := strconv.ParseInt(b, 10, 64)
	if err != nil || err2 != nil {
		panic("manifest: bad range " + s)
	}
	return low, high
}

// hint says what a missing field should hold.
func (r *rules) hint() string {
	switch {
	case r == nil:
	case r.enum != nil:
		return "write " + enumerate(r.enum)
	case r.bounded:
		return fmt.Sprintf("write a number from %d to %d", r.low, r.high)
	}
	return "write it, it is required"
}

// text checks a text value.
func (r *rules) text(d *decoder, v *value, p *path) {
	if r == nil {
		return
	}
	shown := quote(v.text)
	if d.hide {
		shown = "the value"
	}
	switch {
	case r.enum != nil && !contains(r.enum, v.text):
		remedy := "write " + enumerate(r.enum)
		if near := nearest(v.text, r.enum); near != "" && len(r.enum) > 1 {
			remedy += ", likely " + near
		}
		d.fault(v.place, p, shown+" is not known", remedy)
	case r.hasLength && (len(v.text) < r.minLen || len(v.text) > r.maxLen):
		if v.text == "" {
			d.fault(v.place, p, "empty", "write some text")
			return
		}
		d.fault(v.place, p, fmt.Sprintf("%s is %d bytes long", shown, len(v.text)), fmt.Sprintf("write %d to %d bytes", r.minLen, r.maxLen))
	case r.format != nil:
		if problem, remedy := r.format(v.text); problem != "" {
			d.fault(v.place, p, shown+" "+problem, remedy)
		}
	}
}

// count checks the number of elements.
func (r *rules) count(d *decoder, v *value, n int, p *path) {
	if r == nil || !r.hasAmount || n >= r.minItems && n <= r.maxItems {
		return
	}
	remedy := fmt.Sprintf("write %d to %d", r.minItems, r.maxItems)
	if r.minItems == r.maxItems {
		remedy = fmt.Sprintf("write %d", r.minItems)
	}
	d.fault(v.place, p, fmt.Sprintf("the number of elements is %d", n), remedy)
}

// distinct checks that list elements differ in the members named.
func (r *rules) distinct(d *decoder, v *value, p *path) {
	if r == nil || r.unique == nil {
		return
	}
	seen := make(map[string]int, len(v.list))
	for i, e := range v.list {
		var key strings.Builder
		some := false
		for _, name := range r.unique {
			m := e
			if name != "." {
				m = e.get(name)
			}
			if m != nil {
				some = true
				key.WriteString(m.text)
			}
			key.WriteByte(0)
		}
		if !some {
			continue
		}
		id := key.String()
		if r.fold {
			id = strings.ToLower(id)
		}
		if first, twice := seen[id]; twice {
			shown := strings.TrimRight(strings.ReplaceAll(key.String(), "\x00", " "), " ")
			d.fault(e.place, p.item(i), fmt.Sprintf("%s is a duplicate of %s", quote(shown), p.item(first)), "remove one of the two")
			continue
		}
		seen[id] = i
	}
}

// format finds the check behind a word of a tag. A check returns an empty problem for
// text that is right.
func format(name string) (func(string) (problem, remedy string), bool) {
	f, ok := map[string]func(string) (string, string){
		"label":      wantWord(mesh.IsLabel, "is not a DNS label", "write 1 to 63 of a-z, 0-9 and -, neither first nor last a -"),
		"subdomain":  wantWord(mesh.IsSubdomain, "is not a DNS subdomain", "write labels of a-z, 0-9 and - joined by dots"),
		"hostname":   wantWord(isHostname, "is not a host name", "write a DNS name, *.NAME for all below it, no address and no port"),
		"host":       wantWord(isPreciseHostname, "is not a host name", "write a DNS name, no wildcard, no address and no port"),
		"duration":   wantWord(isDuration, "is not a duration", "write one such as 500ms, 10s or 1h30m (GEP-2257)"),
		"headername": wantWord(isHeaderName, "is not a header name", "write letters, digits and any of !#$%&'*+-.^_`|~"),
		"ip":         wantWord(isIP, "is not an IP address", "write one such as 10.0.0.1 or fd00::1"),
		"addrport":   wantWord(isAddrPort, "is not an address with a port", "write one such as 10.0.0.1:15443"),
		"base64":     wantWord(isBase64, "is not base64", "encode it, or put the text under stringData"),
		"portname":   wantWord(isPortName, "is not a port name", "write 1 to 15 of a-z, 0-9 and -, with a letter"),
		"time":       wantWord(isTime, "is not a time", "write RFC 3339, such as 2026-01-02T15:04:05Z"),
		"group":      wantWord(isGroup, "is not an API group", `write a DNS subdomain, or "" for the core group`),
		"kind":       wantWord(isKind, "is not a kind", "write a kind such as Service"),
		"regex":      wantRegex,
	}[name]
	return f, ok
}

func wantWord(ok func(string) bool, problem, remedy string) func(string) (string, string) {
	return func(s string) (string, string) {
		if ok(s) {
			return "", ""
		}
		return problem, remedy
	}
}

// wantRegex compiles as the proxy will (RE2 syntax).
func wantRegex(s string) (string, string) {
	if _, err := regexp.Compile(s); err != nil {
		return "is not a regular expression: " + oneLine(strings.TrimPrefix(err.Error(), "error parsing regexp: ")), "write RE2 syntax"
	}
	return "", ""
}

func isHostname(s string) bool { return isPreciseHostname(strings.TrimPrefix(s, "*.")) }

func isPreciseHostname(s string) bool {
	_, err := netip.ParseAddr(s)
	return err != nil && mesh.IsSubdomain(s)
}

// isDuration reports whether s is one to four times one to five digits and a unit
// (GEP-2257), the part of Go's durations that every language can read.
func isDuration(s string) bool {
	for parts := 0; ; parts++ {
		if s == "" {
			return parts > 0
		}
		rest := strings.TrimLeft(s, "0123456789")
		digits := len(s) - len(rest)
		after, ok := strings.CutPrefix(rest, "ms")
		if !ok && rest != "" && strings.IndexByte("hms", rest[0]) >= 0 {
			after, ok = rest[1:], true
		}
		if !ok || digits < 1 || digits > 5 || parts == 4 {
			return false
		}
		s = after
	}
}

// duration reads a duration that was checked; anything else is 0.
func duration(s string) time.Duration {
	if !isDuration(s) {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

// isHeaderName reports whether s is a token (RFC 9110 §5.6.2) of sane length.
func isHeaderName(s string) bool {
	if len(s) == 0 || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func isAddrPort(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Port() != 0 && a.Addr().Zone() == ""
}

func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// isPortName reports whether s is a service name (RFC 6335 §5.1) in lower case.
func isPortName(s string) bool {
	return mesh.IsLabel(s) && len(s) <= 15 && !strings.Contains(s, "--") && strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' && r <= 'z' })
}

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}

func isGroup(s string) bool { return s == "" || mesh.IsSubdomain(s) }

func isKind(s string) bool { return mesh.IsLabel(strings.ToLower(s)) && (s[0] < '0' || s[0] > '9') }

// isQualified reports whether s is a label or annotation key: an optional DNS
// subdomain and a slash, then a name.
func isQualified(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		return mesh.IsSubdomain(prefix) && name != "" && isLabelValue(name)
	}
	return s != "" && isLabelValue(s)
}

// isLabelValue reports whether s may stand as a label's value.
func isLabelValue(s string) bool {
	if s == "" {
		return true
	}
	alnum := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	if len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return false
		}
	}
	return true
}

package http1

import "encoding/binary"

// tokenLower maps a tchar (RFC 9110 §5.6.2) to its lower case and all else to 0.
var tokenLower = table(func(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return c
	}
	return 0
})

// targetChar is 1 for what a request-target may hold. RFC 3986 §2 allows less, but
// browsers send | ^ { } and \ bare; a fragment has no place in a target (RFC 9112 §3.2),
// and neither have spaces, controls and bytes above ASCII.
var targetChar = table(func(c byte) byte {
	if c > ' ' && c < 0x7f && c != '#' {
		return 1
	}
	return 0
})

// hostLower maps the unreserved characters of a host (RFC 3986 §2.3) to lower case and
// all else to 0. Percent-encoding and sub-delims, which reg-name would allow, are
// left out: no name of a service needs them and parsers differ on them.
var hostLower = table(func(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return c
	}
	return 0
})

// hexValue maps a hexadecimal digit to its value and all else to 0xff.
var hexValue = table(func(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
})

func table(f func(byte) byte) (t [256]byte) {
	for c := range t {
		t[c] = f(byte(c))
	}
	return t
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// validValue reports whether b holds only VCHAR, obs-text, SP and HTAB
// (RFC 9110 §5.5), eight bytes at a time.
func validValue(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		control := (x - ones*0x20) & ^x & highs // some byte < 0x20
		y := x ^ ones*0x7f
		del := (y - ones) & ^y & highs // some byte = 0x7f
		if control|del != 0 && !validValueSlow(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return validValueSlow(b)
}

func validValueSlow(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validTarget reports whether every byte of b may stand in a request-target.
func validTarget(b []byte) bool {
	ok := byte(1)
	for _, c := range b {
		ok &= targetChar[c]
	}
	return ok == 1
}

func isToken(b []byte) bool {
	for _, c := range b {
		if tokenLower[c] == 0 {
			return false
		}
	}
	return len(b) > 0
}

// trim removes optional white space, SP and HTAB (RFC 9110 §5.6.3), from both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for n := len(b); n > 0 && (b[n-1] == ' ' || b[n-1] == '\t'); n-- {
		b = b[:n-1]
	}
	return b
}

// lower turns the letters of b into lower case, in place.
func lower(b []byte) []byte {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// nextElement cuts the first element off a comma-separated list (RFC 9110 §5.6.1);
// the element may be empty.
func nextElement(list []byte) (element, rest []byte, more bool) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:], true
		}
	}
	return trim(list), nil, false
}

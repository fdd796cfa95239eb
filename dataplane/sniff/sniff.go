// Package sniff finds out whether who made a connection speaks HTTP, where nobody declared it. Its one
// idea is to look without taking: the bytes stay in the socket (MSG_PEEK) for whoever serves the connection, so that
// nothing stands between the socket and the engines.
//
// It serves nothing, and reads no TLS. Read HTTP first.
package sniff

import (
	"bytes"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// window is how much is looked at, in bytes: a method, and the beginning of what it is for.
const window = 64

// methodMost is the longest method that is taken for one: the longest registered has 17 letters
// (IANA HTTP Method Registry: UPDATEREDIRECTREF).
const methodMost = 20

// preface is how a client of HTTP/2 begins (RFC 9113 §3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// HTTP reports whether the connection begins with a request of HTTP/1.x, or with the preface of HTTP/2. It takes
// no byte. It waits for as many as it needs, and until the deadline for the first of them and the last: a client that says
// nothing by then waits for its server to speak, which no client of HTTP does. The read deadline is taken away.
func HTTP(c net.Conn, deadline time.Time) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil || c.SetReadDeadline(deadline) != nil {
		return false
	}
	var b [window]byte
	http := false
	err = raw.Read(func(fd uintptr) bool {
		n, err := peek(fd, b[:])
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		http = false
		if err != nil || n <= 0 { // broken, or ended: who carries bytes will find out
			return true
		}
		var decided bool
		http, decided = classify(b[:n])
		return decided || n == window // woken again when more has come
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		http = false
	}
	_ = c.SetReadDeadline(time.Time{}) // if it fails, so does the first read
	return http
}

// classify reports whether b is how HTTP begins, and whether more could not change that. What looks like HTTP is decided
// when the line is whole and tells its version, or has no room in the window.
func classify(b []byte) (http, decided bool) {
	method, target, found := bytes.Cut(b, []byte(" "))
	if len(method) > methodMost || bytes.ContainsFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) {
		return false, true
	}
	if !found {
		return false, false
	}
	if len(method) == 0 {
		return false, true
	}
	if string(method) == "PRI" {
		if len(b) < len(preface) {
			return false, !bytes.HasPrefix([]byte(preface), b)
		}
		return bytes.HasPrefix(b, []byte(preface)), true
	}
	http, decided = targets(string(method), target)
	if line, _, whole := bytes.Cut(target, []byte("\n")); whole && !decided { // RFC 9112 §3: it ends with the version
		line = bytes.TrimSuffix(line, []byte("\r"))
		return http && (bytes.HasSuffix(line, []byte(" HTTP/1.1")) || bytes.HasSuffix(line, []byte(" HTTP/1.0"))), true
	}
	return http, decided
}

// targets is classify for what follows the method.
func targets(method string, target []byte) (http, decided bool) {
	switch method {
	case "CONNECT": // RFC 9112 §3.2.3: host:port
		return first(target, func(c byte) bool { return c == '[' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' })
	case "OPTIONS":
		if len(target) > 0 && target[0] == '*' { // RFC 9112 §3.2.4
			return first(target[1:], func(c byte) bool { return c == ' ' })
		}
	}
	if len(target) > 0 && target[0]|0x20 == 'h' { // RFC 9112 §3.2.2: a URL
		const scheme = "http"
		n := min(len(target), len(scheme))
		if !bytes.EqualFold(target[:n], []byte(scheme[:n])) {
			return false, true
		}
		return first(target[n:], func(c byte) bool { return c == ':' || c|0x20 == 's' })
	}
	return first(target, func(c byte) bool { return c == '/' })
}

// first holds the first byte of b against what it may be; only that it may not is decided by it.
func first(b []byte, may func(byte) bool) (http, decided bool) {
	if len(b) == 0 {
		return false, false
	}
	http = may(b[0])
	return http, !http
}

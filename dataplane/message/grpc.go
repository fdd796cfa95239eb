package message

import (
	"bytes"
	"time"
)

// GRPCTimeout reads the field grpc-timeout (gRPC over HTTP/2, Timeout: at most eight digits and
// a unit).
func GRPCTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n := time.Duration(0)
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	switch v[len(v)-1] {
	case 'H':
		return n * time.Hour, n <= 2_000_000
	case 'M':
		return n * time.Minute, true
	case 'S':
		return n * time.Second, true
	case 'm':
		return n * time.Millisecond, true
	case 'u':
		return n * time.Microsecond, true
	case 'n':
		return n, true
	}
	return 0, false
}

// IsGRPC reports whether a content-type is application/grpc, with or without a suffix that
// says how messages are encoded. grpc-web is another protocol.
func IsGRPC(contentType []byte) bool {
	rest, ok := bytes.CutPrefix(contentType, []byte("application/grpc"))
	return ok && (len(rest) == 0 || rest[0] == '+' || rest[0] == ';')
}

// The codes of gRPC that a proxy has a use for.
const (
	GRPCUnknown           = 2
	GRPCDeadlineExceeded  = 4
	GRPCPermissionDenied  = 7
	GRPCResourceExhausted = 8
	GRPCUnimplemented     = 12
	GRPCInternal          = 13
	GRPCUnavailable       = 14
	GRPCUnauthenticated   = 16
)

// GRPCCode is what a status of HTTP is in gRPC (the gRPC project's "HTTP to gRPC Status Code
// Mapping").
func GRPCCode(status int) int {
	switch status {
	case 400:
		return GRPCInternal
	case 401:
		return GRPCUnauthenticated
	case 403:
		return GRPCPermissionDenied
	case 404:
		return GRPCUnimplemented
	case 429, 502, 503, 504:
		return GRPCUnavailable
	}
	return GRPCUnknown
}

// AppendGRPCMessage appends s with all but the printable ASCII characters, and '%', escaped by
// their octets.
func AppendGRPCMessage(b []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

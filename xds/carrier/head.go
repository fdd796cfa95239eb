package carrier

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Heads are written as literals that are not indexed (RFC 7541 §6.2.2): they need no state of the
// connection, and a stream has two.

// appendLiteral appends a field, neither indexed nor in Huffman's code.
func appendLiteral(b []byte, name, value string) []byte {
	b = append(b, 0)
	b = append(appendLength(b, len(name)), name...)
	return append(appendLength(b, len(value)), value...)
}

// appendLength is an integer with a prefix of seven bits (RFC 7541 §5.1).
func appendLength(b []byte, n int) []byte {
	if n < 127 {
		return append(b, byte(n))
	}
	b = append(b, 127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// indexed200 is ":status: 200" of the static table (RFC 7541 appendix A).
const indexed200 = 0x88

// responseFields are those of every response that is not trailers only.
var responseFields = appendLiteral([]byte{indexed200}, "content-type", "application/grpc")

func appendResponseHead(b []byte, stream uint32) []byte {
	return append(frame(b, http2.FrameHeaders, http2.FlagHeadersEndHeaders, stream, len(responseFields)), responseFields...)
}

// appendTrailers ends a stream with a status; first says that nothing was sent before
// ("Trailers-Only").
func appendTrailers(b []byte, stream uint32, first bool, st *status.Status) []byte {
	var f []byte
	if first {
		f = append(f, responseFields...)
	}
	f = appendLiteral(f, "grpc-status", strconv.Itoa(int(st.Code())))
	if m := st.Message(); m != "" {
		f = appendLiteral(f, "grpc-message", escape(m))
	}
	if len(st.Proto().GetDetails()) > 0 {
		if d, err := proto.Marshal(st.Proto()); err == nil && len(d) < headMax/4 {
			f = appendLiteral(f, "grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(d))
		}
	}
	return append(frame(b, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, stream, len(f)), f...)
}

// messageTextMax bounds the text of a status, so that it fits one frame with the rest.
const messageTextMax = 2 << 10

// escape writes a status' message: space to tilde as they are but for the percent sign, all other
// octets as %XX (PROTOCOL-HTTP2.md, "Status-Message").
func escape(m string) string {
	m = m[:min(len(m), messageTextMax)]
	plain := func(c byte) bool { return c >= ' ' && c <= '~' && c != '%' }
	var b strings.Builder
	for i := range len(m) {
		if c := m[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// parseTimeout reads grpc-timeout: up to eight digits and a unit.
func parseTimeout(v string) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	unit, ok := units[v[len(v)-1]]
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if !ok || err != nil {
		return 0, false
	}
	if n > uint64(1<<62)/uint64(unit) {
		return 1 << 62, true
	}
	return time.Duration(n) * unit, true
}

// faultOf answers what is no call of gRPC.
func faultOf(h *http2.MetaHeadersFrame) *status.Status {
	kind := ""
	for _, f := range h.RegularFields() {
		switch f.Name {
		case "content-type":
			kind = f.Value
		case "grpc-encoding":
			if f.Value != "identity" {
				return status.Newf(codes.Unimplemented, "messages in the encoding %q are not understood", f.Value)
			}
		}
	}
	switch {
	case h.Truncated:
		return status.Newf(codes.ResourceExhausted, "the request's head is larger than %d bytes", headMax)
	case h.PseudoValue("method") != "POST":
		return status.Newf(codes.Unimplemented, "method %q: a call of gRPC is a POST", h.PseudoValue("method"))
	case kind != "application/grpc" && !strings.HasPrefix(kind, "application/grpc+proto") && !strings.HasPrefix(kind, "application/grpc;"):
		return status.Newf(codes.Internal, "content-type %q: want application/grpc", kind)
	}
	return nil
}

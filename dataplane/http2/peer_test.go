package http2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// peer is a foreign end of a connection that says whatever a test wants: x/net's Framer
// without its checks, and raw octets.
type peer struct {
	t   testing.TB
	nc  net.Conn
	fr  *xhttp2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
	dec *hpack.Decoder
}

// bound is how long what must happen may take: no measure, but an end, on a machine that many others use as well.
const bound = time.Minute

func newPeer(t testing.TB, nc net.Conn) *peer {
	p := &peer{t: t, nc: nc, fr: xhttp2.NewFramer(nc, nc)}
	p.fr.AllowIllegalReads, p.fr.AllowIllegalWrites = true, true
	p.fr.SetMaxReadFrameSize(1 << 24)
	p.enc = hpack.NewEncoder(&p.buf)
	p.dec = hpack.NewDecoder(4096, nil)
	_ = nc.SetDeadline(time.Now().Add(bound))
	return p
}

// block encodes "name: value" lines.
func (p *peer) block(lines ...string) []byte {
	p.buf.Reset()
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		p.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	return bytes.Clone(p.buf.Bytes())
}

var get = []string{":method: GET", ":scheme: http", ":authority: a.example", ":path: /"}
var post = []string{":method: POST", ":scheme: http", ":authority: a.example", ":path: /"}

func with(base []string, more ...string) []string {
	return append(append([]string(nil), base...), more...)
}

func (p *peer) headers(id uint32, end bool, lines ...string) {
	p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(lines...), EndStream: end, EndHeaders: true})
}

func (p *peer) data(id uint32, end bool, s string) { p.fr.WriteData(id, end, []byte(s)) }

func (p *peer) raw(kind, flags uint8, id uint32, payload ...byte) {
	p.fr.WriteRawFrame(xhttp2.FrameType(kind), xhttp2.Flags(flags), id, payload)
}

// hello is the client's beginning, the server's without the preface.
func (p *peer) hello(client bool, settings ...xhttp2.Setting) {
	if client {
		io.WriteString(p.nc, preface)
	}
	p.fr.WriteSettings(settings...)
}

// next returns the next frame as a line: "HEADERS 1 200 END", "GOAWAY PROTOCOL_ERROR", "EOF".
func (p *peer) next() string {
	f, err := p.fr.ReadFrame()
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return "TIMEOUT"
		}
		return "EOF"
	}
	h := f.Header()
	end := ""
	if h.Flags&1 != 0 {
		end = " END"
	}
	switch f := f.(type) {
	case *xhttp2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %v last=%d", f.ErrCode, f.LastStreamID)
	case *xhttp2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %v", h.StreamID, f.ErrCode)
	case *xhttp2.HeadersFrame:
		fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			p.t.Errorf("cannot decode our HEADERS: %v", err)
		}
		first := ""
		for _, hf := range fields {
			if hf.Name == ":status" || hf.Name == ":path" {
				first = hf.Value
			}
		}
		return fmt.Sprintf("HEADERS %d %s%s", h.StreamID, first, end)
	case *xhttp2.DataFrame:
		return fmt.Sprintf("DATA %d %q%s", h.StreamID, f.Data(), end)
	case *xhttp2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ACK"
		}
		return "SETTINGS"
	case *xhttp2.PingFrame:
		if f.IsAck() {
			return fmt.Sprintf("PING ACK %x", f.Data)
		}
		return "PING"
	case *xhttp2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", h.StreamID, f.Increment)
	}
	return h.Type.String()
}

// until reads up to a line that begins with want, and returns all lines read.
func (p *peer) until(want string) (lines []string, ok bool) {
	for {
		l := p.next()
		lines = append(lines, l)
		if strings.HasPrefix(l, want) {
			return lines, true
		}
		if l == "EOF" || l == "TIMEOUT" {
			return lines, false
		}
	}
}

// serverPeer returns a peer of our server.
func serverPeer(t testing.TB, cfg Config, handler func(message.Exchange)) (*peer, <-chan error) {
	orDuration(&cfg.SettingsTimeout, bound) // a peer acknowledges no SETTINGS unless it says so
	c, s := tcpPair(t)
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { done <- ServeConn(ctx, s, cfg, handler) }()
	returned := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		returned <- <-done
	}()
	t.Cleanup(func() {
		c.Close()
		stop()
		select {
		case <-finished:
		case <-time.After(bound):
			t.Error("ServeConn did not return")
		}
	})
	return newPeer(t, c), returned
}

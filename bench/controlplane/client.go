package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

const (
	// wide is every window of the client: nobody here is slow, and updates would cost.
	wide = 1<<31 - 1
	// firstWindow is what RFC 9113 §6.9.2 begins with, on both levels.
	firstWindow = 65535
	frameMax    = 16 << 10
	messageHead = 5 // of gRPC's prefix: not compressed, and the length
)

// client is a connection of gRPC over HTTP/2 with one stream that lasts and calls beside it. It does what the servers here
// need, with one goroutine and a read and a write a message: it shares
// the machine with what is measured.
type client struct {
	conn net.Conn
	in   *http2.Framer
	head *hpack.Encoder
	buf  bytes.Buffer // of head

	mu      sync.Mutex
	room    sync.Cond
	out     []byte
	window  int64            // of the connection: what may be sent
	initial int64            // of a stream
	windows map[uint32]int64 // of streams that send still
	calls   map[uint32]chan error
	last    uint32
	err     error // why the connection ended
}

// dial connects, and returns when the server has said what it takes.
func dial(ctx context.Context, addr string, cfg *tls.Config) (*client, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
	}
	conn := tls.Client(direct.New(raw), cfg)
	c := &client{conn: conn, in: http2.NewFramer(nil, conn), window: firstWindow, initial: firstWindow, windows: map[uint32]int64{}, calls: map[uint32]chan error{}}
	c.room.L = &c.mu
	c.in.SetReuseFrames()
	c.in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.head = hpack.NewEncoder(&c.buf)
	c.head.SetMaxDynamicTableSizeLimit(0)
	if err := c.begin(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) begin(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	b := []byte(http2.ClientPreface)
	b = appendFrame(b, http2.FrameSettings, 0, 0, 6)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(http2.SettingInitialWindowSize)), wide)
	b = binary.BigEndian.AppendUint32(appendFrame(b, http2.FrameWindowUpdate, 0, 0, 4), wide-firstWindow)
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		f, err := c.in.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.take(f, nil, 0); err != nil {
			return err
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			return nil
		}
	}
}

func appendFrame(b []byte, t http2.FrameType, flags http2.Flags, stream uint32, length int) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

// open begins a stream of a method.
func (c *client) open(method string, done chan error) (id uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.buf.Reset()
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", method}, {":authority", "bench"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := c.head.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return 0, err
		}
	}
	id = max(c.last+2, 1)
	if c.last == 0 {
		id = 1
	}
	c.last, c.windows[id] = id, c.initial
	if done != nil {
		c.calls[id] = done
	}
	c.out = append(appendFrame(c.out[:0], http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, c.buf.Len()), c.buf.Bytes()...)
	_, err = c.conn.Write(c.out)
	return id, err
}

// send sends a message, of which end says that it is the last.
func (c *client) send(id uint32, m []byte, end bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; n < messageHead+len(m); {
		for c.err == nil && (c.window <= 0 || c.windows[id] <= 0) {
			c.room.Wait()
		}
		if c.err != nil {
			return c.err
		}
		k := int(min(int64(messageHead+len(m)-n), c.window, c.windows[id], frameMax))
		c.window -= int64(k)
		c.windows[id] -= int64(k)
		flags := http2.Flags(0)
		if end && n+k == messageHead+len(m) {
			flags = http2.FlagDataEndStream
			delete(c.windows, id)
		}
		c.out = appendFrame(c.out[:0], http2.FrameData, flags, id, k)
		if n == 0 {
			c.out = binary.BigEndian.AppendUint32(append(c.out, 0), uint32(len(m)))
			c.out = append(c.out, m[:k-messageHead]...)
		} else {
			c.out = append(c.out, m[n-messageHead:n-messageHead+k]...)
		}
		n += k
		if _, err := c.conn.Write(c.out); err != nil {
			return err
		}
	}
	return nil
}

// call is one message, and an answer that nobody reads.
func (c *client) call(ctx context.Context, method string, m []byte) error {
	done := make(chan error, 1)
	id, err := c.open(method, done)
	if err != nil {
		return err
	}
	if err := c.send(id, m, true); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run reads until the stream or the connection ends; each takes the stream's messages.
func (c *client) run(id uint32, each func(m []byte) error) error {
	m := &messages{each: each}
	for {
		f, err := c.in.ReadFrame()
		if err == nil {
			err = c.take(f, m, id)
		}
		if err != nil {
			c.fail(err)
			return err
		}
	}
}

// fail ends all waiting.
func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for id, done := range c.calls {
		delete(c.calls, id)
		done <- err
	}
	c.room.Broadcast()
}

func (c *client) take(f http2.Frame, m *messages, id uint32) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		if f.StreamID == id {
			return m.take(f.Data())
		}
	case *http2.MetaHeadersFrame:
		if f.StreamEnded() {
			return c.ended(f, id)
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			c.grow(func() {
				for s := range c.windows {
					c.windows[s] += int64(v) - c.initial
				}
				c.initial = int64(v)
			})
		}
		return c.answer(appendFrame(nil, http2.FrameSettings, http2.FlagSettingsAck, 0, 0))
	case *http2.WindowUpdateFrame:
		c.grow(func() {
			if f.StreamID == 0 {
				c.window += int64(f.Increment)
			} else if w, ok := c.windows[f.StreamID]; ok {
				c.windows[f.StreamID] = w + int64(f.Increment)
			}
		})
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.answer(append(appendFrame(nil, http2.FramePing, http2.FlagPingAck, 0, 8), f.Data[:]...))
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("stream %d was reset: %v", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server goes away: %v", f.ErrCode)
	}
	return nil
}

func (c *client) grow(by func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	by()
	c.room.Broadcast()
}

func (c *client) answer(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.conn.Write(b)
	return err
}

// ended takes the trailers of a call, or of the stream, which is to last.
func (c *client) ended(f *http2.MetaHeadersFrame, id uint32) error {
	code, text := "none", ""
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "grpc-status":
			code = h.Value
		case "grpc-message":
			text = h.Value
		}
	}
	var err error
	if code != "0" {
		err = fmt.Errorf("status %s: %s", code, text)
	}
	if f.StreamID == id {
		return errors.Join(errors.New("the stream ended"), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if done := c.calls[f.StreamID]; done != nil {
		delete(c.calls, f.StreamID)
		done <- err
	}
	return nil
}

func (c *client) close() { _ = c.conn.Close() } // says only that it was closed before

// messages puts a stream's messages together.
type messages struct {
	rest []byte
	each func(m []byte) error
}

func (m *messages) take(b []byte) error {
	if len(m.rest) > 0 {
		m.rest = append(m.rest, b...)
		b = m.rest
	}
	for len(b) >= messageHead {
		n := int(binary.BigEndian.Uint32(b[1:]))
		if b[0] != 0 {
			return io.ErrUnexpectedEOF
		}
		if len(b) < messageHead+n {
			break
		}
		if err := m.each(b[messageHead : messageHead+n]); err != nil {
			return err
		}
		b = b[messageHead+n:]
	}
	m.rest = append(m.rest[:0], b...)
	if len(b) == 0 {
		m.rest = nil
	}
	return nil
}

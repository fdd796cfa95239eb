package carrier

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

const (
	// smallFrame is one for which no buffer of a larger one is kept, once afterLarge of them have followed.
	smallFrame, afterLarge = 1 << 10, 4
	// idleFrames bounds frames that carry nothing (SETTINGS, PING, HEADERS, RST_STREAM, PRIORITY, WINDOW_UPDATE, empty DATA) in excess
	// of idleEach for each message and each second: who sends more floods (CVE-2019-9512, -9515, CVE-2023-44487 and kin). A call
	// without a message is nothing either.
	idleFrames, idleEach = 1000, 50
)

// conn is one client's connection: its one reader takes everything that arrives, messages of
// conversations included.
type conn struct {
	s    *Server
	raw  net.Conn
	ctx  context.Context // of every call: with the peer
	stop context.CancelFunc
	w    *writer
	in   *http2.Framer

	streams map[uint32]*stream // guarded by w.mu; only the reader adds

	// Of the reader alone.
	last     uint32        // the highest the client opened
	credit   int           // frames that may yet carry nothing
	credited time.Duration // since the process began: when time gave some last
	taken    int           // bytes since the last WINDOW_UPDATE of the connection

	heard atomic.Int64 // when something arrived last, in nanoseconds since the process began
	timer *time.Timer
}

var epoch = time.Now()

func newConn(s *Server, raw net.Conn) *conn {
	return &conn{s: s, raw: raw, streams: map[uint32]*stream{}, credit: idleFrames}
}

// run serves the connection until it ends.
func (c *conn) run(ctx context.Context) {
	defer c.raw.Close()
	c.ctx, c.stop = context.WithCancel(ctx)
	defer c.stop()
	p := &peer.Peer{Addr: c.raw.RemoteAddr(), LocalAddr: c.raw.LocalAddr()}
	outlet := direct.NewOutlet(c.raw)
	var conn net.Conn = outlet
	if !c.s.cfg.Plain {
		tc := tls.Server(&sip{Outlet: outlet}, c.s.cfg.TLS)
		shaking, stop := context.WithTimeout(ctx, handshakeTime)
		err := tc.HandshakeContext(shaking)
		stop()
		if err == nil && tc.ConnectionState().NegotiatedProtocol != "h2" {
			err = errors.New("the client does not ask for the protocol h2")
		}
		if err != nil {
			c.s.cfg.Log.Warn("a connection to the control port was refused", "remote", c.raw.RemoteAddr().String(), "error", err)
			return
		}
		conn = tc
		p.AuthInfo = credentials.TLSInfo{State: tc.ConnectionState(), CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	c.ctx = peer.NewContext(c.ctx, p)
	c.w = newWriter(conn, outlet)
	err := c.read(conn)
	c.w.fail(err)
	if c.timer != nil {
		c.timer.Stop()
	}
	c.w.mu.Lock()
	left := slices.Collect(maps.Values(c.streams))
	c.w.mu.Unlock()
	for _, s := range left {
		c.gone(s)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.s.cfg.Log.Debug("a connection to the control port ended", "remote", c.raw.RemoteAddr().String(), "error", err)
	}
}

// read is the reader, until an error.
func (c *conn) read(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return errors.New("the client does not begin as HTTP/2 does (RFC 9113 §3.4)")
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	heads := hpack.NewDecoder(4096, nil)
	c.in = framer(conn, heads)
	large, small := false, 0 // of frames: that there was a large one, and how many small ones followed
	if !c.w.control(c.appendSettings) {
		return c.w.err
	}
	c.heard.Store(int64(time.Since(epoch)))
	c.timer = time.AfterFunc(c.s.cfg.PingAfter, c.listen)
	for {
		f, err := c.in.ReadFrame()
		if err != nil {
			var se http2.StreamError
			if errors.As(err, &se) {
				if err := c.reset(se.StreamID, se.Code); err != nil {
					return err
				}
				continue
			}
			return c.goAway(err)
		}
		c.heard.Store(int64(time.Since(epoch)))
		length := f.Header().Length
		if err := c.take(f); err != nil {
			return c.goAway(err)
		}
		switch {
		case length > smallFrame:
			large, small = true, 0
		case large:
			if small++; small == afterLarge { // the framer holds as much as the largest frame took; a quiet stream needs no such room
				c.in, large = framer(conn, heads), false
			}
		}
	}
}

// framer reads frames; heads goes on from one to the next.
func framer(r io.Reader, heads *hpack.Decoder) *http2.Framer {
	in := http2.NewFramer(nil, r)
	in.SetReuseFrames()
	in.MaxHeaderListSize = headMax
	in.ReadMetaHeaders = heads
	return in
}

// window is what the client may send of a stream before it is read: a message.
func (c *conn) window() int { return c.s.cfg.MessageMax + messageHead }

func (c *conn) appendSettings(b []byte) []byte {
	settings := []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: streamsMax}, {ID: http2.SettingInitialWindowSize, Val: uint32(c.window())},
		{ID: http2.SettingMaxHeaderListSize, Val: headMax}}
	b = frame(b, http2.FrameSettings, 0, 0, 6*len(settings))
	for _, s := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(s.ID)), s.Val)
	}
	return appendUpdate(b, 0, 4*c.window()-65535)
}

func appendUpdate(b []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(frame(b, http2.FrameWindowUpdate, 0, stream, 4), uint32(n))
}

// goAway tells the client why the connection ends, if the fault is its own.
func (c *conn) goAway(err error) error {
	var ce http2.ConnectionError
	code := http2.ErrCodeNo
	switch {
	case errors.As(err, &ce):
		code = http2.ErrCode(ce)
	case errors.Is(err, errFlood):
		code = http2.ErrCodeEnhanceYourCalm
	case errors.Is(err, http2.ErrFrameTooLarge):
		code = http2.ErrCodeFrameSize
	default:
		return err
	}
	c.w.control(func(b []byte) []byte {
		b = frame(b, http2.FrameGoAway, 0, 0, 8)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, c.last), uint32(code))
	})
	return err
}

// listen asks a client that has been silent whether it lives, and ends the connection of one that does not answer. It
// runs on the timer's goroutine.
func (c *conn) listen() {
	quiet := time.Since(epoch) - time.Duration(c.heard.Load())
	switch after, patience := c.s.cfg.PingAfter, c.s.cfg.Patience; {
	case quiet < after:
		c.timer.Reset(after - quiet)
	case quiet < after+patience:
		if c.w.control(func(b []byte) []byte { return append(frame(b, http2.FramePing, 0, 0, 8), make([]byte, 8)...) }) {
			c.timer.Reset(after + patience - quiet)
		}
	default:
		c.s.cfg.Log.Warn("a client of the control port is gone", "remote", c.raw.RemoteAddr().String(), "silent", quiet.Round(time.Second).String())
		c.raw.Close()
	}
}

var errFlood = errors.New("the client sends frames that carry nothing")

// take acts on a frame. An error ends the connection.
func (c *conn) take(f http2.Frame) error {
	if now := time.Since(epoch); now-c.credited >= time.Second {
		c.credit, c.credited = min(c.credit+idleEach, idleFrames), now
	}
	if c.credit--; c.credit < 0 {
		return errFlood
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.MetaHeadersFrame:
		return c.open(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.answer(func(b []byte) []byte { return append(frame(b, http2.FramePing, http2.FlagPingAck, 0, 8), f.Data[:]...) })
	case *http2.WindowUpdateFrame:
		return c.grow(f)
	case *http2.RSTStreamFrame:
		if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if s := c.find(f.StreamID); s != nil {
			c.gone(s)
		}
	case *http2.PushPromiseFrame, *http2.ContinuationFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // PRIORITY, GOAWAY, which is followed by the client's close, and what is unknown (RFC 9113 §5.5)
}

func (c *conn) answer(build func(b []byte) []byte) error {
	if !c.w.control(build) {
		return errFlood
	}
	return nil
}

func (c *conn) reset(id uint32, code http2.ErrCode) error {
	if s := c.find(id); s != nil {
		c.gone(s)
	}
	return c.answer(func(b []byte) []byte {
		return binary.BigEndian.AppendUint32(frame(b, http2.FrameRSTStream, 0, id, 4), uint32(code))
	})
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.w.mu.Lock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize: // also of the streams that are open (RFC 9113 §6.9.2)
			change := int64(s.Val) - c.w.initial
			c.w.initial = int64(s.Val)
			for _, st := range c.streams {
				if st.window += change; st.window > 1<<31-1 {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
		case http2.SettingMaxFrameSize:
			c.w.frameSize = min(int(s.Val), 64<<10)
		}
		return nil
	})
	c.w.room.Broadcast()
	c.w.mu.Unlock()
	if err != nil {
		return err
	}
	return c.answer(func(b []byte) []byte { return frame(b, http2.FrameSettings, http2.FlagSettingsAck, 0, 0) })
}

func (c *conn) grow(f *http2.WindowUpdateFrame) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	defer c.w.room.Broadcast()
	if f.StreamID == 0 {
		if c.w.window += int64(f.Increment); c.w.window > 1<<31-1 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		return nil
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return nil // it has ended
	}
	if s.window += int64(f.Increment); s.window > 1<<31-1 {
		return http2.ConnectionError(http2.ErrCodeFlowControl) // a stream error would do, but no client has it
	}
	return nil
}

// find is an open stream, or nil.
func (c *conn) find(id uint32) *stream {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.streams[id]
}

// open begins a call.
func (c *conn) open(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	if s := c.find(id); s != nil { // trailers, which no client of gRPC sends
		if !f.StreamEnded() {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		s.ended()
		return nil
	}
	if id%2 == 0 || id <= c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.last = id
	if c.calls() >= streamsMax {
		return c.reset(id, http2.ErrCodeRefusedStream)
	}
	refuse := func(st *status.Status) error {
		return c.answer(func(b []byte) []byte { return appendTrailers(b, id, true, st) })
	}
	if st := faultOf(f); st != nil {
		return refuse(st)
	}
	path := f.PseudoValue("path")
	s := &stream{c: c, id: id}
	if open, ok := c.s.converses[path]; ok {
		return c.converse(s, open, f.StreamEnded())
	}
	u, ok := c.s.unary[path]
	if !ok {
		return refuse(status.Newf(codes.Unimplemented, "no such method: %s", shown(path)))
	}
	var timeout time.Duration
	for _, h := range f.RegularFields() {
		if h.Name == "grpc-timeout" {
			if timeout, ok = parseTimeout(h.Value); !ok {
				return refuse(status.Newf(codes.Internal, "grpc-timeout %q is not understood", h.Value))
			}
		}
	}
	s.call = &call{unary: u, timeout: timeout}
	c.enter(s)
	if f.StreamEnded() {
		s.ended()
	}
	return nil
}

func (c *conn) calls() int {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return len(c.streams)
}

func (c *conn) enter(s *stream) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	s.window = c.w.initial
	c.streams[s.id] = s
}

// gone forgets a stream, whoever ended it.
func (c *conn) gone(s *stream) {
	c.w.mu.Lock()
	if s.gone {
		c.w.mu.Unlock()
		return
	}
	s.gone = true
	delete(c.streams, s.id)
	talk := s.talk
	c.w.room.Broadcast()
	c.w.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	if talk != nil {
		talk.Close()
	}
}

// data takes bytes of a stream's messages.
func (c *conn) data(f *http2.DataFrame) error {
	b := f.Data()
	if len(b) > 0 {
		c.credit++ // it carries something
	}
	size := int(f.Length) // padding counts (RFC 9113 §6.9.1)
	if c.taken += size; c.taken > 2*c.window() {
		n := c.taken
		c.taken = 0
		if err := c.answer(func(b []byte) []byte { return appendUpdate(b, 0, n) }); err != nil {
			return err
		}
	}
	s := c.find(f.StreamID)
	if s == nil {
		if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil // it has ended
	}
	if s.taken += size; s.taken > c.window()/2 {
		n := s.taken
		s.taken = 0
		if err := c.answer(func(b []byte) []byte { return appendUpdate(b, f.StreamID, n) }); err != nil {
			return err
		}
	}
	s.receive(b)
	if f.StreamEnded() {
		s.ended()
	}
	return nil
}

// assemble calls each with every message that is whole, and returns what is left; each returns whether
// to go on.
func assemble(rest, b []byte, most int, each func(m []byte) error) ([]byte, error) {
	if len(rest) > 0 {
		rest = append(rest, b...)
		b = rest
	}
	for len(b) >= messageHead {
		n := int(binary.BigEndian.Uint32(b[1:]))
		switch {
		case b[0] != 0:
			return nil, status.Error(codes.Unimplemented, "compressed messages are not understood")
		case n > most:
			return nil, status.Error(codes.ResourceExhausted, fmt.Sprintf("a message of %d bytes: at most %d", n, most))
		}
		if len(b) < messageHead+n {
			break
		}
		if err := each(b[messageHead : messageHead+n]); err != nil {
			return nil, err
		}
		b = b[messageHead+n:]
	}
	switch {
	case len(b) == 0:
		return nil, nil
	case len(b) == len(rest):
		return rest, nil // the same message as before, and more of it
	}
	return slices.Clone(b), nil
}

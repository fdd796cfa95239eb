//house:exempt a state machine
package http2

import (
	"encoding/binary"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// handle acts on one frame. Only the reader calls it.
func (c *conn) handle(f frame, p []byte) *ConnError {
	if c.blockFrame.stream != 0 && (f.kind != frameContinuation || f.stream != c.blockFrame.stream) {
		return connErr(ProtocolError, "a field section was interrupted") // RFC 9113 §6.10
	}
	switch f.kind {
	case frameHeaders:
		return c.onHeaders(f, p)
	case frameContinuation:
		return c.onContinuation(f, p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	switch f.kind {
	case frameData:
		return c.onData(f, p)
	case framePriority:
		return c.onPriority(f, p)
	case frameReset:
		return c.onReset(f, p)
	case frameSettings:
		return c.onSettings(f, p)
	case framePushPromise: // RFC 9113 §8.4: clients cannot push, and ours disable it
		return connErr(ProtocolError, "PUSH_PROMISE not allowed")
	case framePing:
		return c.onPing(f, p)
	case frameGoAway:
		return c.onGoAway(f, p)
	case frameWindowUpdate:
		return c.onWindowUpdate(f, p)
	}
	return c.spend() // RFC 9113 §4.1: unknown frames are ignored, at a price
}

func (c *conn) onData(f frame, p []byte) *ConnError {
	if f.stream == 0 {
		return connErr(ProtocolError, "DATA on stream 0")
	}
	body, ok := unpad(f, p)
	if !ok {
		return connErr(ProtocolError, "padding longer than the frame")
	}
	if f.length > c.recvWin {
		return connErr(FlowControlError, "DATA above the connection's window")
	}
	c.recvWin -= f.length
	c.bdp.bytes += f.length
	defer c.replenish()
	end := f.has(flagEndStream)
	if len(body) == 0 && !end {
		if err := c.spend(); err != nil {
			return err
		}
	}
	s := c.streams.get(f.stream)
	switch {
	case s == nil:
		return c.onUnknown(f)
	case s.recvEnd:
		return c.fault(s, StreamClosed, "DATA after the end of the stream")
	case !s.gotFinal:
		return c.fault(s, ProtocolError, "DATA before the head")
	case f.length > s.recvWin:
		return c.fault(s, FlowControlError, "DATA above the stream's window")
	}
	s.recvWin -= f.length
	if pad := f.length - len(body); pad > 0 && !end {
		c.giveBack(s, pad)
	}
	if s.expect >= 0 {
		if s.expect -= int64(len(body)); s.expect < 0 { // RFC 9113 §8.1.1
			return c.fault(s, ProtocolError, "DATA above content-length")
		}
	}
	if len(body) > 0 {
		s.queue.push(body)
		c.buffered += len(body)
		c.bucket.earn(earnFrame)
	}
	if end {
		return c.endReceive(s)
	}
	s.rcond.Signal()
	return nil
}

// endReceive takes END_STREAM.
func (c *conn) endReceive(s *stream) *ConnError {
	if s.expect > 0 {
		return c.fault(s, ProtocolError, "DATA below content-length")
	}
	s.recvEnd = true
	s.rcond.Broadcast()
	c.maybeEnded(s)
	return nil
}

// onUnknown handles DATA or HEADERS on a stream that is not in the table.
func (c *conn) onUnknown(f frame) *ConnError {
	if c.role.idle(f.stream) {
		return connErr(ProtocolError, "frame on an idle stream") // RFC 9113 §5.1
	}
	switch c.howClosed(f.stream) {
	case closedByUs:
		return nil
	case closedInOrder:
		if f.kind == frameHeaders {
			return connErr(StreamClosed, "HEADERS after the end of the stream")
		}
	case closedUnknown:
		if f.kind == frameHeaders && !c.client { // RFC 9113 §5.1.1
			return connErr(ProtocolError, "stream identifier not above the last")
		}
	}
	c.out = appendReset(c.out, f.stream, StreamClosed)
	c.kick()
	return c.spend()
}

func (c *conn) onHeaders(f frame, p []byte) *ConnError {
	if f.stream == 0 {
		return connErr(ProtocolError, "HEADERS on stream 0")
	}
	p, ok := unpad(f, p)
	if !ok {
		return connErr(ProtocolError, "padding longer than the frame")
	}
	if f.has(flagPriority) { // RFC 9113 §5.3.2: deprecated; read over
		if len(p) < 5 {
			return connErr(FrameSizeError, "HEADERS too short for its priority")
		}
		if binary.BigEndian.Uint32(p)&maxStreamID == f.stream {
			return connErr(ProtocolError, "a stream that depends on itself")
		}
		p = p[5:]
	}
	if f.has(flagEndHeaders) {
		return c.section(f, p)
	}
	c.block = append(c.block[:0], p...)
	c.blockFrame, c.continuations = f, 0
	c.readBy(time.Now().Add(c.cfg.HandshakeTimeout))
	return nil
}

func (c *conn) onContinuation(f frame, p []byte) *ConnError {
	if c.blockFrame.stream == 0 {
		return connErr(ProtocolError, "CONTINUATION without HEADERS")
	}
	c.continuations++
	if c.continuations > c.cfg.MaxContinuations || len(c.block)+len(p) > c.cfg.MaxHeaderBytes {
		return connErr(EnhanceYourCalm, "field section too long")
	}
	c.block = append(c.block, p...)
	c.mu.Lock()
	err := c.spend()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if !f.has(flagEndHeaders) {
		return nil
	}
	head := c.blockFrame
	c.blockFrame = frame{}
	c.readBy(time.Time{})
	err = c.section(head, c.block)
	if cap(c.block) > readLarge {
		c.block = nil
	}
	return err
}

// section decodes and acts on a whole field section. What it becomes is judged before it is decoded:
// only the reader changes the state that tells.
func (c *conn) section(f frame, block []byte) *ConnError {
	c.mu.Lock()
	s := c.streams.get(f.stream)
	kind := requestHead
	switch {
	case s != nil && s.gotFinal:
		kind = trailerSection
	case c.client:
		kind = responseHead
	}
	c.mu.Unlock()

	c.parser.reset(&c.scratch, kind)
	if err := c.dec.decode(block, &c.parser); err == errHeadTooLarge {
		return connErr(EnhanceYourCalm, err.Error())
	} else if err != nil {
		return connErr(CompressionError, err.Error())
	}
	end := f.has(flagEndStream)
	fault := c.parser.finish(end)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	s = c.streams.get(f.stream) // the application may have reset it meanwhile
	switch {
	case s == nil && c.role.idle(f.stream):
		return c.role.opened(f, fault)
	case s == nil:
		return c.onUnknown(f)
	case s.recvEnd: // RFC 9113 §5.1, half-closed (remote)
		return c.fault(s, StreamClosed, "HEADERS after the end of the stream")
	case fault != "":
		return c.fault(s, ProtocolError, fault)
	case kind == responseHead:
		return c.onResponse(s, end)
	case !end:
		return c.fault(s, ProtocolError, "HEADERS in the middle of a body") // RFC 9113 §8.1
	}
	s.trailers, c.scratch = c.scratch, s.trailers
	return c.endReceive(s)
}

// infoMax bounds informational responses that nobody has received yet.
const infoMax = 8

// onResponse takes the head of a response, which stands in scratch.
func (c *conn) onResponse(s *stream, end bool) *ConnError {
	h := &c.scratch
	s.gotHead = true
	if h.Status < 200 {
		if s.infos == infoMax {
			return c.fault(s, EnhanceYourCalm, "too many informational responses")
		}
		if s.infos == len(s.info) {
			s.info = append(s.info, message.Head{})
		}
		h.Length = 0
		s.info[s.infos], c.scratch = c.scratch, s.info[s.infos]
		s.infos++
		s.rcond.Signal()
		return c.spend()
	}
	s.gotFinal = true
	bodyless := s.isHead || h.Status == 204 || h.Status == 304 // RFC 9110 §6.4.1
	switch {
	case s.isConnect && h.Status < 300: // RFC 9110 §9.3.6: content-length of a tunnel is ignored
		h.Length = message.LengthUnknown
	case bodyless:
		s.expect = 0
	case end && h.Length == message.LengthUnknown:
		h.Length = 0
	default:
		s.expect = h.Length
	}
	s.head, c.scratch = c.scratch, s.head
	s.headReady, s.headEnd = true, end
	if end {
		return c.endReceive(s)
	}
	s.rcond.Broadcast()
	return nil
}

func (c *conn) onPriority(f frame, p []byte) *ConnError {
	switch {
	case f.stream == 0:
		return connErr(ProtocolError, "PRIORITY on stream 0")
	case len(p) != 5:
		// RFC 9113 §6.3 asks for a stream error, which is impossible on an idle stream.
		return connErr(FrameSizeError, "PRIORITY not of 5 octets")
	case binary.BigEndian.Uint32(p)&maxStreamID == f.stream:
		return connErr(ProtocolError, "a stream that depends on itself")
	}
	return c.spend()
}

func (c *conn) onReset(f frame, p []byte) *ConnError {
	switch {
	case f.stream == 0:
		return connErr(ProtocolError, "RST_STREAM on stream 0")
	case len(p) != 4:
		return connErr(FrameSizeError, "RST_STREAM not of 4 octets")
	case c.streams.get(f.stream) == nil && c.role.idle(f.stream):
		return connErr(ProtocolError, "RST_STREAM on an idle stream")
	}
	worked := false
	if s := c.streams.get(f.stream); s != nil {
		worked = s.working()
		code := Code(binary.BigEndian.Uint32(p))
		c.breakStream(s, &StreamError{ID: s.id, Code: code, Remote: true,
			NotExecuted: c.client && code == RefusedStream}, closedByPeer) // RFC 9113 §8.7
		if c.client {
			return nil // it costs nobody but us, and we opened the stream
		}
	}
	return c.wasted(worked)
}

func (c *conn) onSettings(f frame, p []byte) *ConnError {
	if f.stream != 0 {
		return connErr(ProtocolError, "SETTINGS on a stream")
	}
	if f.has(flagAck) {
		if len(p) != 0 {
			return connErr(FrameSizeError, "SETTINGS acknowledgement with a payload")
		}
		if c.ackPending {
			c.ackPending = false
			c.ackTimer.Stop()
			c.dec.setLimit(c.cfg.HeaderTableBytes)
			return nil
		}
		return c.spend()
	}
	if len(p)%6 != 0 {
		return connErr(FrameSizeError, "SETTINGS not of whole settings")
	}
	if err := c.spend(); err != nil {
		return err
	}
	if !c.peerSettled {
		c.peerStreams = maxStreamID // RFC 9113 §6.5.2: no limit unless told
	}
	for ; len(p) > 0; p = p[6:] {
		if err := c.setting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	c.peerSettled = true
	c.out = appendFrame(c.out, frame{0, frameSettings, flagAck, 0})
	c.kick()
	c.role.settled()
	return nil
}

func (c *conn) setting(id uint16, v uint32) *ConnError {
	switch id {
	case settingHeaderTableSize:
		c.enc.setPeerLimit(int(min(v, maxWindowSize)))
	case settingEnablePush:
		if v > 1 || c.client && v == 1 {
			return connErr(ProtocolError, "invalid SETTINGS_ENABLE_PUSH")
		}
	case settingMaxConcurrentStreams:
		c.peerStreams = int(min(v, maxStreamID))
	case settingInitialWindowSize:
		if v > maxWindowSize {
			return connErr(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1")
		}
		return c.shiftWindows(int(v))
	case settingMaxFrameSize:
		if v < minMaxFrame || v > maxMaxFrame {
			return connErr(ProtocolError, "invalid SETTINGS_MAX_FRAME_SIZE")
		}
		c.maxFrame = minMaxFrame // larger ones would only delay other streams
	case settingEnableConnect:
		if v > 1 || v == 0 && c.peerConnect { // RFC 8441 §3
			return connErr(ProtocolError, "invalid SETTINGS_ENABLE_CONNECT_PROTOCOL")
		}
		c.peerConnect = v == 1
	}
	return nil
}

// shiftWindows applies a new SETTINGS_INITIAL_WINDOW_SIZE to open streams, whose
// windows may become negative (RFC 9113 §6.9.2).
func (c *conn) shiftWindows(n int) *ConnError {
	delta := n - c.peerWindow
	c.peerWindow = n
	overflow := false
	c.streams.each(func(s *stream) {
		s.sendWin += delta
		overflow = overflow || s.sendWin > maxWindowSize
		if s.sendWin > 0 {
			s.wcond.Signal()
		}
		c.gauge(s)
	})
	if overflow {
		return connErr(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE overflows a window")
	}
	c.role.opening()
	return nil
}

func (c *conn) onPing(f frame, p []byte) *ConnError {
	if f.stream != 0 {
		return connErr(ProtocolError, "PING on a stream")
	}
	if len(p) != 8 {
		return connErr(FrameSizeError, "PING not of 8 octets")
	}
	data := pingData(p)
	if !f.has(flagAck) {
		if len(c.out) > 4*c.cfg.SendBuffer { // it asks and does not read the answers
			return connErr(EnhanceYourCalm, "answers are not read")
		}
		if c.cfg.Reported != nil && data&pingReportMask == pingReport {
			c.cfg.Reported(data &^ pingReportMask)
		}
		c.out = appendPing(c.out, flagAck, data)
		c.kick()
		return c.spend()
	}
	if data&pingReportMask == pingReport && c.reports > 0 {
		c.reports--
		return nil
	}
	if data == pingBDP && c.bdp.out {
		if w := c.bdp.end(c.window, c.cfg.MaxWindow); w != c.window {
			c.window = w
			c.replenish()
		}
		return nil
	}
	if s, ok := c.role.(*server); ok && data == pingDrain && s.draining {
		s.finishDrain()
		return nil
	}
	for i, w := range c.pings {
		if w.data == data {
			c.pings = append(c.pings[:i], c.pings[i+1:]...)
			close(w.ack)
			return nil
		}
	}
	return c.spend()
}

// debugMax bounds what is kept of a GOAWAY's debug data, in octets.
const debugMax = 128

func (c *conn) onGoAway(f frame, p []byte) *ConnError {
	if f.stream != 0 {
		return connErr(ProtocolError, "GOAWAY on a stream")
	}
	if len(p) < 8 {
		return connErr(FrameSizeError, "GOAWAY below 8 octets")
	}
	last := binary.BigEndian.Uint32(p) & maxStreamID
	why := &ConnError{Code: Code(binary.BigEndian.Uint32(p[4:])), Remote: true, Reason: string(p[8:min(len(p), 8+debugMax)])}
	c.peerGoneAway = true
	if c.client {
		c.streams.each(func(s *stream) {
			if s.id > last { // RFC 9113 §6.8: has not been and will not be processed
				c.breakStream(s, &StreamError{ID: s.id, Code: why.Code, Remote: true, NotExecuted: true, Err: why}, closedByUs)
			}
		})
	}
	c.role.goneAway()
	return c.spend()
}

func (c *conn) onWindowUpdate(f frame, p []byte) *ConnError {
	if len(p) != 4 {
		return connErr(FrameSizeError, "WINDOW_UPDATE not of 4 octets")
	}
	if err := c.spend(); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(p) & maxWindowSize)
	if f.stream == 0 {
		if n == 0 {
			return connErr(ProtocolError, "WINDOW_UPDATE of 0")
		}
		if c.sendWin+n > maxWindowSize {
			return connErr(FlowControlError, "WINDOW_UPDATE overflows the connection's window")
		}
		c.sendWin += n
		c.sendMax = max(c.sendMax, c.sendWin)
		c.wakeWriters()
		c.role.opening()
		return nil
	}
	s := c.streams.get(f.stream)
	if s == nil {
		if c.role.idle(f.stream) {
			return connErr(ProtocolError, "WINDOW_UPDATE on an idle stream")
		}
		return nil
	}
	if n == 0 {
		return c.fault(s, ProtocolError, "WINDOW_UPDATE of 0")
	}
	if s.sendWin+n > maxWindowSize {
		return c.fault(s, FlowControlError, "WINDOW_UPDATE overflows the stream's window")
	}
	s.sendWin += n
	s.wcond.Signal()
	c.gauge(s)
	c.role.opening()
	return nil
}

// replenish gives the peer window back on receipt: up to c.window, as long as there is room
// for what was not read yet. mu is held.
func (c *conn) replenish() {
	if c.err != nil {
		return
	}
	more := min(c.window, c.bufMax-c.buffered) - c.recvWin
	if more < c.window/2 && (more <= 0 || c.recvWin >= minMaxFrame) {
		return
	}
	c.out = appendWindowUpdate(c.out, 0, more)
	c.recvWin += more
	if c.window < c.cfg.MaxWindow && c.bdp.start() {
		c.out = appendPing(c.out, 0, pingBDP)
	}
	c.kick()
}

// consumed counts n octets of s as read and gives window back. mu is held.
func (c *conn) consumed(s *stream, n int) {
	c.buffered -= n
	c.giveBack(s, n)
	c.replenish()
}

// giveBack returns n octets of the stream's window, in portions of half of it. mu is held.
func (c *conn) giveBack(s *stream, n int) {
	s.consumed += n
	s.taken += n
	if s.inTable && !s.recvEnd && s.consumed >= s.window/2 {
		most := c.window
		if c.cfg.Near {
			most = min(most, s.taken)
		}
		if more := most - s.window; more > 0 && (!c.cfg.Near || s.taken >= nearTaken*c.cfg.InitialWindow) && (c.cfg.Budget == nil || c.cfg.Budget.Take(more)) {
			s.window += more
			s.extra += more
			s.consumed += more
			c.bufMax += more
		}
		c.out = appendWindowUpdate(c.out, s.id, s.consumed)
		s.recvWin += s.consumed
		s.consumed = 0
		c.kick()
	}
}

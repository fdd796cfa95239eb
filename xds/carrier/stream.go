package carrier

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// stream is a call.
type stream struct {
	c    *conn
	id   uint32
	stop context.CancelFunc // of a conversation

	// Of the reader.
	rest  []byte // of a message that is not whole
	taken int    // bytes since the last WINDOW_UPDATE
	done  bool   // nothing more is taken

	call *call // nil for a conversation

	// Guarded by the writer's mutex.
	talk    Conversation // nil until it was opened
	said    bool         // the client has said all
	window  int64
	gone    bool
	sending bool // a goroutine sends what is due
	again   bool // and is to look once more
	refused *status.Status
	headed  bool // the response's head was sent; of the sender alone
}

// call is a unary one.
type call struct {
	unary
	timeout time.Duration
	message []byte
	got     bool
}

func (c *conn) converse(s *stream, open Opener, ended bool) error {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(c.ctx)
	c.enter(s)
	talk, err := c.guardedOpen(ctx, open, s)
	if err != nil {
		s.refuse(err)
		return nil
	}
	c.w.mu.Lock()
	s.talk = talk
	c.w.mu.Unlock()
	if ended {
		s.ended()
	}
	s.wake() // for what was due before there was a conversation to ask
	return nil
}

func (c *conn) guardedOpen(ctx context.Context, open Opener, s *stream) (_ Conversation, err error) {
	defer c.s.caught(&err)
	return open(ctx, s.wakeBy)
}

// caught turns a panic into the end of one call.
func (s *Server) caught(err *error) {
	if p := recover(); p != nil {
		s.cfg.Log.Error("a call failed by a fault of ours", "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error")
	}
}

// receive takes bytes of messages. It is called by the reader.
func (s *stream) receive(b []byte) {
	if s.done || len(b) == 0 {
		return
	}
	rest, err := assemble(s.rest, b, s.c.s.cfg.MessageMax, func(m []byte) (err error) {
		s.c.credit = min(s.c.credit+idleEach, idleFrames)
		defer s.c.s.caught(&err)
		if s.call == nil {
			return s.talk.Take(m) // only the reader set it
		}
		if s.call.got {
			return status.Error(codes.Internal, "a call of one message has more than one")
		}
		s.call.got, s.call.message = true, append([]byte(nil), m...)
		return nil
	})
	s.rest = rest
	if err != nil {
		s.refuse(err)
	}
}

// ended is called by the reader when the client has said all.
func (s *stream) ended() {
	s.c.w.mu.Lock()
	s.said = true
	s.c.w.mu.Unlock()
	if s.done {
		return
	}
	switch {
	case s.call != nil && s.call.got:
		s.done = true
		go s.serve()
	case s.call != nil:
		s.refuse(status.Error(codes.Internal, "a call of one message has none"))
	default:
		s.refuse(nil)
	}
}

// refuse ends the call with a status; nil is OK.
func (s *stream) refuse(err error) {
	s.done, s.rest = true, nil
	s.c.w.mu.Lock()
	if s.refused == nil {
		s.refused = status.Convert(err)
		if err == nil {
			s.refused = status.New(codes.OK, "")
		}
	}
	s.c.w.mu.Unlock()
	s.wake()
}

// wake sees to it that what is due is sent: by the goroutine that sends, or by one that begins now.
func (s *stream) wake() { s.wakeBy(false) }

// wakeBy is wake; here says that the caller sends, as far as nothing makes it wait.
func (s *stream) wakeBy(here bool) {
	w := s.c.w
	w.mu.Lock()
	begin := !s.gone && !s.sending
	if begin {
		s.sending = true
	} else {
		s.again = true
	}
	w.mu.Unlock()
	switch {
	case begin && here:
		s.sendNow()
	case begin:
		go s.send(nil)
	}
}

// sendNow sends one message without waiting, and leaves the rest to a goroutine if there is any.
func (s *stream) sendNow() {
	w := s.c.w
	m, _, _ := s.next() // an end is said again
	if m == nil || !w.now(s, !s.headed, m) {
		go s.send(m)
		return
	}
	s.headed = true
	w.mu.Lock()
	done := !s.again && s.refused == nil
	if done {
		s.sending = false
	}
	w.mu.Unlock()
	if !done {
		go s.send(nil)
	}
}

// send writes m, unless it is nil, and what is due until there is no more.
func (s *stream) send(m mem.BufferSlice) {
	w := s.c.w
	if m != nil {
		if !w.message(s, !s.headed, m) {
			return // gone, or the connection is
		}
		s.headed = true
	}
	for {
		w.mu.Lock()
		refused := s.refused
		s.again = false
		w.mu.Unlock()
		if refused != nil {
			s.finish(refused)
			return
		}
		m, ended, err := s.next()
		if m != nil {
			if !w.message(s, !s.headed, m) {
				return // gone, or the connection is
			}
			s.headed = true
			continue
		}
		if ended {
			st := status.Convert(err)
			if err == nil {
				st = status.New(codes.OK, "")
			}
			s.finish(st)
			return
		}
		w.mu.Lock()
		if !s.again {
			s.sending = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// next asks the conversation; there is none where one was refused.
func (s *stream) next() (m mem.BufferSlice, ended bool, err error) {
	s.c.w.mu.Lock()
	talk := s.talk
	s.c.w.mu.Unlock()
	if talk == nil {
		return nil, false, nil
	}
	defer func() {
		if err != nil && m == nil {
			ended = true
		}
	}()
	defer s.c.s.caught(&err)
	return talk.Next()
}

// finish writes the trailers and forgets the stream. A client that has not said all is told that it need not (RFC
// 9113 §8.1).
func (s *stream) finish(st *status.Status) {
	w := s.c.w
	w.mu.Lock()
	if !s.gone {
		w.add(func(b []byte) []byte {
			b = appendTrailers(b, s.id, !s.headed, st)
			if s.said {
				return b
			}
			return append(frame(b, http2.FrameRSTStream, 0, s.id, 4), 0, 0, 0, byte(http2.ErrCodeNo))
		})
	}
	w.mu.Unlock()
	s.c.gone(s)
}

// serve runs a unary call.
func (s *stream) serve() {
	ctx, stop := s.c.ctx, context.CancelFunc(func() {})
	if s.call.timeout > 0 {
		ctx, stop = context.WithTimeout(ctx, s.call.timeout)
	}
	defer stop()
	reply, err := s.run(ctx)
	w := s.c.w
	if err == nil {
		if !w.message(s, true, reply) {
			return
		}
		s.headed = true
	}
	st := status.Convert(err)
	if err == nil {
		st = status.New(codes.OK, "")
	} else if ctx.Err() != nil && st.Code() == codes.Unknown {
		st = status.FromContextError(ctx.Err())
	}
	s.finish(st)
}

func (s *stream) run(ctx context.Context) (_ mem.BufferSlice, err error) {
	defer s.c.s.caught(&err)
	codec := encoding.GetCodecV2(proto.Name)
	reply, err := s.call.desc.Handler(s.call.impl, ctx, func(v any) error {
		if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(s.call.message)}, v); err != nil {
			return status.Error(codes.Internal, fmt.Sprintf("the message is not understood: %v", err))
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return codec.Marshal(reply)
}

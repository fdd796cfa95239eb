package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// continueTime is how long an Expect: 100-continue is waited on before the body is sent
// all the same (RFC 9110 §10.1.1 asks clients not to wait for ever; curl waits as long).
const continueTime = time.Second

// body is the request's body: whole in memory if it is announced to be small, else a stream
// whose beginning is kept. Either can be sent again while all that was read of it is there.
type body struct {
	// small is the whole, or the beginning of a stream; the latter belongs to the upload.
	small []byte
	// stream says that the body is read from the exchange while it is sent.
	stream bool
	// waits says that it is not read before the other side wants it.
	waits bool
	// spent says that more was read than is kept: there is no other try. Guarded by request.mu.
	spent bool
	// begun says, of a body that is known to be larger than what is kept, that nothing of it is.
	begun bool
	// read says that the client's end of the body was seen.
	read bool
}

func (r *request) takeBody() *refusal {
	h := &r.head
	b := &r.body
	if r.rec.Fallback != "" && b.read {
		return nil // it was taken for the service that failed
	}
	b.small = b.small[:0]
	switch {
	case r.tunnels():
		return nil
	case h.Length == 0:
		b.read = true
		return nil
	case r.tooLarge(h.Length):
		return r.bodyTooLarge()
	case h.Length < 0 && !h.Expect100 && r.whole():
		return nil
	case h.Length < 0 || h.Length > r.replayable() || h.Expect100:
		b.stream, b.waits = true, h.Expect100
		b.begun = h.Length > r.replayable()
		return nil
	}
	n := int(h.Length)
	if cap(b.small) < n {
		b.small = make([]byte, n)
	}
	b.small = b.small[:n]
	r.ex.SetDeadline(earlier(r.proxy.cfg.Now().Add(stall), r.deadline))
	got, err := io.ReadFull(r.ex, b.small)
	r.rec.RequestBytes = int64(got)
	if err != nil {
		return refusedBody(err)
	}
	b.read = true
	r.pace(n)
	return nil
}

// whole takes a body of no announced length that has come already, as those of unary calls of gRPC
// mostly have: it then needs no goroutine beside the answer. False, and nothing read, if it has not or is
// larger than what is kept.
func (r *request) whole() bool {
	w, ok := r.ex.(interface{ Whole() (int, bool) })
	if !ok {
		return false
	}
	n, all := w.Whole()
	if !all {
		runtime.Gosched() // let whoever reads for it run once: the body often stands behind the head in the same packet
		n, all = w.Whole()
	}
	if !all || int64(n) > r.replayable() || r.tooLarge(int64(n)) {
		return false
	}
	b := &r.body
	b.small = slices.Grow(b.small, n)[:n]
	if _, err := io.ReadFull(r.ex, b.small); err != nil { // the client has reset it since
		b.small = b.small[:0]
		return false
	}
	r.rec.RequestBytes, b.read = int64(n), true
	r.pace(n)
	return true
}

// replayable is the largest body that is kept for another try.
func (r *request) replayable() int64 {
	if r.limits != nil && r.limits.ReplayBody != 0 {
		return int64(max(r.limits.ReplayBody, 0))
	}
	return mesh.MaxReplayBody
}

// tooLarge holds the size of the request's body against the limit of the service.
func (r *request) tooLarge(size int64) bool {
	return r.limits != nil && r.limits.RequestBody > 0 && size > r.limits.RequestBody
}

// answerTooLarge is the same for the answer's.
func (r *request) answerTooLarge(size int64) bool {
	return r.limits != nil && r.limits.ResponseBody > 0 && size > r.limits.ResponseBody
}

var errBodyTooLarge = errors.New("it exceeds what the policy of the service allows")

func (r *request) bodyTooLarge() *refusal {
	return refuse(mesh.ReasonBodyTooLarge, fmt.Sprintf("the body has more than the %d bytes that the policy of the service allows", r.limits.RequestBody))
}

// oversized is a response that exceeds a limit of the service: the server's fault, and another
// would answer no less.
func oversized(reason mesh.Reason, what string, most int64) *refusal {
	ref := refuse(reason, fmt.Sprintf("the %s of the response has more than the %d bytes that the policy of the service allows", what, most))
	ref.status = 502
	return ref
}

// refusedBody says why a request's body, or its client, is no good.
func refusedBody(err error) *refusal {
	detail := "read the request: " + err.Error()
	switch {
	case errors.Is(err, errEvicted):
		return refuse(mesh.ReasonOverloaded, err.Error())
	case errors.Is(err, errBodyTooLarge):
		return refuse(mesh.ReasonBodyTooLarge, detail)
	case timedOut(err):
		ref := refuse(mesh.ReasonTimeout, detail)
		ref.status = 408 // RFC 9110 §15.5.9: it is the client who was late
		return ref
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, errClientLeft), isNetwork(err):
		return refuse(mesh.ReasonClientGone, detail)
	}
	return refuse(mesh.ReasonMalformed, detail)
}

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, net.ErrClosed)
}

// exchange sends head and body on the stream in use, and reads the final head of the
// answer into reply.
func (r *request) exchange(s message.Stream) (end bool, err error) {
	b := &r.body
	switch {
	case r.tunnels():
		r.head.Length = 0
		err = s.Send(&r.head, false)
	case b.stream:
		if err = s.Send(&r.head, false); err == nil && !b.waits {
			r.startUpload(s)
		}
	case len(b.small) == 0:
		r.head.Length = 0
		err = s.Send(&r.head, true)
	default:
		if err = s.Send(&r.head, false); err == nil {
			// An error here is told by Receive, unless the server has answered early.
			if _, werr := s.Write(b.small); werr == nil {
				_ = s.CloseWrite(nil)
			}
		}
	}
	if err != nil {
		return false, err
	}
	return r.receive(s)
}

// receive reads heads until the final one. An early hint (103) is passed on; a 100 starts
// the body that waited for it and is not passed on: the client's engine sends its own.
func (r *request) receive(s message.Stream) (end bool, err error) {
	waits := r.body.stream && r.body.waits
	if waits {
		r.bound(earlier(r.proxy.cfg.Now().Add(continueTime), r.deadline))
	}
	for {
		r.reply.Reset()
		end, err = s.Receive(&r.reply)
		switch {
		case waits && timedOut(err) && !r.expired() && r.lostClient() == nil:
			waits = false
			r.startUpload(s)
			continue
		case err != nil:
			return false, err
		case r.reply.Status >= 200 || r.reply.Status == 101:
			r.clock()
			r.mu.Lock()
			r.headed, r.extended = true, time.Time{} // from now on time is a stall's, not the request's
			r.mu.Unlock()
			return end, nil
		case r.reply.Status == 100 && waits:
			waits = false
			r.startUpload(s)
		case r.reply.Status == 103:
			route.Strip(&r.reply)
			if err := r.ex.Respond(&r.reply, false); err != nil {
				r.lose(err)
				return false, err
			}
		}
	}
}

// earlier returns the earlier of two deadlines; zero is none.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// pass hands the answer on. From its first byte there is no other try.
func (r *request) pass(end bool) (balance.Outcome, *refusal) {
	s := r.stream
	outcome := balance.Served
	if r.reply.Status >= 500 {
		outcome = balance.Failed
	}
	if ref := r.translate(s, end); ref != nil {
		return outcome, ref
	}
	if !end && r.answerTooLarge(r.reply.Length) {
		return balance.Failed, oversized(mesh.ReasonBodyTooLarge, "body", r.limits.ResponseBody)
	}
	r.copyAnswer()
	r.prepareReply()
	if r.rec.Reason != mesh.ReasonNone && outcome == balance.Served && r.rec.Fallback == "" {
		outcome = balance.Shed // a refusal is quick, and says nothing of how quick an answer is
	}
	r.answered = true
	r.spend()
	r.movingAt(r.now)
	message.Cork(r.ex)
	r.lighten()
	r.tenant.Giving()
	err := r.ex.Respond(&r.reply, end)
	r.tenant.Given()
	if err != nil {
		return r.unheard(err)
	}
	if end {
		r.copy.Keep()
		r.clean = r.bodyRead()
		return outcome, nil
	}
	for n := 0; ; {
		if !message.Ready(s) && !message.Soon(s) {
			if err := message.Flush(r.ex); err != nil {
				return r.unheard(err)
			}
		}
		r.moving()
		var err, werr error
		n, err, werr = r.piece(s, n)
		switch {
		case errors.Is(err, errBodyTooLarge):
			return balance.Failed, oversized(mesh.ReasonBodyTooLarge, "body", r.limits.ResponseBody)
		case werr != nil:
			return r.unheard(werr)
		case errors.Is(err, io.EOF):
			r.copy.Keep()
			if err := r.ex.Finish(r.proxy.said.Trailers(route.StripTrailers(s.Trailers()), r.rec.Inbound)); err != nil {
				return r.unheard(err)
			}
			r.clean = r.bodyRead()
			return outcome, nil
		case err != nil:
			a := r.failed(err, mesh.ReasonReset)
			return a.outcome, a.refusal
		}
	}
}

// piece passes on what one read gives of the answer's body, after one that gave last bytes. For a client that has no room
// for it the buffer is a small one: the read may find the end, and those who take nothing hold little. So it is where
// nothing has come yet and little came last: streams rest for long. What is read is no more than there is room for, where
// that is some: who shuts his window in the middle of a large buffer would have us hold it.
func (r *request) piece(s message.Stream, last int) (n int, read, written error) {
	has, from := message.Room(r.ex), &r.proxy.dribbles
	if has >= copyDribble && (last >= copyDribble || message.Ready(s)) {
		from = &r.proxy.buffers
	}
	pooled := from.Get().(*[]byte)
	defer from.Put(pooled)
	buf := *pooled
	buf = buf[:min(len(buf), max(has, copyDribble))]
	if has == 0 {
		message.Settle(s)
	}
	n, read = s.Read(r.paced(buf))
	if r.rec.ResponseBytes += int64(n); r.answerTooLarge(r.rec.ResponseBytes) {
		return n, errBodyTooLarge, nil
	}
	if n > 0 {
		r.copy.Add(buf[:n])
		r.pace(n)
		if has == 0 {
			r.lighten()
			r.reply = message.Head{}
		}
		r.tenant.Giving()
		_, written = r.ex.Write(buf[:n])
		r.tenant.Given()
	}
	return n, read, written
}

// lightenFrom is how large a head is worth giving back, in bytes.
const lightenFrom = 1 << 10

// lighten gives back the large head of a request whose answer is about to wait for its client. What it is known by stays: once
// the answer has begun nothing else is asked for.
func (r *request) lighten() {
	if r.upload != nil || r.head.Size() < lightenFrom || message.Room(r.ex) > 0 { // an upload may still make copies of it
		return
	}
	old := r.head
	r.head = message.Head{HTTP2: old.HTTP2, Length: old.Length, Minor: old.Minor}
	r.head.Method, r.head.Authority, r.head.Scheme = old.Method, old.Authority, old.Scheme
	for _, b := range []*[]byte{&r.head.Method, &r.head.Authority, &r.head.Scheme, &r.rec.Method, &r.rec.Host, &r.rec.Path, &r.rec.RequestID} {
		if *b != nil {
			*b = r.head.Keep(*b)
		}
	}
	r.asks, r.body.small = policy.Request{}, nil
	message.Settle(r.ex)
}

// bodyRead reports whether the request's body had been read to its end by now.
func (r *request) bodyRead() bool {
	if r.upload == nil {
		return r.body.read
	}
	select {
	case <-r.upload:
		return r.body.read
	default:
		return false
	}
}

// unheard is an answer that the client did not take.
func (r *request) unheard(err error) (balance.Outcome, *refusal) {
	if gone := r.lostClient(); errors.Is(gone, errEvicted) {
		return balance.Abandoned, refusedBody(gone)
	}
	return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+err.Error())
}

// prepareReply turns the server proxy's answer into the application's.
func (r *request) prepareReply() {
	reason := mesh.ReasonNone
	if r.trusted { // an application's own word for it is not believed
		if why := r.reply.Get(FieldReason); why != nil {
			reason = mesh.Reason(why)
		}
		r.learn()
	}
	route.Strip(&r.reply)
	if r.rec.Fallback != "" {
		reason = r.fellBack(reason)
	}
	r.rec.Status, r.rec.Reason = r.reply.Status, reason
	if reason != mesh.ReasonNone {
		r.reply.Add(FieldReason, string(reason))
	}
	r.tell()
	if r.rec.Inbound && r.tunnels() && r.reply.Status/100 == 2 && !r.granted() {
		r.reply.Add(FieldNotSwitched, "1")
	}
	if r.backend != nil {
		route.FilterResponse(&r.reply, r.backend.Filters)
	}
	if r.matched != nil {
		route.FilterResponse(&r.reply, r.matched.Filters)
		if r.matched.CORS != nil {
			route.Share(&r.reply, r.ex.Request(), r.matched.CORS)
		}
	}
}

func joinHostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

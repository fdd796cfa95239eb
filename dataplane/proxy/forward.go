package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// freeTries is how many other endpoints are tried for a request that was never executed.
const freeTries = 3

// tryFloor is the least time a try is given when the service says nothing.
const tryFloor = time.Second

// forward tries endpoints until one answers, the rules forbid another try, or time is
// up.
func (r *request) forward() *refusal {
	if r.target.View == nil {
		return refuse(mesh.ReasonNoEndpoint, "service "+r.target.Name.String()+" has no endpoint in any cluster")
	}
	t := &r.target.Traffic
	r.head.Add(FieldTo, r.target.Name.String()+":"+strconv.Itoa(int(r.port)))
	r.limit()
	body, ref := r.takeBody()
	if ref != nil {
		return ref
	}
	r.target.Budget.Earn()
	ask := balance.Ask{Scope: r.scope, Strategy: t.Strategy, Tried: r.tried[:0]}
	free, paid := freeTries, r.retries()
	var last *refusal
	for {
		now := r.proxy.cfg.Now()
		ask.Now, ask.Rand = now.UnixNano(), r.proxy.cfg.Rand()
		pick, reason := r.target.View.Pick(&ask)
		if reason != mesh.ReasonNone {
			if last != nil {
				return last
			}
			return refuse(reason, "no endpoint of service "+r.target.Name.String()+" can be chosen")
		}
		outcome, ref := r.try(&pick, body, paid > 0)
		pick.Done(outcome, r.proxy.cfg.Now().UnixNano(), t.EjectAfter)
		if ref == nil || r.answered {
			return ref
		}
		last = ref
		switch {
		case body.spent || outcome == balance.Abandoned:
			return ref
		case ref.notExecuted && free > 0:
			free--
		case !ref.notExecuted && paid > 0 && r.head.Idempotent() && r.target.Budget.Spend():
			paid--
		default:
			return ref
		}
		if !r.deadline.IsZero() && !r.proxy.cfg.Now().Before(r.deadline) {
			return ref
		}
		if len(ask.Tried) < cap(ask.Tried) {
			ask.Tried = append(ask.Tried, pick.Endpoint)
		}
	}
}

// limit sets the deadline of the whole request: none for tunnels.
func (r *request) limit() {
	timeout := r.target.Traffic.RequestTimeout
	if r.matched != nil && r.matched.RequestTimeout != 0 {
		timeout = r.matched.RequestTimeout
	}
	r.deadline = time.Time{}
	if timeout > 0 && !r.tunnels() {
		r.deadline = r.rec.Start.Add(timeout)
	}
	r.ex.SetDeadline(r.deadline)
}

func (r *request) tunnels() bool { return r.head.IsConnect() || len(r.head.Upgrade) > 0 }

func (r *request) retries() int {
	if r.matched != nil && r.matched.Retry != nil {
		return r.matched.Retry.Attempts
	}
	return r.target.Traffic.Retries
}

// tryDeadline bounds one try. While another could follow, a try has as much as the policy
// says, or a second; the last one has all that is left.
func (r *request) tryDeadline(now time.Time, more bool) time.Time {
	limit := r.target.Traffic.TryTimeout
	if r.matched != nil && r.matched.TryTimeout != 0 {
		limit = max(r.matched.TryTimeout, 0)
	}
	if limit == 0 && more && r.head.Idempotent() {
		limit = tryFloor
	}
	if limit == 0 || r.tunnels() {
		return r.deadline
	}
	end := now.Add(limit)
	if !r.deadline.IsZero() && end.After(r.deadline) {
		return r.deadline
	}
	return end
}

// body is the request's body: whole in memory if it is small, so that it can be sent
// again, else a stream that can be sent once.
type body struct {
	small []byte
	// stream says that the body is read from the exchange while it is sent.
	stream bool
	// spent says that part of a stream was sent: there is no other try.
	spent bool
}

func (r *request) takeBody() (*body, *refusal) {
	h := r.ex.Request()
	switch {
	case r.tunnels():
		return &body{}, nil
	case h.Length == 0:
		return &body{}, nil
	case h.Length < 0 || h.Length > mesh.MaxReplayBody || h.Expect100:
		return &body{stream: true}, nil
	}
	b := &body{small: make([]byte, h.Length)}
	n, err := io.ReadFull(r.ex, b.small)
	r.rec.RequestBytes = int64(n)
	if err != nil {
		return nil, refuse(mesh.ReasonClientGone, "read the request's body: "+err.Error())
	}
	return b, nil
}

// try sends the request to one endpoint. A nil refusal says that the answer was passed
// on.
func (r *request) try(pick *balance.Pick, b *body, more bool) (balance.Outcome, *refusal) {
	r.rec.Tries++
	cluster, identities := r.target.View.Cluster(pick.Endpoint)
	r.rec.Cluster, r.rec.Endpoint = pick.Endpoint.Cluster, pick.Endpoint.Tag
	deadline := r.tryDeadline(r.proxy.cfg.Now(), more)
	s, err := r.proxy.cfg.Open(deadline, &Destination{Service: r.target.Name, Endpoint: pick.Endpoint, Cluster: cluster,
		Identities: identities, Connect: r.head.IsConnect(), Timeout: r.target.Traffic.ConnectTimeout})
	if err != nil {
		return r.failed(err, mesh.ReasonUnreachable)
	}
	defer s.Close()
	s.SetDeadline(deadline)
	if r.tunnels() {
		return r.tunnel(s)
	}
	upload, err := r.send(s, b)
	if err != nil && upload == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return r.failed(err, mesh.ReasonReset)
	}
	if upload != nil {
		defer upload.stop(r.ex)
	}
	end, err := r.receive(s)
	if err != nil {
		return r.failed(err, mesh.ReasonReset)
	}
	if why := r.reply.Get(FieldNotExecuted); why != nil {
		reason := mesh.Reason(why)
		outcome := balance.NeverExecuted
		if reason == mesh.ReasonOverloaded || reason == mesh.ReasonDraining {
			outcome = balance.Shed
		}
		return outcome, &refusal{status: r.reply.Status, reason: reason, detail: "the server proxy did not execute the request", notExecuted: !b.spent}
	}
	if more && r.retriable(r.reply.Status) && !b.spent && r.head.Idempotent() && r.reply.Get(FieldReason) == nil {
		return balance.Failed, &refusal{status: r.reply.Status, reason: mesh.ReasonNone, detail: "the application answered " + strconv.Itoa(r.reply.Status)}
	}
	return r.pass(s, end)
}

// retriable reports whether a status is worth another try.
func (r *request) retriable(status int) bool {
	if r.matched != nil && r.matched.Retry != nil && len(r.matched.Retry.Codes) > 0 {
		for _, c := range r.matched.Retry.Codes {
			if c == status {
				return true
			}
		}
		return false
	}
	return status == 502 || status == 503 || status == 504
}

// failed classifies an error that came before an answer (TRAFFIC: failure classes).
func (r *request) failed(err error, reason mesh.Reason) (balance.Outcome, *refusal) {
	var known interface{ Reason() mesh.Reason }
	if errors.As(err, &known) {
		reason = known.Reason()
	}
	detail := fmt.Sprintf("cluster %s: %v", r.rec.Cluster, err)
	switch {
	case reason == mesh.ReasonOwnFault:
		return balance.Abandoned, refuse(reason, detail)
	case errors.Is(err, message.ErrNotExecuted):
		ref := refuse(reason, detail)
		ref.notExecuted = true
		return balance.NeverExecuted, ref
	case timedOut(err):
		if !r.deadline.IsZero() && !r.proxy.cfg.Now().Before(r.deadline) {
			return balance.TimedOut, refuse(mesh.ReasonTimeout, detail)
		}
		return balance.TimedOut, refuse(mesh.ReasonTryTimeout, detail)
	}
	return balance.Failed, refuse(reason, detail)
}

// send sends head and body. A streamed body is sent by a goroutine that upload stops.
func (r *request) send(s message.Stream, b *body) (*upload, error) {
	switch {
	case b.stream:
		b.spent = true
		if err := s.Send(&r.head, false); err != nil {
			b.spent = false // nothing of the body has been read
			return nil, err
		}
		return r.startUpload(s), nil
	case len(b.small) == 0:
		r.head.Length = 0
		return nil, s.Send(&r.head, true)
	}
	if err := s.Send(&r.head, false); err != nil {
		return nil, err
	}
	if _, err := s.Write(b.small); err != nil {
		return nil, err
	}
	return nil, s.CloseWrite(nil)
}

// upload is a body on its way beside the answer.
type upload struct{ done chan struct{} }

func (r *request) startUpload(s message.Stream) *upload {
	u := &upload{done: make(chan struct{})}
	ex, rec := r.ex, &r.rec
	go func() {
		defer close(u.done)
		buf := make([]byte, copyBuffer)
		for {
			n, err := ex.Read(buf)
			rec.RequestBytes += int64(n)
			if n > 0 {
				if _, werr := s.Write(buf[:n]); werr != nil {
					return // the server answers, or the stream says why
				}
			}
			if errors.Is(err, io.EOF) {
				_ = s.CloseWrite(ex.Trailers())
				return
			}
			if err != nil {
				s.Close() // a body that broke off must not look whole
				return
			}
		}
	}()
	return u
}

// stop ends the upload when the answer is complete: what the client still sends is of no
// use to anybody.
func (u *upload) stop(ex message.Exchange) {
	select {
	case <-u.done:
	default:
		ex.SetDeadline(time.Unix(1, 0))
		<-u.done
	}
}

// receive reads heads until the final one. An early hint (103) is passed on, a 100 is
// not: the engine has sent its own.
func (r *request) receive(s message.Stream) (bool, error) {
	for {
		r.reply.Reset()
		end, err := s.Receive(&r.reply)
		if err != nil || r.reply.Status >= 200 || r.reply.Status == 101 {
			return end, err
		}
		if r.reply.Status == 103 {
			if err := r.ex.Respond(&r.reply, false); err != nil {
				return false, err
			}
		}
	}
}

// pass hands the answer on. From its first byte there is no other try.
func (r *request) pass(s message.Stream, end bool) (balance.Outcome, *refusal) {
	outcome := balance.Served
	if r.reply.Status >= 500 {
		outcome = balance.Failed
	}
	r.prepareReply()
	r.answered = true
	s.SetDeadline(r.deadline)
	cork(r.ex)
	if err := r.ex.Respond(&r.reply, end); err != nil {
		return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+err.Error())
	}
	if end {
		return outcome, nil
	}
	for {
		if !ready(s) {
			if err := flush(r.ex); err != nil {
				return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+err.Error())
			}
		}
		n, err := s.Read(r.buf)
		r.rec.ResponseBytes += int64(n)
		if n > 0 {
			if _, werr := r.ex.Write(r.buf[:n]); werr != nil {
				return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+werr.Error())
			}
		}
		if errors.Is(err, io.EOF) {
			if err := r.ex.Finish(s.Trailers()); err != nil {
				return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+err.Error())
			}
			return outcome, nil
		}
		if err != nil {
			_, ref := r.failed(err, mesh.ReasonReset)
			return balance.Failed, ref
		}
	}
}

// prepareReply turns the server proxy's answer into the application's.
func (r *request) prepareReply() {
	reason := mesh.ReasonNone
	if !r.rec.Inbound { // an application's own word for it is not believed
		reason = mesh.Reason(r.reply.Get(FieldReason))
	}
	if tag := r.reply.Get(FieldTag); tag != nil {
		r.rec.Endpoint = string(tag)
	}
	strip(&r.reply)
	r.rec.Status, r.rec.Reason = r.reply.Status, reason
	if reason != mesh.ReasonNone {
		r.reply.Add(FieldReason, string(reason))
	}
	if r.backend != nil {
		filterResponse(&r.reply, r.backend.Filters)
	}
	if r.matched != nil {
		filterResponse(&r.reply, r.matched.Filters)
	}
}

// leave forwards a request out of the mesh, as it came.
func (r *request) leave() *refusal {
	ctx, stop := context.WithTimeout(context.Background(), mesh.DefaultConnectTimeout)
	defer stop()
	r.head.CopyFrom(r.ex.Request())
	strip(&r.head)
	host, port, ref := authority(&r.head)
	if ref != nil {
		return ref
	}
	s, err := r.proxy.cfg.Outside(ctx, host+":"+strconv.Itoa(int(port)), r.head.IsConnect())
	if err != nil {
		_, ref := r.failed(err, mesh.ReasonUnreachable)
		return ref
	}
	defer s.Close()
	if r.tunnels() {
		_, ref := r.tunnel(s)
		return ref
	}
	r.deadline = r.rec.Start.Add(mesh.DefaultRequestTimeout)
	s.SetDeadline(r.deadline)
	_, ref = r.relay(s)
	return ref
}

// relay sends the request once and passes the answer on.
func (r *request) relay(s message.Stream) (balance.Outcome, *refusal) {
	b, ref := r.takeBody()
	if ref != nil {
		return balance.Abandoned, ref
	}
	upload, err := r.send(s, b)
	if upload != nil {
		defer upload.stop(r.ex)
	}
	if err != nil && upload == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return r.failed(err, mesh.ReasonReset)
	}
	end, err := r.receive(s)
	if err != nil {
		return r.failed(err, mesh.ReasonReset)
	}
	return r.pass(s, end)
}

package proxy

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tunnel asks for a tunnel (CONNECT, or an upgrade) and, when it is granted, copies bytes
// both ways until both directions have ended.
func (r *request) tunnel(s message.Stream) (balance.Outcome, *refusal) {
	r.head.Length = 0
	if err := s.Send(&r.head, false); err != nil {
		return r.failed(err, mesh.ReasonUnreachable)
	}
	end, err := r.receive(s)
	if err != nil {
		return r.failed(err, mesh.ReasonUnreachable)
	}
	if why := r.reply.Get(FieldNotExecuted); why != nil && !r.rec.Inbound {
		return balance.NeverExecuted, &refusal{status: r.reply.Status, reason: mesh.Reason(why),
			detail: "the server proxy could not open the tunnel", notExecuted: true}
	}
	granted := r.reply.Status/100 == 2 || r.reply.Status == 101
	if !granted {
		return r.pass(s, end)
	}
	r.prepareReply()
	if len(r.head.Upgrade) > 0 { // extended CONNECT answers 200 where HTTP/1.1 says 101 (RFC 8441 §5)
		r.reply.Status = 101
		r.reply.Upgrade = r.reply.Keep(r.head.Upgrade)
	}
	r.rec.Status = r.reply.Status
	r.answered = true
	if err := r.ex.Respond(&r.reply, false); err != nil {
		return balance.Abandoned, refuse(mesh.ReasonClientGone, "answer the client: "+err.Error())
	}
	s.SetDeadline(time.Time{})
	r.ex.SetDeadline(time.Time{})
	return balance.Served, r.splice(s)
}

// splice copies both directions; each half-closes the other side when it ends, and the
// first error breaks both.
func (r *request) splice(s message.Stream) *refusal {
	var up sync.WaitGroup
	var upErr error
	up.Go(func() {
		upErr = copyBytes(s, r.ex, &r.rec.RequestBytes, make([]byte, copyBuffer))
		if upErr == nil {
			upErr = s.CloseWrite(nil)
		}
		if upErr != nil {
			s.SetDeadline(time.Unix(1, 0)) // the other direction has nobody to talk to
		}
	})
	err := copyBytes(r.ex, s, &r.rec.ResponseBytes, r.buf)
	if err == nil {
		err = r.ex.Finish(nil)
	} else {
		r.ex.SetDeadline(time.Unix(1, 0))
	}
	up.Wait()
	if err := errors.Join(upErr, err); err != nil {
		return refuse(mesh.ReasonReset, "the tunnel broke: "+err.Error())
	}
	return nil
}

func copyBytes(to io.Writer, from io.Reader, count *int64, buf []byte) error {
	for {
		n, err := from.Read(buf)
		*count += int64(n)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Engines may let a caller hold writes back until it would wait (http1.Exchange.Cork);
// those that cannot send at once.

func cork(ex message.Exchange) {
	if c, ok := ex.(interface{ Cork() }); ok {
		c.Cork()
	}
}

func flush(ex message.Exchange) error {
	if f, ok := ex.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}

// ready reports whether a Read would return at once; a stream that cannot say is taken
// to wait.
func ready(s message.Stream) bool {
	r, ok := s.(interface{ Ready() bool })
	return ok && r.Ready()
}

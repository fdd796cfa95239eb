package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// granted reports whether the answer opens the tunnel that was asked for: 2xx to CONNECT
// (RFC 9110 §9.3.6), 101 to an upgrade (§7.8), which between proxies is 200 to extended CONNECT
// (RFC 8441 §5) unless the server proxy says that its application did not switch.
func (r *request) granted() bool {
	ok := r.reply.Status/100 == 2
	switch {
	case r.carriesBytes():
		return ok
	case len(r.head.Upgrade) > 0:
		return r.reply.Status == 101 || ok && (r.far.IsHTTP2() || r.trusted && !r.reply.Has(FieldNotSwitched))
	}
	return false
}

// tunnel tells the client that the tunnel is open and copies bytes both ways until both
// directions have ended.
func (r *request) tunnel() (balance.Outcome, *refusal) {
	if err := r.socket.Settle(&r.reply, r.far.IsHTTP2()); err != nil {
		return balance.Failed, refuse(mesh.ReasonProtocol, "the application broke the protocol: "+err.Error())
	}
	r.prepareReply()
	if len(r.head.Upgrade) > 0 { // extended CONNECT answers 200 where HTTP/1.1 says 101 (RFC 8441 §5)
		r.reply.Status = 101
		r.reply.Upgrade = r.reply.Keep(r.head.Upgrade)
	}
	r.rec.Status = r.reply.Status
	r.answered = true
	r.ex.SetDeadline(r.proxy.cfg.Now().Add(answerTime))
	if err := r.ex.Respond(&r.reply, false); err != nil {
		return r.unheard(err)
	}
	if r.idles() {
		r.moving()
	} else {
		r.ex.SetDeadline(time.Time{})
		r.bound(time.Time{})
	}
	if f := r.proxy.cfg.Opened; f != nil {
		f(&r.rec)
	}
	r.live()
	defer r.dead()
	if r.rec.Protocol == mesh.ProtocolUDP {
		return r.datagrams()
	}
	// It is over when its ends say so: how long it lasted tells nothing of the endpoint's
	// speed, only that it lives. Shed is the outcome that measures nothing and counts as alive.
	if down, up, ok := tunnel.Sockets(r.ex, r.stream); ok {
		return balance.Shed, r.hand(down, up)
	}
	return balance.Shed, r.splice()
}

// datagrams is splice for a session of UDP. No handshake shows that nobody listens: a session that breaks
// is what a connection refused is in TCP, and speaks against the endpoint.
func (r *request) datagrams() (balance.Outcome, *refusal) {
	ref := r.splice()
	if ref != nil && ref.reason == mesh.ReasonReset {
		return balance.Failed, ref
	}
	return balance.Shed, ref
}

// hand passes bytes from socket to socket.
func (r *request) hand(down, up tunnel.End) *refusal {
	var idle time.Duration
	if r.idles() {
		idle = r.idle
	}
	pair := tunnel.NewPair(down, up, idle)
	r.mu.Lock()
	if r.pair = pair; r.cut != nil {
		pair.Cut(r.cut)
	}
	r.mu.Unlock()
	var there, back atomic.Int64
	defer func() { r.rec.RequestBytes, r.rec.ResponseBytes = there.Load(), back.Load() }() // also of what ends in a panic
	err := pair.Run(&there, &back)
	gone := r.lostClient()
	switch {
	case gone != nil:
		return r.broke(gone)
	case timedOut(err):
		return refuse(mesh.ReasonTimeout, "nothing moved in the tunnel for "+idle.String())
	case err != nil:
		return refuse(mesh.ReasonReset, "the tunnel broke: "+err.Error())
	}
	r.clean = true
	return nil
}

// splice copies both directions; each half-closes the other side when it ends, and the
// first error breaks both.
func (r *request) splice() *refusal {
	s := r.stream
	var up sync.WaitGroup
	var upErr error
	up.Go(func() {
		defer r.guard()
		if upErr = r.copyBytes(s, r.ex, &r.rec.RequestBytes); upErr == nil {
			upErr = s.CloseWrite(nil)
		}
		if upErr != nil {
			r.breakOff() // the other direction has nobody to talk to
		}
	})
	err := r.copyBytes(r.ex, s, &r.rec.ResponseBytes)
	if err == nil {
		err = r.ex.Finish(nil)
	}
	if err != nil {
		r.breakOff()
		r.ex.SetDeadline(past())
	}
	up.Wait()
	if gone := r.lostClient(); gone != nil {
		return r.broke(gone)
	}
	if err := errors.Join(upErr, err); err != nil {
		if r.idles() && timedOut(upErr) && timedOut(err) {
			return refuse(mesh.ReasonTimeout, "nothing moved in the tunnel for "+r.idle.String())
		}
		return refuse(mesh.ReasonReset, "the tunnel broke: "+err.Error())
	}
	r.clean = true
	return nil
}

// idles reports whether a policy ends a tunnel on which nothing moves. Without one it may be
// silent for as long as its ends bear it.
func (r *request) idles() bool { return r.idle != stall }

// breakOff ends what waits for the server; from now on nothing extends its time.
func (r *request) breakOff() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.bound(past())
}

// copyBytes copies until from ends; the error says which side failed. What fills the small buffer is
// bulk, for which there is a larger one: fewer system calls, at either end.
func (r *request) copyBytes(to io.Writer, from io.Reader, count *int64) error {
	pool := &r.proxy.buffers
	pooled := pool.Get().(*[]byte)
	defer func() { pool.Put(pooled) }()
	for {
		n, err := from.Read(*pooled)
		*count += int64(n)
		if n > 0 {
			if r.idles() {
				r.moving() // either way counts for both
			}
			if _, werr := to.Write((*pooled)[:n]); werr != nil {
				return fmt.Errorf("write: %w", werr)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		better := &r.proxy.buffers
		if n >= copyBuffer {
			better = &r.proxy.bulk
		}
		if better != pool {
			pool.Put(pooled)
			pool, pooled = better, better.Get().(*[]byte)
		}
	}
}

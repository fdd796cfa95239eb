package proxy

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
)

// startUpload sends the body beside the answer, on a goroutine that drop waits for.
func (r *request) startUpload(s message.Stream) {
	done := make(chan struct{})
	r.mu.Lock()
	r.upload = done
	r.body.spent = r.body.spent || r.body.begun
	r.mu.Unlock()
	r.moving() // here and not there: the next wait for the answer must find its new deadline
	go func() {
		defer close(done)
		defer r.guard()
		r.uploadBody(s)
	}()
}

// stopUpload ends the upload where it stands, so that what was read can be sent on another stream
// and the rest be read for that; the stream in use stays open.
func (r *request) stopUpload() {
	r.mu.Lock()
	upload := r.upload
	if upload == nil {
		r.mu.Unlock()
		return
	}
	select {
	case <-upload:
	default:
		r.ended = true
		r.ex.SetDeadline(past())
		r.stream.SetDeadline(past())
	}
	r.mu.Unlock()
	<-upload
	r.mu.Lock()
	r.upload, r.ended, r.extended = nil, false, time.Time{}
	r.mu.Unlock()
}

// remember keeps b, which was read of the body, for another try, while the whole is small enough.
func (r *request) remember(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := &r.body
	if !kept.spent && int64(len(kept.small)+len(b)) > r.replayable() {
		kept.spent = true
	}
	if !kept.spent {
		kept.small = append(kept.small, b...)
	}
}

// isSpent reports whether the body cannot be sent again.
func (r *request) isSpent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.body.spent
}

// spend says that there is no other try, so that nothing more is kept.
func (r *request) spend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.body.spent = true
}

// guard keeps a panic of ours on a request's second goroutine to that request.
func (r *request) guard() {
	if v := recover(); v != nil {
		if f := r.proxy.cfg.Panicked; f != nil {
			f(v, debug.Stack())
		}
		r.lose(fmt.Errorf("this proxy met a fault of its own: %v", v))
	}
}

// uploadBody copies until the body ends or either side fails, first what an earlier try has
// read. It touches of r what is under mu, and RequestBytes, body.small, body.read and copies,
// which others look at after it has ended.
func (r *request) uploadBody(s message.Stream) {
	if kept := r.body.small; len(kept) > 0 {
		if _, err := s.Write(kept); err != nil {
			return
		}
	}
	if r.body.read {
		r.endUpload(s)
		return
	}
	from := &r.proxy.dribbles
	pooled := from.Get().(*[]byte)
	defer func() { from.Put(pooled) }()
	for last := 0; r.moving(); {
		// Who sends little at a time is waited for with a small buffer: so do those who dribble.
		want := &r.proxy.dribbles
		if last >= copyDribble || message.Ready(r.ex) {
			want = &r.proxy.buffers
		}
		if want != from {
			from.Put(pooled)
			from, pooled = want, want.Get().(*[]byte)
		}
		buf := *pooled
		r.tenant.Asking()
		n, err := r.ex.Read(r.paced(buf))
		r.tenant.Told()
		last = n
		if r.rec.RequestBytes += int64(n); r.tooLarge(r.rec.RequestBytes) {
			r.lose(errBodyTooLarge)
			return
		}
		if n > 0 {
			r.keep(buf[:n])
			r.remember(buf[:n])
			r.pace(n)
			if _, werr := s.Write(buf[:n]); werr != nil {
				if errors.Is(err, io.EOF) {
					r.body.read = true
				}
				return // the server has answered, or Receive says why not
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			r.body.read = true
			r.endUpload(s)
			return
		case err != nil:
			r.mu.Lock()
			if !r.ended { // a body that broke off must not look whole
				r.cutLocked(err)
			}
			r.mu.Unlock()
			return
		}
	}
}

// endUpload ends the body.
func (r *request) endUpload(s message.Stream) {
	r.sendCopies(r.kept)
	_ = s.CloseWrite(route.StripTrailers(r.ex.Trailers()))
	r.uploaded(s)
}

// uploaded starts the clock of the answer.
func (r *request) uploaded(s message.Stream) {
	var end time.Time
	switch {
	case r.deadline.IsZero():
	case r.absolute:
		end = r.deadline
	default:
		end = r.proxy.cfg.Now().Add(r.deadline.Sub(r.rec.Start))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.headed && !r.ended && r.cut == nil {
		s.SetDeadline(end)
	}
}

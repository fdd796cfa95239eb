package proxy

import "errors"

// How a request ends before its time, whoever ends it.

// clientLeft is called by the engine, on a goroutine of its own and perhaps late.
func (r *request) clientLeft(use uint8) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.uses&1 == use {
		r.cutLocked(errClientLeft)
	}
}

var errClientLeft = errors.New("the client has left")

// lose cuts the request short: the client can send or hear no more.
func (r *request) lose(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutLocked(err)
}

func (r *request) cutLocked(err error) {
	if r.cut == nil {
		r.cut = err
		select {
		case r.wake <- struct{}{}:
		default:
		}
		if r.stream != nil {
			r.stream.SetDeadline(past())
		}
		if r.pair != nil {
			r.pair.Cut(err)
		}
	}
}

// lostClient is why the client is gone, or nil.
func (r *request) lostClient() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

package http2

// exchange is the server's side of a stream, and the goroutine that serves it.
type exchange struct {
	stream
	wake      chan struct{} // one per request; closed to end the goroutine
	served    bool          // the goroutine was started
	continued bool          // 100 (Continue) was sent
	headSize  int           // of server.heads
}

// takeWorker returns an exchange that is free, with its goroutine, or a new one without. mu is held.
func (s *server) takeWorker() *exchange {
	if n := len(s.free); n > 0 {
		x := s.free[n-1]
		s.free = s.free[:n-1]
		return x
	}
	x := &exchange{wake: make(chan struct{}, 1)}
	x.init(&s.conn)
	x.recycle()
	return x
}

// begin has x served. mu is held.
func (s *server) begin(x *exchange) {
	s.running++
	s.heads += x.headSize
	x.begun = true
	s.gauge(&x.stream)
	if !x.served {
		x.served = true
		s.workers.Add(1)
		go func() {
			defer s.workers.Done()
			for range x.wake {
				s.serve(x)
			}
		}()
	}
	x.wake <- struct{}{}
}

// freeMax bounds the workers that wait for work.
const freeMax = 256

// putBack frees what has been served. mu is held; x is not in the table.
func (s *server) putBack(x *exchange) {
	s.running--
	s.heads -= x.headSize
	s.release(x)
	s.pace.wake()
	s.parkedMayBegin()
}

// release keeps x for another request, or ends it. mu is held; x is not in the table.
func (s *server) release(x *exchange) {
	x.letGo()
	if !x.reusable() || s.err != nil || len(s.free) >= freeMax {
		if x.timer != nil {
			x.timer.Stop()
		}
		close(x.wake)
		return
	}
	x.continued = false
	x.recycle()
	s.free = append(s.free, x)
}

func (s *server) serve(x *exchange) {
	s.mu.Lock()
	gone := x.err != nil
	s.mu.Unlock()
	if !gone { // it may have been reset by what stood behind it in the same packet: then nobody has begun it
		s.call(x)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !x.inTable:
	case !x.sendEnd:
		s.reset(&x.stream, &StreamError{ID: x.id, Code: InternalError, Reason: "handler returned early"})
		s.costReset()
	default: // RFC 9113 §8.1: a complete response before the end of the request
		s.reset(&x.stream, &StreamError{ID: x.id, Code: NoError, Reason: "response complete"})
	}
	s.putBack(x)
}

func (s *server) call(x *exchange) {
	if s.cfg.Panic != nil {
		defer func() {
			if v := recover(); v != nil {
				s.cfg.Panic(v)
			}
		}()
	}
	s.handler(x)
}

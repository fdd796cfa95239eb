package http2

import "time"

// An answer that waits for its client's window (RFC 9113 §5.2) holds a goroutine, two heads and a connection of the
// application, for as long as the client likes. So a client gets no more worked on while it takes nothing: what it asks
// for beyond StuckStreams answers that it has shut the windows of is parked, a head and no more, until it takes
// something. An answer of which the client took freshOctets is none of those: it is slow, or it rests, as streams of gRPC
// do. And a client that has lately taken much by one window for all its streams may have as many more answers wait for that.
const (
	// freshOctets is how much of an answer shows that its client takes it, and how much of all answers allows one more
	// to wait, in octets of DATA.
	freshOctets = 4 << 10
	// allowanceTime is for how long at least what was taken counts, in nanoseconds; at most it is twice as long.
	allowanceTime = 10e9
	// parkOctets bounds the heads that are parked, as RFC 9113 §6.5.2 counts, and parkTime for how long, while the client
	// takes not one octet. Then they are refused as not executed: another connection or endpoint may have them.
	parkOctets = 128 << 10
	parkTime   = 10 * time.Second
)

// freshness is what is known of a stream's client: whether it takes the answer.
type freshness uint8

const (
	taken    freshness = iota // it has taken of it, or the handler has not begun or has ended
	untaken                   // it has not yet
	shutFrom                  // nor can it: the stream's window is shut
)

// allowance counts octets that were taken, all and lately.
type allowance struct {
	all, now, before int
	since            int64
}

// count adds n octets and returns how many there are.
func (a *allowance) count(n int, now int64) int {
	if now-a.since >= allowanceTime {
		if a.before = 0; now-a.since < 2*allowanceTime {
			a.before = a.now
		}
		a.now, a.since = 0, now
	}
	a.all += n
	a.now += n
	return a.now + a.before
}

// gauge counts s again. mu is held.
func (c *conn) gauge(s *stream) {
	f := taken
	if s.begun && s.inTable && s.given < freshOctets {
		if f = untaken; s.sendWin <= 0 {
			f = shutFrom
		}
	}
	if f != s.fresh {
		c.fresh[s.fresh]--
		c.fresh[f]++
		s.fresh = f
	}
}

// gave notes that n octets of DATA were sent, which the windows allowed. mu is held.
func (c *conn) gave(s *stream, n int) {
	c.taken.count(n, c.lastRead.Load())
	if s.given < freshOctets {
		s.given += n
		c.gauge(s)
	}
}

// stuck reports whether the client is given no more until it takes of what it has. mu is held.
func (s *server) stuck() bool {
	if s.cfg.StuckStreams < 0 {
		return false
	}
	n := s.fresh[shutFrom]
	if s.sendWin <= 0 {
		n += s.fresh[untaken]
	}
	return n >= s.cfg.StuckStreams && n >= s.cfg.StuckStreams+s.taken.count(0, s.lastRead.Load())/freshOctets
}

// parked are the requests that have not begun, in their order.
type parked struct {
	list   []*exchange
	octets int // of their heads
	timer  *time.Timer
	taken  int  // allowance.all when it was set
	told   bool // Config.Stuck was called
}

// park has x wait until its client takes something. mu is held.
func (s *server) park(x *exchange) {
	p := &s.parked
	x.parked = true
	p.list = append(p.list, x)
	p.octets += x.headSize
	if len(p.list) == 1 {
		s.refuseParkedIn(parkTime)
	}
	if !p.told && s.cfg.Stuck != nil {
		p.told = true
		s.workers.Go(s.cfg.Stuck)
	}
}

// parkedMayBegin begins those that may. mu is held.
func (s *server) parkedMayBegin() {
	for len(s.parked.list) > 0 && s.err == nil && !s.stuck() {
		x := s.parked.list[0]
		s.unlist(0)
		s.begin(x)
	}
}

// unpark lets go of one whose stream broke. mu is held.
func (s *server) unpark(st *stream) {
	for i, x := range s.parked.list {
		if &x.stream == st {
			s.unlist(i)
			s.release(x)
			return
		}
	}
}

func (s *server) unlist(i int) {
	p := &s.parked
	x := p.list[i]
	x.parked = false
	p.octets -= x.headSize
	n := i + copy(p.list[i:], p.list[i+1:])
	p.list[n] = nil
	p.list = p.list[:n]
}

// refuseParked resets those that were parked until began, as not executed. mu is held.
func (s *server) refuseParked(began int64) {
	for len(s.parked.list) > 0 && s.err == nil {
		x := s.parked.list[0]
		if left := x.began - began; left > 0 {
			s.refuseParkedIn(time.Duration(left))
			return
		}
		s.reset(&x.stream, &StreamError{ID: x.id, Code: RefusedStream, Reason: "the client takes no answers"})
		s.costReset()
	}
}

// refuseParkedIn has those refused that were parked parkTime before, unless the client has taken something in the
// meantime. mu is held.
func (s *server) refuseParkedIn(d time.Duration) {
	p := &s.parked
	p.taken = s.taken.all
	if p.timer != nil {
		p.timer.Reset(d)
		return
	}
	p.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case len(p.list) == 0 || s.err != nil:
		case s.taken.all != p.taken:
			s.refuseParkedIn(parkTime)
		default:
			s.refuseParked(s.cfg.Now() - int64(parkTime))
		}
	})
}

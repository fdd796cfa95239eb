package datagram

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/clock"
)

const (
	// DefaultSessions is how many sessions a port has at once.
	DefaultSessions = 4096
	// quiet is how long nothing must have passed in a session that makes room for another.
	quiet = 5 * time.Second
	// candidates bounds the search for one.
	candidates = 8
	// errorPause is how long receiving rests after an error that may pass.
	errorPause = 50 * time.Millisecond
)

// Socket is what a port needs of a *net.UDPConn.
type Socket interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	SetReadDeadline(time.Time) error
}

// Config is what a port works with; all but Most is required.
type Config struct {
	// Socket stays the caller's to close, after Serve or to end it at once.
	Socket Socket
	// Authority is the service and port ("service.namespace:port"), for the record.
	Authority string
	// Open carries a session to its end. Each is called on a goroutine of its own.
	Open func(message.Exchange)
	// Idle is how long nothing passes in a session before it ends.
	Idle func() time.Duration
	// Grace is how long sessions may wait for answers once the port takes no more.
	Grace func() time.Duration
	Clock clock.Clock
	// Dropped counts the datagrams that found no room.
	Dropped *atomic.Uint64
	// Most bounds the sessions; 0 is DefaultSessions. Each bounds those of one address, unless it is 0.
	Most, Each int
	// Ration, unless it is 0, is for clients who may not be who they say they are: the bytes of answers that each datagram of
	// theirs asks for. What is beyond is dropped, and answers alone keep no session, so that nobody can have more sent to an
	// address that is not his own, nor for longer than Idle.
	Ration int
}

// Port is one UDP socket and the sessions of the clients that send to it. When it is full, a session in
// which nothing has passed for five seconds makes room for a new one; if there is none, what a new client
// sends is dropped.
type Port struct {
	cfg Config
	run sync.WaitGroup

	mu       sync.Mutex
	sessions map[netip.AddrPort]*session
	by       map[netip.Addr]int    // how many of them an address has
	running  map[*session]struct{} // with those that make room and have not ended
	order    session               // ring by when the client last sent: order.newer is the oldest, order.older the newest
}

// NewPort returns a port that does nothing before Serve.
func NewPort(cfg Config) *Port {
	if cfg.Most <= 0 {
		cfg.Most = DefaultSessions
	}
	p := &Port{cfg: cfg, sessions: map[netip.AddrPort]*session{}, by: map[netip.Addr]int{}, running: map[*session]struct{}{}}
	p.order.newer, p.order.older = &p.order, &p.order
	return p
}

// Serve takes datagrams until ctx ends or the socket is closed, and returns when all sessions have ended:
// they get the grace for answers that are on their way, if the socket is still there to send them, and are
// cut off when hard ends.
func (p *Port) Serve(ctx, hard context.Context) {
	wake := context.AfterFunc(ctx, func() { _ = p.cfg.Socket.SetReadDeadline(time.Unix(1, 0)) })
	defer wake()
	cut := context.AfterFunc(hard, func() { p.each((*session).cut) })
	defer cut()
	if p.receive(ctx) {
		_ = clock.Wait(hard, p.cfg.Clock, p.cfg.Grace())
	}
	p.each((*session).end)
	p.run.Wait()
}

// receive reports whether it ended because ctx has.
func (p *Port) receive(ctx context.Context) bool {
	buf := make([]byte, MaxSize)
	for {
		n, from, err := p.cfg.Socket.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			p.take(from, buf[:n])
		case errors.Is(err, net.ErrClosed):
			return false
		case clock.Wait(ctx, p.cfg.Clock, errorPause) != nil:
			return true
		}
	}
}

// take gives a datagram to the session of its client, which it opens if there is none.
func (p *Port) take(from netip.AddrPort, d []byte) {
	now := p.cfg.Clock.Now().UnixNano()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[from]
	if s != nil && s.put(d, now) {
		s.leave()
		p.enter(s)
		return
	}
	if s != nil {
		p.forget(s)
	}
	if p.cfg.Each > 0 && p.by[from.Addr()] >= p.cfg.Each || !p.room(now) {
		p.cfg.Dropped.Add(1)
		return
	}
	s = newSession(p, from)
	s.put(d, now)
	p.sessions[from] = s
	p.by[from.Addr()]++
	p.enter(s)
	p.running[s] = struct{}{}
	p.run.Go(func() {
		defer p.over(s)
		p.cfg.Open(s)
	})
}

// fits reports whether one more may run. Those that were told to end may take a little while, and an eighth more
// than the bound is for them. The caller holds mu.
func (p *Port) fits() bool { return len(p.running) < p.cfg.Most+p.cfg.Most/8+1 }

// room makes room for one more session. The caller holds mu.
func (p *Port) room(now int64) bool {
	if len(p.sessions) < p.cfg.Most {
		return p.fits()
	}
	for range candidates {
		s := p.order.newer
		if now-s.moved.Load() >= int64(quiet) {
			s.end()
			p.forget(s)
			return p.fits()
		}
		s.leave() // it hears much and says little: not the one to go
		p.enter(s)
	}
	return false
}

// over is told that a session has ended.
func (p *Port) over(s *session) {
	s.end()
	if s.timer != nil {
		s.timer.Stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, s)
	if p.sessions[s.client] == s {
		p.forget(s)
	}
}

func (p *Port) each(f func(*session)) {
	p.mu.Lock()
	all := make([]*session, 0, len(p.running))
	for s := range p.running {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		f(s)
	}
}

// enter makes s the newest. The caller of these three holds mu.
func (p *Port) enter(s *session) {
	s.older, s.newer = p.order.older, &p.order
	s.older.newer, p.order.older = s, s
}

func (s *session) leave() {
	s.older.newer, s.newer.older = s.newer, s.older
}

func (p *Port) forget(s *session) {
	delete(p.sessions, s.client)
	if a := s.client.Addr(); p.by[a] > 1 {
		p.by[a]--
	} else {
		delete(p.by, a)
	}
	s.leave()
}

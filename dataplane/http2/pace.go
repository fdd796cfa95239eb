package http2

import (
	"sync"
	"time"
)

// pace is how fast a server takes up new streams of one connection. It stops reading while what was
// answered before is not taken: to refuse would cost us a head each and the client nothing. And it
// begins gently, as TCP does (RFC 5681 §3.1): a stranger's first hundreds of requests would stand in every queue before
// those of others and be in them when it shows that he takes no answers, or breaks off what he asked for. All fields
// are guarded by conn.mu; the reader alone waits.
type pace struct {
	s       *server
	turn    sync.Cond
	waiting bool
	most    int // handlers at once, for now
	heads   int // and octets of their heads
	timer   *time.Timer
	rising  bool // it is set
}

// paceEvery allows Config.FirstStreams more where the application is slow: by default all that may be open are
// reached within 140 ms.
const paceEvery = 20 * time.Millisecond

func (p *pace) init(s *server) {
	p.s, p.turn.L = s, &s.mu
	p.begin()
}

func (p *pace) begin() { p.most, p.heads = p.s.cfg.FirstStreams, p.s.cfg.FirstStreams*paceHead }

// wait waits until another stream may be opened. mu is held, and let go meanwhile.
func (p *pace) wait() *ConnError {
	s := p.s
	for s.err == nil {
		switch {
		case s.cfg.FirstStreams < 0:
			return nil
		case len(s.out) >= s.cfg.SendBuffer: // the flusher gets on within WriteTimeout, or the connection ends
			p.begin()
		case s.running >= p.most && p.most < s.cfg.MaxConcurrentStreams, s.running > 0 && s.heads+s.parser.size > p.heads:
			p.later()
		default:
			return nil
		}
		p.waiting = true
		p.turn.Wait()
		p.waiting = false
	}
	return s.err
}

// paceHead is how large heads are, on average, of which there may be so many as there may be streams, in octets as RFC
// 9113 §6.5.2 counts: a stranger's first 32 heads are 32 KiB together. Beyond what that makes of all streams time allows
// paceHeavy at once: large heads to a slow application would all be here before it shows that nobody takes its answers.
const paceHead, paceHeavy = 1 << 10, 8 << 10

// later has the bound rise although nothing ends.
func (p *pace) later() {
	if p.rising {
		return
	}
	p.rising = true
	if p.timer != nil {
		p.timer.Reset(paceEvery)
		return
	}
	p.timer = time.AfterFunc(paceEvery, func() {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		p.rising = false
		octets := p.s.cfg.FirstStreams * paceHead
		if p.heads >= p.s.cfg.MaxConcurrentStreams*paceHead {
			octets = paceHeavy
		}
		if p.s.flusherIdle { // the client takes what there is: it is the application that is slow
			p.grow(p.s.cfg.FirstStreams, octets)
		}
		p.wake()
	})
}

func (p *pace) grow(n, octets int) {
	p.most, p.heads = min(p.most+n, p.s.cfg.MaxConcurrentStreams), p.heads+octets
}

// wake lets the reader look again.
func (p *pace) wake() {
	if p.waiting {
		p.turn.Signal()
	}
}

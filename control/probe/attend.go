package probe

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
)

// A gateway that is to stop says so on connections to its own name, and is blind for what it passes:
// those who use it can only learn by way of us. So each gateway is attended by a connection of its own, which
// the path's few, wherever they lead, do not replace.

// attendEvery is how often an attended gateway is asked, and one that cannot be attended dialled again.
const attendEvery = time.Second

// deafMax is how long a gateway that does not answer is attended before it is dialled again.
const deafMax = 10 * time.Second

// stays is how many answers in a row prove that a gateway stays: one that leaves says so before the second.
const stays = 2

// attend follows each gateway until ctx ends. One alone is not attended: there is nothing else to use.
func (p *Prober) attend(ctx context.Context) {
	if len(p.cfg.Peer.Gateways) < 2 || p.cfg.Leaving == nil {
		return
	}
	for _, addr := range p.cfg.Peer.Gateways {
		p.tasks.Go(func() {
			for ctx.Err() == nil {
				err := p.attendOne(ctx, addr)
				// One that refuses has closed its port, and what it says before may have been missed.
				if errors.Is(err, errLeaving) || errors.Is(err, syscall.ECONNREFUSED) {
					p.leaves(addr, true)
				}
				if err != nil && ctx.Err() == nil {
					p.cfg.Log.Debug("a gateway cannot be attended", "peer", p.cfg.Peer.Name, "gateway", addr.String(), "error", err)
				}
				_ = clock.Wait(ctx, p.cfg.Clock, attendEvery) // the error is that of ctx
			}
		})
	}
}

// attendOne holds one connection to a gateway until it ends, and asks on it.
func (p *Prober) attendOne(ctx context.Context, addr netip.AddrPort) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	dctx, dialled := context.WithTimeout(ctx, dialMax)
	defer dialled()
	raw, err := p.cfg.Dial(dctx, addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	release := context.AfterFunc(ctx, func() { raw.Close() })
	defer release()
	c, err := p.greet(dctx, raw)
	if err != nil {
		return err
	}
	p.tasks.Go(func() {
		for c.ask() == nil && clock.Wait(ctx, p.cfg.Clock, attendEvery) == nil {
		}
		raw.Close()
	})
	answers := 0
	hears := func() { _ = c.SetReadDeadline(time.Now().Add(deafMax)) } // an error is that of the next read
	hears()
	return c.hear(func() {
		hears()
		if answers++; answers == stays {
			p.leaves(addr, false)
		}
	})
}

// leaves takes what is known of a gateway. One that was heard to leave and is not heard of again stays
// away; one that is only silent is others' business: dialers find another by themselves.
func (p *Prober) leaves(addr netip.AddrPort, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving[addr] == now {
		return
	}
	if now {
		p.leaving[addr] = true
	} else {
		delete(p.leaving, addr)
	}
	p.left = true
	p.cfg.Log.Info("a gateway leaves or is back", "peer", p.cfg.Peer.Name, "gateway", addr.String(), "leaving", now)
	p.stir()
}

// gone lists the gateways that are leaving, in order. The caller holds mu.
func (p *Prober) gone() []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(p.leaving), netip.AddrPort.Compare)
}

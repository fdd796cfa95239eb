package plane

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of looking after addresses.
const (
	// settleMax is how long a control plane that has started frees nothing: peers may not have been heard.
	settleMax = 10 * time.Minute
	// sweepMax is the longest pause between two looks at all addresses.
	sweepMax = 15 * time.Minute
	// claimAgain is the pause after the store did not take what was given.
	claimAgain = 200 * time.Millisecond
)

// addresses gives services addresses as the loop says that they want some. It is safe for concurrent use.
type addresses struct {
	plane *Plane
	// pool is nil where the cluster gives none.
	pool *address.Pool
	hold time.Duration
	wake chan struct{}

	mu    sync.Mutex
	needs map[mesh.ServiceName]compile.Need
	// look are the services to look at again.
	look map[mesh.ServiceName]bool
}

func newAddresses(p *Plane) (*addresses, error) {
	a := &addresses{plane: p, wake: make(chan struct{}, 1), needs: map[mesh.ServiceName]compile.Need{}, look: map[mesh.ServiceName]bool{}}
	if !p.cfg.ServiceRange.IsValid() {
		return a, nil
	}
	// Who missed that a service went can serve nobody once its certificate has ended.
	a.hold = max(p.cfg.CertificateTTL, address.DefaultHold)
	if p.cfg.AddressHold > 0 {
		a.hold = p.cfg.AddressHold
	}
	var err error
	a.pool, err = address.New(address.Config{Range: p.cfg.ServiceRange, Hold: a.hold, Store: p.store, Now: p.clock.Now, Log: p.log})
	return a, err
}

// Addresses gives services addresses; nil where the cluster has none to give.
func (p *Plane) Addresses() *address.Pool { return p.addresses.pool }

// need takes from the loop what a service wants; it never waits.
func (a *addresses) need(s mesh.ServiceName, n *compile.Need) {
	a.mu.Lock()
	if n == nil {
		delete(a.needs, s)
		a.pool.Note(s, "")
	} else {
		a.needs[s] = *n
	}
	a.mu.Unlock()
	a.touched(s)
}

// touched says that services may lack what they want; it never waits.
func (a *addresses) touched(services ...mesh.ServiceName) {
	if len(services) == 0 || a.pool == nil {
		return
	}
	a.mu.Lock()
	for _, s := range services {
		a.look[s] = true
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run gives addresses until ctx ends.
func (a *addresses) run(ctx context.Context) error {
	if a.pool == nil {
		return nil
	}
	select {
	case <-a.plane.read: // the own services are known
	case <-ctx.Done():
		return ctx.Err()
	}
	began := a.plane.clock.Now()
	sweep := a.plane.clock.NewTimer(0)
	defer sweep.Stop()
	for {
		all := false
		select {
		case <-a.wake:
		case <-sweep.C():
			all = true
			sweep.Reset(min(sweepMax, a.hold/96))
		case <-ctx.Done():
			return ctx.Err()
		}
		err := a.claim(ctx, all)
		if err == nil && all {
			free := a.plane.clock.Now().Sub(began) >= min(settleMax, a.hold/4)
			err = a.pool.Sweep(ctx, a.there, free)
		}
		if err != nil && ctx.Err() == nil {
			a.plane.log.Warn("the addresses of services could not be looked after; trying again", "error", err)
			if err := clock.Wait(ctx, a.plane.clock, claimAgain); err != nil {
				return err
			}
		}
	}
}

// claim gives every service what it wants if one of those to look at has not got it. What the world shows
// is asked first: the store only when there is something to give.
func (a *addresses) claim(ctx context.Context, all bool) error {
	a.mu.Lock()
	look := a.look
	a.look = map[mesh.ServiceName]bool{}
	lacking := all
	w := a.plane.loop.World()
	for s := range look {
		n, ok := a.needs[s]
		lacking = lacking || ok && !a.has(w, s, n)
	}
	var asks []address.Ask
	stated := map[netip.Addr]mesh.ServiceName{}
	for s, n := range a.needs {
		ask := address.Ask{Service: s}
		if n.Own.IsValid() {
			stated[n.Own] = s
			ask.Want, ask.Stands = n.Own, true
		} else if n.Pinned.IsValid() {
			ask.Want, ask.Takes, ask.OrAny = n.Pinned, n.Takes, n.Imported
		}
		if !n.Own.IsValid() || a.pool.Gives(n.Own) {
			asks = append(asks, ask)
		}
	}
	a.mu.Unlock()
	if !lacking {
		return nil
	}
	slices.SortFunc(asks, func(x, y address.Ask) int { return x.Service.Compare(y.Service) })
	answers, err := a.pool.Claim(ctx, asks, address.Options{Stated: stated})
	if err != nil {
		a.mu.Lock()
		for s := range look {
			a.look[s] = true
		}
		a.mu.Unlock()
		select {
		case a.wake <- struct{}{}:
		default:
		}
		return err
	}
	for i, ask := range asks {
		a.pool.Note(ask.Service, a.pool.Text(ask, answers[i], a.there))
	}
	return nil
}

// has reports whether the world shows that a service has what it wants.
func (a *addresses) has(w *world.World, s mesh.ServiceName, n compile.Need) bool {
	want := n.Own
	if !want.IsValid() {
		want = n.Pinned
	}
	if want.IsValid() {
		if !a.pool.Gives(want) && n.Own.IsValid() {
			return true
		}
		f, ok := w.Get(mesh.Key{Kind: mesh.KindServiceAddress, Origin: a.plane.cfg.Cluster, Name: want.String()})
		return ok && f.Value.(*mesh.ServiceAddress).Service == s
	}
	var counts *mesh.ServiceAddress
	for _, k := range w.Members(world.AddressesOf(s)) {
		if f, ok := w.Get(k); ok && k.Origin == a.plane.cfg.Cluster {
			if v := f.Value.(*mesh.ServiceAddress); counts == nil || compile.Later(v, counts) {
				counts = v
			}
		}
	}
	return counts != nil && a.pool.Gives(counts.Address) // the range may have been another
}

// there reports whether a service wants an address.
func (a *addresses) there(s mesh.ServiceName) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.needs[s]
	return ok
}

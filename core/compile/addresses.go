package compile

import (
	"cmp"
	"net/netip"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Need is what a service wants of the addresses of its consumer's cluster.
type Need struct {
	// Own is what the cluster's own Service states.
	Own netip.Addr
	// Pinned is what the cluster's own ServiceImport asks for, where there is no own Service.
	Pinned netip.Addr
	// Takes says that it is to have Pinned whoever else was given it.
	Takes bool
	// Imported says that peers export it, and that there is no own Service.
	Imported bool
}

// need says what address a service wants. An own Service without one, such as a headless one, wants none,
// whatever peers export under its name: it decides how the cluster sees the service.
func need(c *derive.Ctx, s mesh.ServiceName) *Need {
	if svc := own[mesh.Service](c, mesh.KindService, s.Namespace, s.Name); svc != nil {
		if len(svc.Addresses) == 0 {
			return nil
		}
		return &Need{Own: svc.Addresses[0]}
	}
	pin, takes := pinned(c, s)
	n := Need{Pinned: pin, Takes: takes, Imported: len(remotes(c, s)) > 0}
	if n == (Need{}) {
		return nil
	}
	return &n
}

// pinned is the address that an own ServiceImport asks for, and whether it takes it from others.
func pinned(c *derive.Ctx, s mesh.ServiceName) (a netip.Addr, takes bool) {
	if i := own[mesh.ServiceImport](c, mesh.KindServiceImport, s.Namespace, s.Name); i != nil {
		return i.Address, i.TakesAddress && i.Address.IsValid()
	}
	return netip.Addr{}, false
}

// given is the address that this cluster gave to a service: the pinned one if it is the service's, else the
// one given last. What is read are facts, so that a restart and every replica say the same.
func given(c *derive.Ctx, s mesh.ServiceName) netip.Addr {
	self := world.Self.Get(c, struct{}{})
	pin, _ := pinned(c, s)
	var best *mesh.ServiceAddress
	for _, k := range world.Index.Get(c, world.AddressesOf(s)) {
		f, ok := world.Facts.Get(c, k)
		if !ok || k.Origin != self {
			continue
		}
		a := f.Value.(*mesh.ServiceAddress)
		if a.Address == pin {
			return pin
		}
		if best == nil || Later(a, best) {
			best = a
		}
	}
	if best == nil {
		return netip.Addr{}
	}
	return best.Address
}

// Later reports whether, of two addresses of one service, a counts and not b.
func Later(a, b *mesh.ServiceAddress) bool {
	return cmp.Or(cmp.Compare(b.SinceMillis, a.SinceMillis), a.Address.Compare(b.Address)) < 0
}

package address

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// record is what is stored of an address.
type record struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// SinceMillis is when it was given; of several addresses of a service the one given last counts.
	SinceMillis int64 `json:"sinceMillis"`
	// SeenMillis is when its service was last known to be there, noted every quarter of the hold. Any
	// replica notes it, so that one that knows less of the mesh takes nothing from those who know more.
	SeenMillis int64 `json:"seenMillis"`
}

func (r record) service() mesh.ServiceName {
	return mesh.ServiceName{Namespace: r.Namespace, Name: r.Name}
}

func key(a netip.Addr) store.Key { return store.Key{Kind: Kind, Name: a.String()} }

func decode(o store.Object) (netip.Addr, record, error) {
	var r record
	a, err := netip.ParseAddr(o.Name)
	if err == nil {
		err = json.Unmarshal(o.Value, &r)
	}
	if err != nil {
		return a, r, fmt.Errorf("decode stored %s: %w", o.Key, err)
	}
	return a, r, nil
}

// Decode reads a stored object of Kind as what core/compile reads.
func Decode(o store.Object) (*mesh.ServiceAddress, error) {
	a, r, err := decode(o)
	if err != nil {
		return nil, err
	}
	return &mesh.ServiceAddress{Service: r.service(), Address: a, SinceMillis: r.SinceMillis}, nil
}

// Ask is a service's for an address.
type Ask struct {
	Service mesh.ServiceName
	// Want is the one it asks for by number; invalid is the one it has, or any.
	Want netip.Addr
	// Stands says that an own Service has Want already: it keeps it, whoever else was given it.
	Stands bool
	// Takes says that it is to have Want even if that was given to another service, or is held back: whoever
	// asks so has made sure that nobody is left who knows it as the other's. What an own Service states
	// stays its own.
	Takes bool
	// OrAny says that the one it has, or any, will do if Want is another service's.
	OrAny bool
}

// Refusal is why an ask was not answered with an address.
type Refusal uint8

// The refusals.
const (
	None Refusal = iota
	// Taken: the address is another service's.
	Taken
	// Exhausted: no address is left.
	Exhausted
	// Outside: the address is none that is given.
	Outside
)

// Answer is what became of an ask.
type Answer struct {
	Address netip.Addr
	// Refused says why Want was not given; with Ask.OrAny there may be an Address all the same.
	Refused Refusal
	// Owner has the address that was asked for, and Until is when it is free at the earliest if its owner
	// is gone.
	Owner mesh.ServiceName
	Until time.Time
}

// Text says why the ask was refused, "" if it was not. there says whether a service is still in the mesh.
func (p *Pool) Text(ask Ask, a Answer, there func(mesh.ServiceName) bool) string {
	switch a.Refused {
	case Taken:
		text := fmt.Sprintf("%s is the address of service %s", ask.Want, a.Owner)
		if !there(a.Owner) {
			text += ", which is gone: until " + a.Until.UTC().Format(time.RFC3339) + " it is held back, for proxies and applications that have not heard"
		}
		return text
	case Exhausted:
		return fmt.Sprintf("no address is left in %s; those of services that have gone are held back for %v", p.cfg.Range, p.cfg.Hold)
	case Outside:
		return fmt.Sprintf("%s is none of the addresses that this cluster gives: %s, host octets %d to %d", ask.Want, p.cfg.Range, firstHost, lastHost)
	}
	return ""
}

// book is what was given when it was read, and what is to be written.
type book struct {
	pool    *Pool
	now     time.Time
	guard   store.Precondition
	records map[netip.Addr]record
	stated  map[netip.Addr]mesh.ServiceName
	puts    map[netip.Addr]record
	drops   []netip.Addr
	byName  map[mesh.ServiceName]netip.Addr
	next    netip.Addr // below are none free
}

// plan answers the asks: first those for what stands already, then those by number, then the others, each
// in order. The same records and asks give the same answers, so that replicas seldom disagree.
func (b *book) plan(asks []Ask, stated map[netip.Addr]mesh.ServiceName) []Answer {
	b.stated, b.next = stated, b.pool.cfg.Range.Masked().Addr()
	out := make([]Answer, len(asks))
	for pass := range 3 {
		for i, a := range asks {
			rest := !a.Want.IsValid() || pass == 2 && a.OrAny && out[i].Refused != None
			switch {
			case pass == 0 && a.Want.IsValid() && a.Stands, pass == 1 && a.Want.IsValid() && !a.Stands:
				out[i] = b.byNumber(a)
			case pass == 2 && rest:
				out[i] = b.any(a.Service, out[i])
			}
		}
	}
	return out
}

// byNumber answers an ask for one address.
func (b *book) byNumber(a Ask) Answer {
	if !b.pool.Gives(a.Want) {
		return Answer{Refused: Outside}
	}
	if owner, taken := b.owner(a.Want); taken && owner != a.Service {
		_, stated := b.stated[a.Want]
		switch {
		case a.Stands:
			b.pool.cfg.Log.Warn("an own service states an address that was given to another, which gets a new one", "address", a.Want.String(),
				"service", a.Service.String(), "other", owner.String())
		case a.Takes && !stated:
			b.pool.cfg.Log.Info("an address is taken over as asked", "address", a.Want.String(), "service", a.Service.String(), "other", owner.String())
		default:
			return Answer{Refused: Taken, Owner: owner, Until: b.pool.heldUntil(b.records[a.Want])}
		}
	}
	b.give(a.Want, a.Service)
	return Answer{Address: a.Want}
}

// any answers an ask for the address that a service has, or for a free one. so is what is known of the
// answer.
func (b *book) any(s mesh.ServiceName, so Answer) Answer {
	if a, ok := b.current(s); ok && b.pool.Gives(a) { // the range may have been another
		b.give(a, s)
		so.Address = a
		return so
	}
	for ; b.pool.cfg.Range.Contains(b.next); b.next = b.next.Next() {
		if _, taken := b.owner(b.next); !taken && b.pool.Gives(b.next) {
			b.give(b.next, s)
			so.Address = b.next
			return so
		}
	}
	if so.Refused == None {
		so.Refused = Exhausted
	}
	return so
}

// owner is whose an address is.
func (b *book) owner(a netip.Addr) (mesh.ServiceName, bool) {
	if s, ok := b.stated[a]; ok {
		return s, true
	}
	r, ok := b.records[a]
	return r.service(), ok
}

// give writes an address down as a service's, or that it is still in use.
func (b *book) give(a netip.Addr, s mesh.ServiceName) {
	current, _ := b.current(s)
	if r, ok := b.records[a]; ok && r.service() == s && current == a {
		b.see(a, r)
		return
	}
	since := b.now.UnixMilli()
	if r, ok := b.records[current]; ok && r.service() == s {
		since = max(since, r.SinceMillis+1) // it counts now, whatever the clocks
	}
	b.put(a, record{s.Namespace, s.Name, since, b.now.UnixMilli()})
}

// see notes that an address is in use, if that was long enough ago. Clocks of replicas may differ: what was
// noted never goes back.
func (b *book) see(a netip.Addr, r record) {
	if b.now.Sub(time.UnixMilli(r.SeenMillis)) >= b.pool.seenEvery() {
		r.SeenMillis = b.now.UnixMilli()
		b.put(a, r)
	}
}

func (b *book) put(a netip.Addr, r record) {
	before, had := b.records[a]
	b.records[a], b.puts[a] = r, r
	if had && before.service() != r.service() {
		b.byName = nil // the other has lost one
	} else if b.byName != nil {
		b.count(a)
	}
}

// current is the address of a service that counts.
func (b *book) current(s mesh.ServiceName) (netip.Addr, bool) {
	if b.byName == nil {
		b.byName = make(map[mesh.ServiceName]netip.Addr, len(b.records))
		for a := range b.records {
			b.count(a)
		}
	}
	a, ok := b.byName[s]
	return a, ok
}

// count lets an address count for its service, if no later one does.
func (b *book) count(a netip.Addr) {
	s := b.records[a].service()
	if have, ok := b.byName[s]; !ok || have != a && compile.Later(b.fact(a), b.fact(have)) {
		b.byName[s] = a
	}
}

func (b *book) fact(a netip.Addr) *mesh.ServiceAddress {
	return &mesh.ServiceAddress{Address: a, SinceMillis: b.records[a].SinceMillis}
}

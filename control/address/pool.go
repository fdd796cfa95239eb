// Package address gives services addresses of their own in one cluster: to those that the cluster has, and
// to those that only other clusters have. Its one idea is that every address that was given stands in
// the store under its own number, and that all who give write through one key, so that no two replicas
// give one address twice, nor two addresses to one service.
//
// It does not decide what a service wants (core/compile and package api do), and tells no proxy: what is
// stored comes back to the control plane as a fact.
//
// Read Pool.Claim first, then Pool.Sweep.
package address

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kind is the store's kind of what was given; the name is the address.
const Kind = "ServiceAddress.isthmus.dev"

// rangeKey is written with every change of what is given, and by it alone replicas see that another was
// first: of addresses that are free nothing is stored that could be compared.
var rangeKey = store.Key{Kind: "AddressRange.isthmus.dev", Name: "services"}

// The host octets that services get.
const (
	firstHost = 10
	lastHost  = 254
)

// DefaultHold is how long the address of a service that has gone is held back: as long as a certificate
// lives. A proxy that heard nothing for so long may still know the old owner of an address, but opens no
// connection in the mesh any more.
const DefaultHold = 24 * time.Hour

// claimTries bounds how often a claim begins again because another replica was first; each time that one
// got on, and the context ends it before.
const claimTries = 256

// Store is where addresses are kept; *store.Store is one.
type Store interface {
	Get(ctx context.Context, key store.Key) (store.Object, error)
	List(ctx context.Context, scope store.Scope) ([]store.Object, int64, error)
	Batch(ctx context.Context, ops []store.Op) (int64, error)
}

// Config is what a Pool works with. Range, Store and Now are required.
type Config struct {
	// Range is what is given from, host octets 10 to 254 of each /24 of it.
	Range netip.Prefix
	// Hold is how long an address is held back after its service has gone; 0 is DefaultHold.
	Hold  time.Duration
	Store Store
	Now   func() time.Time
	Log   *slog.Logger // nil discards
}

// Validate reports every fault.
func (c Config) Validate() error {
	var faults []error
	if !c.Range.IsValid() || !c.Range.Addr().Is4() {
		faults = append(faults, fmt.Errorf("addresses of services: range %s: want a prefix of IPv4 addresses", c.Range))
	}
	if c.Hold < 0 {
		faults = append(faults, fmt.Errorf("addresses of services: hold %v is negative", c.Hold))
	}
	if c.Store == nil || c.Now == nil {
		faults = append(faults, errors.New("addresses of services: Store and Now must be set"))
	}
	return errors.Join(faults...)
}

// Pool gives addresses. It is safe for concurrent use, and so are several over one store.
type Pool struct {
	cfg Config
	// mu makes claims of one process take turns, which spares them conflicts.
	mu sync.Mutex

	noteMu sync.Mutex
	// problems are why services have not what they asked for.
	problems map[mesh.ServiceName]string
}

// New returns a pool.
func New(cfg Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Hold == 0 {
		cfg.Hold = DefaultHold
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Pool{cfg: cfg, problems: map[mesh.ServiceName]string{}}, nil
}

// Range is what addresses are given from.
func (p *Pool) Range() netip.Prefix { return p.cfg.Range }

// Gives reports whether a is one of the addresses that are given.
func (p *Pool) Gives(a netip.Addr) bool {
	return a.Is4() && p.cfg.Range.Contains(a) && a.As4()[3] >= firstHost && a.As4()[3] <= lastHost
}

// seenEvery is how often it is noted that the service of an address is still there.
func (p *Pool) seenEvery() time.Duration { return p.cfg.Hold / 4 }

// heldUntil is when an address that was last seen in use may be given to another service.
func (p *Pool) heldUntil(r record) time.Time {
	return time.UnixMilli(r.SeenMillis).Add(p.cfg.Hold + p.seenEvery())
}

// Claim answers each ask, and writes down what is new of it: nothing if one is refused and all is set, or
// if dry is. The answers stand at the places of the asks. The error is that of the store.
func (p *Pool) Claim(ctx context.Context, asks []Ask, o Options) ([]Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for try := 1; ; try++ {
		b, err := p.load(ctx)
		if err != nil {
			return nil, fmt.Errorf("give services addresses: %w", err)
		}
		answers := b.plan(asks, o.Stated)
		if o.Dry || o.All && anyRefused(answers) || len(b.puts) == 0 {
			return answers, nil
		}
		if err = p.write(ctx, b); err == nil {
			return answers, nil
		}
		if !contended(err) || try == claimTries {
			return nil, fmt.Errorf("give services addresses: %w", err)
		}
	}
}

// Options change how asks are answered.
type Options struct {
	// Dry writes nothing.
	Dry bool
	// All writes nothing if one ask is refused.
	All bool
	// Stated are addresses that own Services state, whether they were given or not.
	Stated map[netip.Addr]mesh.ServiceName
}

func anyRefused(answers []Answer) bool {
	for _, a := range answers {
		if a.Refused != None {
			return true
		}
	}
	return false
}

// contended reports whether another replica was first.
func contended(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound)
}

// Sweep notes which addresses are still used by the services that are there, and, if free is set, gives back
// those whose service, or whose service's use of them, has gone long enough ago.
func (p *Pool) Sweep(ctx context.Context, there func(mesh.ServiceName) bool, free bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.load(ctx)
	if err != nil {
		return fmt.Errorf("look after the addresses of services: %w", err)
	}
	for a, r := range b.records {
		current, _ := b.current(r.service())
		switch {
		case a == current && there(r.service()):
			b.see(a, r)
		case free && b.now.After(p.heldUntil(r)):
			b.drops = append(b.drops, a)
			p.cfg.Log.Info("the address of a service that has gone is free again", "service", r.service().String(), "address", a.String())
		}
	}
	if len(b.puts)+len(b.drops) == 0 {
		return nil
	}
	if err := p.write(ctx, b); err != nil && !contended(err) { // another replica did it
		return fmt.Errorf("look after the addresses of services: %w", err)
	}
	return nil
}

// load reads what was given. The guard is read first: what changes after it makes the write fail.
func (p *Pool) load(ctx context.Context) (*book, error) {
	b := &book{pool: p, now: p.cfg.Now(), records: map[netip.Addr]record{}, puts: map[netip.Addr]record{}}
	switch o, err := p.cfg.Store.Get(ctx, rangeKey); {
	case err == nil:
		b.guard = store.AtRevision(o.Revision)
	case errors.Is(err, store.ErrNotFound):
		b.guard = store.MustNotExist()
	default:
		return nil, err
	}
	objects, _, err := p.cfg.Store.List(ctx, store.Scope{Kind: Kind})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		a, r, err := decode(o)
		if err != nil {
			p.cfg.Log.Error("what is stored of an address cannot be read", "name", o.Name, "error", err)
			continue
		}
		b.records[a] = r
	}
	return b, nil
}

// write stores what is new, in as few transactions as the store allows, each of which fails if another
// replica wrote since b was loaded.
func (p *Pool) write(ctx context.Context, b *book) error {
	var ops []store.Op
	for a, r := range b.puts {
		value, err := json.Marshal(r)
		if err != nil {
			return err
		}
		ops = append(ops, store.Op{Object: store.Object{Key: key(a), Value: value}})
	}
	for _, a := range b.drops {
		ops = append(ops, store.Op{Object: store.Object{Key: key(a)}, Delete: true})
	}
	for len(ops) > 0 {
		n := min(len(ops), store.BatchMax-1)
		guard := store.Op{Object: store.Object{Key: rangeKey, Value: []byte("{}")}, Pre: b.guard}
		at, err := p.cfg.Store.Batch(ctx, append([]store.Op{guard}, ops[:n]...))
		if err != nil {
			return err
		}
		b.guard, ops = store.AtRevision(at), ops[n:]
	}
	return nil
}

// Note keeps why a service has not the address that it asked for, "" if it has; it is logged once.
func (p *Pool) Note(s mesh.ServiceName, problem string) {
	p.noteMu.Lock()
	defer p.noteMu.Unlock()
	switch {
	case problem == "":
		delete(p.problems, s)
	case p.problems[s] != problem:
		p.problems[s] = problem
		p.cfg.Log.Error("a service has not the address that it asked for", "service", s.String(), "error", problem)
	}
}

// Problem is what Note was told of a service last.
func (p *Pool) Problem(s mesh.ServiceName) string {
	p.noteMu.Lock()
	defer p.noteMu.Unlock()
	return p.problems[s]
}

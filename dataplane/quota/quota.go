// Package quota keeps the rate limits of a service at one server proxy. Its one idea is that who
// called, and what is asked for, is hashed to the name of a stream of requests, and core/limit says
// how fast a stream may be.
//
// It answers nobody and keeps nobody waiting. Limits of other proxies do not count here: a limit is
// each proxy's own. Read Limits first.
package quota

import (
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Limits are the rate limits of a service. What they are is immutable, what they count is not. They
// are safe for concurrent use; nil limits nothing.
type Limits struct {
	seed maphash.Seed // callers choose keys: which of them share a set is not theirs to know
	list []one
}

// one is a mesh.RateLimit with its streams.
type one struct {
	source mesh.RateLimit
	takes  route.Selector
	table  *limit.Table
}

// keysMax bounds the keys of one rate limit, 8 bytes each; see limit.Table for what happens
// beyond it.
const keysMax = 4096

// New compiles limits; those that are the same in prev, nil for none, keep what they counted. The
// error names the one that cannot be understood.
func New(in []mesh.RateLimit, prev *Limits) (*Limits, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := &Limits{seed: maphash.MakeSeed(), list: make([]one, len(in))}
	var counted []one
	if prev != nil {
		out.seed, counted = prev.seed, prev.list
	}
	for i, r := range in {
		if j := slices.IndexFunc(counted, func(p one) bool { return same(&p.source, &r) }); j >= 0 {
			out.list[i] = counted[j]
			continue
		}
		takes, err := route.NewSelector(r.Match)
		if err != nil {
			return nil, fmt.Errorf("rate limit %s: %w", r.Name, err)
		}
		keys := 1
		if len(r.Keys) > 0 {
			keys = keysMax
		}
		out.list[i] = one{r, takes, limit.NewTable(limit.Rate{Requests: r.Requests, Per: r.Per, Burst: r.Burst}, keys)}
	}
	return out, nil
}

func same(a, b *mesh.RateLimit) bool {
	return a.Name == b.Name && a.Requests == b.Requests && a.Per == b.Per && a.Burst == b.Burst && slices.Equal(a.Keys, b.Keys) &&
		slices.Equal(a.Match.Methods, b.Match.Methods) && slices.Equal(a.Match.Paths, b.Match.Paths) && slices.Equal(a.Match.Headers, b.Match.Headers)
}

// Take lets a request of a caller through, and returns 0; or the limit that does not, and how
// long to wait. opaque says that it carries bytes, of which a limit with a match knows nothing. What
// an earlier limit let through counts there although a later one refuses.
func (l *Limits) Take(a *route.Ask, caller mesh.Identity, opaque bool, now int64) (*mesh.RateLimit, time.Duration) {
	if l == nil {
		return nil, 0
	}
	head := a.Head
	for i := range l.list {
		r := &l.list[i]
		if m := &r.source.Match; opaque && len(m.Methods)+len(m.Paths)+len(m.Headers) > 0 {
			continue
		}
		if a.Head = head; !r.takes.Takes(a) {
			continue
		}
		a.Head = head
		if wait := r.table.Take(l.key(r.source.Keys, a, &caller), now); wait > 0 {
			return &r.source, wait
		}
	}
	return nil, 0
}

// key hashes what separates callers. Its parts are hashed one by one: values that look alike
// when they are joined do not meet.
func (l *Limits) key(keys []mesh.RateKey, a *route.Ask, id *mesh.Identity) uint64 {
	h := uint64(0)
	add := func(x uint64) { h = (h ^ x) * 0x9E3779B97F4A7C15; h ^= h >> 29 }
	for i := range keys {
		switch k := &keys[i]; {
		case k.Identity:
			add(maphash.String(l.seed, string(id.TrustDomain)))
			add(maphash.String(l.seed, id.Namespace))
			add(maphash.String(l.seed, id.ServiceAccount))
		case k.Namespace:
			add(maphash.String(l.seed, id.Namespace))
		case k.Cluster:
			add(maphash.String(l.seed, string(id.TrustDomain)))
		default:
			add(maphash.Bytes(l.seed, a.Joined(k.Header)))
		}
	}
	return h
}

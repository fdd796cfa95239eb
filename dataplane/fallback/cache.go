package fallback

import (
	"bytes"
	"container/list"
	"strconv"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The bounds of a cache, all of one proxy and all its services together.
const (
	// cacheMost is what is kept, in bytes, fields and bookkeeping included; what was used the longest ago goes first.
	cacheMost = 16 << 20
	// answerMost is the largest body that is kept.
	answerMost = 1 << 20
	// copiesMost is what copies that are being made may hold, in bytes.
	copiesMost = 4 << 20
	// variantsMost is how many answers of one URI are kept, told apart by Vary.
	variantsMost = 8
	// overhead is what an entry holds beside its texts, in bytes, about.
	overhead = 512
	// renewed is how old what is kept of a variant is before another answer is copied in its place.
	renewed = time.Second
)

// Cache is what services answered before, as a shared cache of HTTP may keep it (RFC 9111), for use when they do not answer.
// It belongs to one proxy. A sidecar has one caller, of one identity; behind an ingress gateway, where there are many, it is
// the rules for shared caches that keep what is one client's from the others: what is private, sets cookies or came with
// credentials is not kept, and what was not called public is not given to who sends any.
//
// It is safe for concurrent use. The zero Cache is empty and ready.
type Cache struct {
	mu     sync.Mutex
	size   int
	copies int // what is being copied, in bytes
	byKey  map[string][]*list.Element
	used   list.List // of *entry, what was used last in front
}

// Ask is a request to a service.
type Ask struct {
	Service mesh.ServiceName
	Port    uint16
	Head    *message.Head
	Now     time.Time
}

// entry is one answer. It is immutable once it is in the cache.
type entry struct {
	key    string
	varies []message.Field // fields of the request that Vary named, with their values
	fields []message.Field
	body   []byte
	public bool
	at     time.Time
	// age is what it had when it came (RFC 9111 §4.2.3), lifetime how long it is fresh.
	age, lifetime time.Duration
	// onlyFresh forbids it stale; stale is stale-if-error, or absent.
	onlyFresh bool
	stale     time.Duration
}

func (e *entry) size() int {
	n := overhead + len(e.key) + len(e.body)
	for _, list := range [][]message.Field{e.varies, e.fields} {
		for _, f := range list {
			n += len(f.Name) + len(f.Value)
		}
	}
	return n
}

// key names what is asked for. Method and scheme are no part of it: only GET is kept, and the scheme is the client's word.
func (a *Ask) key() string {
	b := make([]byte, 0, 64+len(a.Head.Authority)+len(a.Head.Path))
	b = append(append(append(b, a.Service.Namespace...), '/'), a.Service.Name...)
	b = strconv.AppendUint(append(b, ':'), uint64(a.Port), 10)
	b = append(append(b, ' '), bytes.ToLower(a.Head.Authority)...)
	return string(append(append(b, ' '), a.Head.Path...))
}

// cached reports whether a request may be answered from a cache without the service being asked (RFC 9111 §5.2.1). What a
// client demands of freshness nobody can vouch for now.
func cached(h *message.Head) bool {
	if m := string(h.Method); m != "GET" && m != "HEAD" {
		return false
	}
	if h.Has("range") || h.Has("if-range") {
		return false
	}
	c := read(h)
	return !c.noStore && !c.noCache && c.maxAge == absent && c.minFresh == absent || c.staleIfError > 0 && !c.noStore
}

// credentials reports whether a request says who sends it.
func credentials(h *message.Head) bool { return h.Has("authorization") || h.Has("cookie") }

// storable makes the entry of an answer, nil if it must not be kept (RFC 9111 §3, §3.5; with no guess at freshness, §4.2.2).
// started is when the request was sent.
func storable(a *Ask, answer *message.Head, started time.Time) *entry {
	request, answered := read(a.Head), read(answer)
	explicit := answered.public || answered.maxAge != absent || answered.sMaxAge != absent || answered.staleIfError != absent || answer.Has("expires")
	switch {
	case string(a.Head.Method) != "GET" || answer.Status != 200 || a.Head.Has("range") || answer.Has("content-range"):
		return nil
	case request.noStore || answered.noStore || answered.noCache || answered.private || !explicit:
		return nil
	case answer.Has("set-cookie") || credentials(a.Head) && !answered.public:
		return nil
	case answer.Length > answerMost:
		return nil
	}
	e := &entry{at: a.Now, public: answered.public, onlyFresh: answered.fresh, stale: answered.staleIfError, lifetime: lifetime(&answered, answer, a.Now)}
	e.age = seconds(answer.Get("age")) + max(a.Now.Sub(started), 0)
	if e.onlyFresh && e.age >= e.lifetime {
		return nil // of no use to anybody
	}
	for i := range answer.Fields {
		if string(answer.Fields[i].Name) == "vary" && !e.vary(a.Head, answer.Fields[i].Value) {
			return nil
		}
	}
	return e
}

// lifetime is how long an answer is fresh (RFC 9111 §4.2.1).
func lifetime(c *control, answer *message.Head, now time.Time) time.Duration {
	switch {
	case c.sMaxAge != absent:
		return c.sMaxAge
	case c.maxAge != absent:
		return c.maxAge
	}
	const fixdate = "Mon, 02 Jan 2006 15:04:05 GMT" // IMF-fixdate (RFC 9110 §5.6.7); what is none has expired (RFC 9111 §5.3)
	end, err := time.Parse(fixdate, string(answer.Get("expires")))
	if err != nil {
		return 0
	}
	if date, err := time.Parse(fixdate, string(answer.Get("date"))); err == nil {
		now = date
	}
	return max(end.Sub(now), 0)
}

// vary takes one line of Vary; false for what matches no other request (RFC 9111 §4.1).
func (e *entry) vary(request *message.Head, line []byte) bool {
	for name := range bytes.SplitSeq(line, []byte(",")) {
		name = bytes.ToLower(bytes.TrimSpace(name))
		switch string(name) {
		case "":
		case "*":
			return false
		default:
			e.varies = append(e.varies, message.Field{Name: name, Value: joined(request, name)})
		}
	}
	return len(e.varies) <= variantsMost
}

// joined is all values of a field, as one (RFC 9110 §5.3).
func joined(h *message.Head, name []byte) []byte {
	out := []byte{}
	for i := range h.Fields {
		if bytes.Equal(h.Fields[i].Name, name) {
			if len(out) > 0 {
				out = append(out, ", "...)
			}
			out = append(out, h.Fields[i].Value...)
		}
	}
	return out
}

// selects reports whether an entry is for a request, by what Vary named and by its credentials.
func (e *entry) selects(h *message.Head) bool {
	for _, v := range e.varies {
		if !bytes.Equal(joined(h, v.Name), v.Value) {
			return false
		}
	}
	return e.public || !credentials(h)
}

// given is the age at which an entry may be given at now, and whether it may (RFC 9111 §4.2.4, RFC 5861 §4).
func (e *entry) given(now time.Time, maxStale time.Duration) (age time.Duration, ok bool) {
	age = e.age + max(now.Sub(e.at), 0)
	if age < e.lifetime {
		return age, true
	}
	most := maxStale
	if e.stale != absent {
		most = min(most, e.stale)
	}
	return age, !e.onlyFresh && age-e.lifetime <= most
}

// Find writes the head of what is kept for a request into h, its age told, and returns its body; false if nothing may be given
// that is at most so stale. A HEAD is answered as a GET would be, its body left to the caller to keep.
func (c *Cache) Find(a *Ask, maxStale time.Duration, h *message.Head) (body []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, age := c.newest(a, maxStale)
	if el == nil {
		return nil, false
	}
	c.used.MoveToFront(el)
	e := el.Value.(*entry)
	h.Reset()
	h.Status, h.Length = 200, int64(len(e.body))
	for _, f := range e.fields {
		h.Fields = append(h.Fields, message.Field{Name: h.Keep(f.Name), Value: h.Keep(f.Value)})
	}
	h.Add("age", strconv.FormatInt(int64(age/time.Second), 10)) // RFC 9111 §5.1
	return e.body, true
}

// Has reports whether Find would find something.
func (c *Cache) Has(a *Ask, maxStale time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, _ := c.newest(a, maxStale)
	return el != nil
}

// newest is the newest entry that may be given to a request, nil if there is none, and its age. The caller holds mu.
func (c *Cache) newest(a *Ask, maxStale time.Duration) (best *list.Element, age time.Duration) {
	for _, el := range c.byKey[a.key()] {
		e := el.Value.(*entry)
		old, ok := e.given(a.Now, maxStale)
		if ok && e.selects(a.Head) && (best == nil || e.at.After(best.Value.(*entry).at)) {
			best, age = el, old
		}
	}
	return best, age
}

// Size is what is kept, in bytes.
func (c *Cache) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// drop forgets what is kept of a key. The caller holds mu.
func (c *Cache) drop(key string) {
	for _, el := range c.byKey[key] {
		c.size -= el.Value.(*entry).size()
		c.used.Remove(el)
	}
	delete(c.byKey, key)
}

// evict forgets one entry. The caller holds mu.
func (c *Cache) evict(el *list.Element) {
	e := el.Value.(*entry)
	c.size -= e.size()
	c.used.Remove(el)
	rest := c.byKey[e.key][:0:0]
	for _, other := range c.byKey[e.key] {
		if other != el {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(c.byKey, e.key)
		return
	}
	c.byKey[e.key] = rest
}

// put keeps an entry in the place of those that the same requests select.
func (c *Cache) put(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey == nil {
		c.byKey = map[string][]*list.Element{}
		c.used.Init()
	}
	for _, el := range c.byKey[e.key] {
		if el.Value.(*entry).same(e) {
			c.evict(el)
		}
	}
	if list := c.byKey[e.key]; len(list) >= variantsMost {
		c.evict(list[0])
	}
	c.byKey[e.key] = append(c.byKey[e.key], c.used.PushFront(e))
	for c.size += e.size(); c.size > cacheMost; {
		c.evict(c.used.Back())
	}
}

// same reports whether two entries of a key are told apart by nothing.
func (e *entry) same(o *entry) bool {
	if len(e.varies) != len(o.varies) {
		return false
	}
	for i, v := range e.varies {
		if !bytes.Equal(v.Name, o.varies[i].Name) || !bytes.Equal(v.Value, o.varies[i].Value) {
			return false
		}
	}
	return true
}

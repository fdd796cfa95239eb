package fallback

import (
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Copy is an answer that is being kept while it passes. It is one request's; nil keeps nothing.
type Copy struct {
	cache  *Cache
	entry  *entry
	length int64 // announced, or message.LengthUnknown
	held   int   // counted in cache.copies
}

// Learn takes the head of an answer of a service before it passes, and returns the copy to be made of its body, nil for none.
// The newest word of the service counts: what was kept is forgotten when the service answers that it is not to be any more, or
// has let it be changed (RFC 9111 §4.4).
func (c *Cache) Learn(a *Ask, answer *message.Head, started time.Time) *Copy {
	switch {
	case !safe(a.Head):
		if answer.Status >= 200 && answer.Status < 400 {
			c.forget(a)
		}
		return nil
	case string(a.Head.Method) != "GET" || answer.Status >= 500:
		return nil
	}
	e := storable(a, answer, started)
	if e == nil {
		switch answer.Status {
		case 304, 408, 429: // no word on what is kept
		default:
			if !credentials(a.Head) && !a.Head.Has("range") {
				c.forget(a)
			}
		}
		return nil
	}
	if e.key = a.key(); c.has(e) {
		return nil
	}
	for i := range answer.Fields {
		f := &answer.Fields[i]
		if string(f.Name) != "age" { // told anew when it is given
			e.fields = append(e.fields, message.Field{Name: append([]byte(nil), f.Name...), Value: append([]byte(nil), f.Value...)})
		}
	}
	return &Copy{cache: c, entry: e, length: answer.Length}
}

// has reports whether the like of an entry was kept a moment ago.
func (c *Cache) has(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, el := range c.byKey[e.key] {
		if o := el.Value.(*entry); o.same(e) && e.at.Sub(o.at) < renewed {
			return true
		}
	}
	return false
}

func (c *Cache) forget(a *Ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byKey) > 0 {
		c.drop(a.key())
	}
}

// Add takes a piece of the body. A copy that grows beyond its bounds is given up.
func (x *Copy) Add(piece []byte) {
	if x == nil || x.entry == nil {
		return
	}
	if len(x.entry.body)+len(piece) > answerMost || !x.hold(len(piece)) {
		x.End()
		return
	}
	x.entry.body = append(x.entry.body, piece...)
}

// hold counts what copies hold.
func (x *Copy) hold(n int) bool {
	c := x.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.copies+n > copiesMost {
		return false
	}
	c.copies += n
	x.held += n
	return true
}

// Keep says that the answer is whole.
func (x *Copy) Keep() {
	if x == nil || x.entry == nil {
		return
	}
	if x.length < 0 || x.length == int64(len(x.entry.body)) {
		x.cache.put(x.entry)
	}
	x.End()
}

// End gives the copy up, if it is not kept.
func (x *Copy) End() {
	if x == nil {
		return
	}
	x.entry = nil
	x.cache.mu.Lock()
	defer x.cache.mu.Unlock()
	x.cache.copies -= x.held
	x.held = 0
}

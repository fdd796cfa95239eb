// Package door says which connections a proxy's listeners take. Its one idea is that whoever comes is judged by what
// is known before anything is done for him: how many there are, how many come from where he does, and what those who
// came before him as the same peer have done.
//
// It knows no protocol: who serves a connection says what was wrong with it. Read Door first, then Offences.
package door

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Door bounds the connections of a proxy's listeners, all together and of one address, so that one source
// cannot keep all others out and nobody can use up the descriptors. None of the exported fields changes once it is
// in use. It is safe for concurrent use.
type Door struct {
	// Most is how many there may be, and Each of one address; 0 is Most.
	Most, Each int
	// Allowance, if not nil, is what addresses may cost that come to nothing.
	Allowance *Allowance
	Log       *slog.Logger
	Now       func() time.Time

	refused atomic.Int64

	mu      sync.Mutex
	taken   int
	by      map[netip.Addr]int
	said    time.Time // when a refusal was last logged
	omitted int       // refusals since
}

// complainEvery is how often refusals are logged.
const complainEvery = time.Second

// Enter lets a connection in and returns what to call when it has ended; else it resets the connection, and
// says so in the log.
func (d *Door) Enter(c net.Conn) (leave func(), ok bool) {
	from := addressOf(c)
	now := d.Now()
	reason := mesh.ReasonOverloaded
	d.mu.Lock()
	each := d.Each
	if each == 0 {
		each = d.Most
	}
	if d.taken < d.Most && d.by[from] < each {
		if d.Allowance.has(from, now) {
			leave = d.hold(from)
			d.mu.Unlock()
			return leave, true
		}
		reason = mesh.ReasonRateLimited
	}
	omitted, say := d.omitted, now.Sub(d.said) >= complainEvery
	if say {
		d.said, d.omitted = now, 0
	} else {
		d.omitted++
	}
	taken, own := d.taken, d.by[from]
	d.mu.Unlock()
	d.refused.Add(1)
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
	if say {
		d.Log.Warn("a connection was refused", "reason", string(reason), "remote", c.RemoteAddr().String(), "address", c.LocalAddr().String(),
			"connections", taken, "of_this_source", own, "omitted", omitted)
	}
	return nil, false
}

// Refused counts the connections that were not let in.
func (d *Door) Refused() int64 { return d.refused.Load() }

// Hold counts a connection that is in already, or part of it, once more: it is never refused.
func (d *Door) Hold(c net.Conn) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hold(addressOf(c))
}

// hold is Hold under the lock.
func (d *Door) hold(from netip.Addr) (leave func()) {
	if d.by == nil {
		d.by = map[netip.Addr]int{}
	}
	d.taken++
	d.by[from]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.taken--
		if d.by[from]--; d.by[from] == 0 {
			delete(d.by, from)
		}
	})
}

func addressOf(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

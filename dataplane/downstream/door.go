package downstream

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Door bounds the connections of a proxy's listeners, all together and of one address, so that one source
// cannot keep all others out and nobody can use up the descriptors. None of the exported fields changes once it is
// in use. It is safe for concurrent use.
type Door struct {
	// Most is how many there may be, and Each of one address; 0 is Most.
	Most, Each int
	Log        *slog.Logger
	Now        func() time.Time

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
	from := sourceOf(c)
	d.mu.Lock()
	each := d.Each
	if each == 0 {
		each = d.Most
	}
	if d.taken < d.Most && d.by[from] < each {
		leave = d.hold(from)
		d.mu.Unlock()
		return leave, true
	}
	now := d.Now()
	omitted, say := d.omitted, now.Sub(d.said) >= complainEvery
	if say {
		d.said, d.omitted = now, 0
	} else {
		d.omitted++
	}
	taken, own := d.taken, d.by[from]
	d.mu.Unlock()
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
	if say {
		d.Log.Warn("a connection was refused", "reason", string(mesh.ReasonOverloaded), "remote", c.RemoteAddr().String(), "address", c.LocalAddr().String(),
			"connections", taken, "of_this_source", own, "omitted", omitted)
	}
	return nil, false
}

// Hold counts a connection that is in already, or part of it, once more: it is never refused.
func (d *Door) Hold(c net.Conn) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hold(sourceOf(c))
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

func sourceOf(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

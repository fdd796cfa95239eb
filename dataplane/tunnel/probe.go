package tunnel

import (
	"context"
	"fmt"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Probe asks whether the server proxy of w answers: by a PING on a connection that there is, or by
// making one, which ends with a PING and stays for who comes next. It takes no longer than w's
// ConnectTimeout. A connection that carries nothing and does not answer is cut.
func (d *Dialer) Probe(ctx context.Context, w *Want) error {
	timeout := w.ConnectTimeout
	if timeout <= 0 {
		timeout = mesh.DefaultConnectTimeout
	}
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	c, a := d.find(w)
	var err error
	switch {
	case c != nil:
		if _, err = c.Ping(ctx); err != nil {
			d.mu.Lock()
			if c.InFlight() == 0 && !c.done() && !d.closed {
				d.cut(c, fmt.Errorf("%w for %s", ErrSilent, timeout))
			}
			d.mu.Unlock()
		}
	case a != nil:
		select {
		case <-a.done:
			err = a.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	default:
		err = errStopping
	}
	if err != nil {
		return &Error{w.Target, reasonOf(err), err}
	}
	return nil
}

// find returns a connection to ask on, or an attempt to make one.
func (d *Dialer) find(w *Want) (*conn, *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil
	}
	t := d.targets[w.Target]
	if t == nil {
		t = &target{}
		d.targets[w.Target] = t
	}
	if c, _ := t.choose(w, d.cfg.Now(), d.nanos()); c != nil {
		return c, nil
	}
	if t.attempt == nil {
		d.begin(t, w)
	}
	return nil, t.attempt
}

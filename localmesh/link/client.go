package link

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"
)

// Client speaks to the control socket of a running link. It keeps nothing open between calls and is safe for concurrent
// use. Each call takes at most ClientTimeout, less where its context says so; an error of the link itself, rather than
// of reaching it, is a *RefusedError.
type Client struct{ path string }

// ClientTimeout bounds each call of a Client.
const ClientTimeout = 5 * time.Second

// RefusedError is the link's own answer that it could not do as it was told.
type RefusedError struct{ Op, Reason string }

func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %s", e.Op, e.Reason) }

// Dial returns a client of the control socket at path after the link has answered it once.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	if _, err := c.Stats(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Shape gives the link another shape.
func (c *Client) Shape(ctx context.Context, s Shape) error {
	_, err := c.call(ctx, request{Op: "shape", shapeJSON: s.written()})
	return err
}

// Slow changes some of the link's shape.
func (c *Client) Slow(ctx context.Context, ch Change) error {
	q := request{Op: "shape", shapeJSON: shapeJSON{
		RTT: (*duration)(ch.RTT), Jitter: (*duration)(ch.Jitter), Loss: ch.Loss,
	}}
	if ch.Bandwidth != nil {
		b := float64(*ch.Bandwidth)
		q.Bandwidth = &b
	}
	_, err := c.call(ctx, q)
	return err
}

// Cut makes directions, both where none is named, swallow everything.
func (c *Client) Cut(ctx context.Context, ds ...Direction) error {
	_, err := c.call(ctx, request{Op: "cut", Direction: ds})
	return err
}

// CutOnly is Cut for one kind of traffic.
func (c *Client) CutOnly(ctx context.Context, t Traffic, ds ...Direction) error {
	_, err := c.call(ctx, request{Op: "cut", Direction: ds, Traffic: kinds{t}})
	return err
}

// Stall makes directions, both where none is named, hold everything.
func (c *Client) Stall(ctx context.Context, ds ...Direction) error {
	_, err := c.call(ctx, request{Op: "stall", Direction: ds})
	return err
}

// Refuse resets all connections and refuses new ones.
func (c *Client) Refuse(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: "refuse"})
	return err
}

// Heal ends Cut and Stall in directions; where none is named, in both, and Refuse. The shape stays.
func (c *Client) Heal(ctx context.Context, ds ...Direction) error {
	_, err := c.call(ctx, request{Op: "heal", Direction: ds})
	return err
}

// HealOnly is Heal for one kind of traffic; it does not end Refuse.
func (c *Client) HealOnly(ctx context.Context, t Traffic, ds ...Direction) error {
	_, err := c.call(ctx, request{Op: "heal", Direction: ds, Traffic: kinds{t}})
	return err
}

// Restore heals the link and gives it back its configured shape.
func (c *Client) Restore(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: "restore"})
	return err
}

// Stats returns the link's counters and state.
func (c *Client) Stats(ctx context.Context) (Stats, error) { return c.call(ctx, request{Op: "stats"}) }

// call sends one request on a connection of its own and reads its answer.
func (c *Client) call(ctx context.Context, q request) (Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, ClientTimeout)
	defer cancel()
	fail := func(err error) (Stats, error) {
		return Stats{}, fmt.Errorf("%s link at %s: %w", q.Op, c.path, err)
	}
	line, err := json.Marshal(q)
	if err != nil {
		return fail(err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // unblocks what is under way
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return fail(err)
	}
	reply, err := bufio.NewReader(io.LimitReader(conn, answerMaxBytes)).ReadBytes('\n')
	if err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	var a answer
	if err := json.Unmarshal(reply, &a); err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	if !a.OK || a.Stats == nil {
		return fail(&RefusedError{Op: q.Op, Reason: a.Error})
	}
	return *a.Stats, nil
}

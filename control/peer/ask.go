package peer

import (
	"context"
	"net"
	"time"
)

// asksMax is how many sockets ask for one connection, one after the other.
const asksMax = 5

// asked is what became of one socket.
type asked struct {
	conn net.Conn
	err  error
}

// dialAgain makes a TCP connection to an address within a time.
//
// A SYN that is lost is sent again by the kernel after a second and then, of the two that are usual, no more in time (RFC 6298 §2.1).
// With one socket an attempt that began just before a link healed would therefore cost a second, and one that asked again just
// before it the whole attempt; simulated meshes then knew of endpoints deleted during a cut for more than two seconds after
// it. So another socket asks each fifth of the time, whichever is answered first is the connection, and a refusal is one
// for all.
func dialAgain(ctx context.Context, d *net.Dialer, address string, within time.Duration) (net.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	answers := make(chan asked, asksMax)
	ask := func() {
		c, err := d.DialContext(ctx, "tcp", address)
		answers <- asked{c, err}
	}
	timer := time.NewTicker(within / asksMax)
	defer timer.Stop()
	go ask()
	for open := 1; ; {
		select {
		case a := <-answers:
			stop() // the others end with this
			for range open - 1 {
				if late := <-answers; late.conn != nil && a.conn == nil {
					a = late
				} else if late.conn != nil {
					_ = late.conn.Close() // nobody used it
				}
			}
			return a.conn, a.err
		case <-timer.C:
			if open < asksMax {
				open++
				go ask()
			}
		}
	}
}

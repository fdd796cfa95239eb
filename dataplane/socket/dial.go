package socket

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Control prepares a socket before it connects, as net.Dialer's.
type Control = func(network, address string, c syscall.RawConn) error

// lateAfter is the part of a dial's time after which a second socket asks too. Who dials gives at least six round
// trips, so that an answer that comes has come by then.
const lateAfter = 3

// Dial makes a TCP connection to "address:port", from local if that is valid. control, unless nil, prepares the socket
// first, from a goroutine of its own if it is the second of a dial.
//
// A SYN that is lost is sent again by the kernel after a second (RFC 6298 §2), which is all the time that most
// dials have: each lost one would be a connection that failed. So a second socket asks when a third of ctx's
// time is over, and whichever is answered first is the connection. (Some systems let a socket choose that time; Linux does not.)
func Dial(ctx context.Context, control Control, local netip.Addr, address string) (net.Conn, error) {
	d := net.Dialer{Control: prepared(control, local)}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	end, ok := ctx.Deadline()
	if !ok {
		return d.DialContext(ctx, "tcp", address)
	}
	return dialTwice(ctx, &d, address, time.Until(end)/lateAfter)
}

// dialled is what became of a dial.
type dialled struct {
	conn net.Conn
	err  error
}

func dialTwice(ctx context.Context, d *net.Dialer, address string, after time.Duration) (net.Conn, error) {
	ctx, stop := context.WithCancel(ctx) // what one socket ends for the other
	defer stop()
	late := make(chan dialled, 1)
	second := time.AfterFunc(after, func() {
		c, err := d.DialContext(ctx, "tcp", address)
		late <- dialled{c, err}
		if err == nil {
			stop()
		}
	})
	c, err := d.DialContext(ctx, "tcp", address)
	if second.Stop() {
		return c, err
	}
	if err == nil {
		stop()
		if l := <-late; l.err == nil {
			l.conn.Close()
		}
		return c, nil
	}
	if l := <-late; l.err == nil {
		return l.conn, nil
	}
	return nil, err
}

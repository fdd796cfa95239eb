package door_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/door"
)

// from is a connection that was made from an address, and whether it was closed.
type from struct {
	net.Conn
	addr   string
	closed bool
}

func (f *from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.addr)) }
func (f *from) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:15006"))
}
func (f *from) Close() error { f.closed = true; return nil }

func TestDoorsAreBounded(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(1000, 0)
	d := &door.Door{Most: 6, Each: 4, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now }}
	var leave []func()
	enter := func(addr string) bool {
		c := &from{addr: addr}
		l, ok := d.Enter(c)
		if ok {
			leave = append(leave, l)
		}
		if c.closed == ok {
			t.Errorf("from %s: let in %v, closed %v", addr, ok, c.closed)
		}
		return ok
	}
	for range 4 {
		if !enter("10.1.0.1:1") {
			t.Fatal("one within its bound was refused")
		}
	}
	for range 10 {
		if enter("10.1.0.1:2") {
			t.Error("one source took more than its part")
		}
	}
	if !enter("10.1.0.2:1") || !enter("10.1.0.3:1") || enter("10.1.0.4:1") {
		t.Error("others do not get exactly what is left")
	}
	if n := strings.Count(log.String(), "a connection was refused"); n != 1 {
		t.Errorf("%d lines of eleven refusals in a second, want one: %s", n, log.String())
	}
	now = now.Add(2 * time.Second)
	enter("10.1.0.1:3")
	if !strings.Contains(log.String(), "omitted=10") || !strings.Contains(log.String(), "reason=overloaded") {
		t.Errorf("the next line does not say what was left out: %s", log.String())
	}
	more := d.Hold(&from{addr: "10.1.0.1:1"}) // of one that is in: never refused
	leave[0]()
	leave[0]()
	if enter("10.1.0.1:4") {
		t.Error("a place was given that is still held")
	}
	more()
	if !enter("10.1.0.1:4") {
		t.Error("a place that was left is not given again")
	}
}

// TestControlADoorWithoutParts: without a part for each one source takes all there is, and others find the door shut.
func TestControlADoorWithoutParts(t *testing.T) {
	d := &door.Door{Most: 6, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	for range 6 {
		if _, ok := d.Enter(&from{addr: "10.1.0.1:1"}); !ok {
			t.Fatal("refused within the bound")
		}
	}
	if _, ok := d.Enter(&from{addr: "10.1.0.2:1"}); ok {
		t.Error("another was let in beyond the bound: a part for each would protect nobody")
	}
}

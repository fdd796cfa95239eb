//go:build unix

package http2

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// What is read and written through package net is announced to the scheduler, which costs a proxy of calls between
// applications more than the calls do (ADR 17).
func TestAPlainConnectionPassesTheSchedulerBy(t *testing.T) {
	client, server := tcpPair(t)
	for _, nc := range []any{client, server} {
		if _, plain := nc.(*socket.Conn); plain {
			t.Fatal("the test's own connection is one of package socket")
		}
	}
	cc := pair(t, Config{}, client, server, benchHandler())
	if _, ok := cc.nc.(*socket.Conn); !ok {
		t.Errorf("the engine reads and writes a %T", cc.nc)
	}
}

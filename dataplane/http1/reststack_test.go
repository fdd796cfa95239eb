//go:build !race

package http1

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// TestARestingConnectionAllocatesNoStack: many connections, each of which has carried a request, wait on
// stacks as small as they begin. Waiting where the request was served takes 8 KiB each.
func TestARestingConnectionAllocatesNoStack(t *testing.T) {
	const many = 300
	cfg := &Config{RestAfter: time.Millisecond}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	clients := make([]net.Conn, many)
	all := make([]chan struct{}, many)
	for i := range many {
		var server net.Conn
		clients[i], server = tcpPair(t)
		_, all[i] = resting(NewServerConn(server, cfg), reply)
	}
	// The runtime begins stacks with the size that it found goroutines to use when it collected
	// last: after the first round these are what it finds.
	for range 2 {
		for i, c := range clients {
			<-all[i]
			send(t, c, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
			expect(t, c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/a")
		}
		runtime.GC()
	}
	for _, rests := range all {
		<-rests
	}
	runtime.GC() // gives back the stacks of goroutines that ended
	runtime.ReadMemStats(&after)
	each := (after.StackInuse - min(before.StackInuse, after.StackInuse)) / many
	t.Logf("%d bytes of stack a connection", each)
	if each > 3<<10 {
		t.Errorf("%d bytes of stack a connection, want at most 3 KiB", each)
	}
}

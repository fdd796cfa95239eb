//go:build !race

package tunnel

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// TestAWaitForAHelloIsSmall has hundreds of connections wait for the rest of a ClientHello: each holds a stack as small as
// stacks begin. The control waits for it as other readers do, below calls that need more.
func TestAWaitForAHelloIsSmall(t *testing.T) {
	const many, small = 300, 3 << 10
	stacks := func(settled func(each int64) bool, wait func(net.Conn)) (each int64) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		var waiting sync.WaitGroup
		defer waiting.Wait()
		runtime.GC() // gives back the stacks of goroutines that ended
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		for range many {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if _, err := client.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}); err != nil {
				t.Fatal(err)
			}
			wait := wait
			waiting.Go(func() { wait(server) })
		}
		for end := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
			runtime.GC()
			runtime.ReadMemStats(&now)
			if each = (int64(now.StackInuse) - int64(before.StackInuse)) / many; settled(each) || time.Now().After(end) {
				return each
			}
		}
	}
	hard, stop := context.WithCancel(context.Background())
	defer stop()
	var each int64
	// The runtime begins stacks with the size that it found goroutines to use when it collected last: after the first round
	// these are what it finds.
	for range 2 {
		each = stacks(func(each int64) bool { return each > 1<<10 && each <= small }, func(c net.Conn) {
			func(w *wait) { _ = w.pieces.Gather() }(awaitHello(hard, c))
		})
	}
	if each > small {
		t.Errorf("%d bytes of stack a connection, want at most %d", each, small)
	}
	control := stacks(func(each int64) bool { return each > small }, func(c net.Conn) {
		pieces := socket.NewWhole(c)
		_, _, _ = readHello(pieces, nil)
	})
	if control <= small {
		t.Errorf("control: %d bytes of stack a connection, so nothing was shown", control)
	}
	t.Logf("%d bytes of stack a connection, control %d", each, control)
}

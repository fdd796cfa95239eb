//go:build !race

package http2

import (
	"net"
	"testing"
)

// A request in steady state allocates nothing at either end. (The race detector makes
// sync.Pool forget, so this is not measured under it.)
func TestRequestsAllocateNothing(t *testing.T) {
	for name, dial := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair,
		"pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }} {
		t.Run(name, func(t *testing.T) {
			c, s := dial(t)
			k := &benchClient{cc: pair(t, Config{}, c, s, benchHandler())}
			run := func() {
				if err := k.do(); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 {
				run()
			}
			// Both ends run in this process: all goroutines' allocations count.
			if n := testing.AllocsPerRun(500, run); n != 0 {
				t.Errorf("%v allocations a request", n)
			}
		})
	}
}

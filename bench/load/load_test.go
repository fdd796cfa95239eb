package load

import (
	"context"
	"net"
	"testing"
	"time"
)

// application serves as beApp does until the test ends.
func application(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go Serve(c)
		}
	}()
	return ln.Addr().String()
}

func clients(t *testing.T, n int) []*Client {
	t.Helper()
	cs, err := DialAll(t.Context(), n, &Way{Target: application(t), Request: Get("/", "x")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { CloseAll(cs) })
	return cs
}

func TestClosedLoopSendsAsManyAsAskedFor(t *testing.T) {
	cs := clients(t, 4)
	for _, total := range []int{1, 3, 1000} {
		if done, err := ClosedLoop(cs, total, time.Minute); done != total || err != nil {
			t.Errorf("closed loop of %d: %d done, %v", total, done, err)
		}
	}
}

func TestOpenLoopCountsEveryRequestThatWasMeant(t *testing.T) {
	cs := clients(t, 4)
	for range 2 { // connections outlive a turn
		took, err := OpenLoop(t.Context(), cs, 1000, 100*time.Millisecond)
		if err != nil || len(took) != 100 {
			t.Fatalf("%d requests, %v; want 100", len(took), err)
		}
		for _, d := range took {
			if d <= 0 || d > RequestTimeout {
				t.Errorf("a request took %v", d)
			}
		}
	}
}

func TestOpenLoopEndsWithItsContext(t *testing.T) {
	cs := clients(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenLoop(ctx, cs, 1000, time.Hour); err == nil {
		t.Error("no error of a loop that was told to stop")
	}
}

func TestAnswersAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		head string
		want int
		bad  bool
	}{
		{"HTTP/1.1 200 OK\r\n", -1, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", 43, false},
		{"HTTP/1.1 503 no\r\ncontent-length: 5\r\n\r\n", 0, true},
		{"HTTP/1.1 200 OK\r\n\r\n", 0, true},
		{"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", 0, true},
	} {
		got, err := answerLength([]byte(c.head))
		if c.bad != (err != nil) || !c.bad && got != c.want {
			t.Errorf("answerLength(%q) = %d, %v; want %d", c.head, got, err, c.want)
		}
	}
}

func TestBulkReturnsWhenAllHasArrived(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go swallow(c)
		}
	}()
	for _, first := range []string{"", "hello"} {
		b, err := DialBulk(t.Context(), &Way{Target: ln.Addr().String(), Request: []byte(first)})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // what comes first counts once
			if err := b.Send(2); err != nil {
				t.Errorf("after %q: %v", first, err)
			}
		}
		b.Close()
	}
}

func TestConnectionsAreMadeAsManyAsAskedFor(t *testing.T) {
	w := &Way{Target: application(t), Request: Get("/", "x")}
	if n, err := Connections(t.Context(), w, 3, 10); n != 10 || err != nil {
		t.Errorf("%d connections, %v; want 10", n, err)
	}
}

func TestATunnelThatIsRefusedIsAnError(t *testing.T) {
	// The application answers everything by 200, with a body that the tunnel would carry.
	if _, err := DialAll(t.Context(), 1, &Way{Target: application(t), Connect: ConnectTo("x:1")}); err != nil {
		t.Errorf("a tunnel that was granted: %v", err)
	}
	if _, err := DialAll(t.Context(), 1, &Way{Target: sinkThatCloses(t), Connect: ConnectTo("x:1")}); err == nil {
		t.Error("no error of a tunnel that was not granted")
	}
}

func sinkThatCloses(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		if c, err := ln.Accept(); err == nil {
			_ = c.Close()
		}
	}()
	return ln.Addr().String()
}

func TestUnaryCallsAsManyAsAskedFor(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	at := "127.0.0.1:0"
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	at = ln.Addr().String()
	_ = ln.Close() // Health listens by itself
	ended := make(chan error, 1)
	go func() { ended <- Health(ctx, at) }()
	dial, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var g *GRPC
	for g == nil && dial.Err() == nil { // until it listens
		g, err = DialGRPC(dial, 2, at, "x")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if n, err := g.Unary(ctx, 3, 100); n != 100 || err != nil {
		t.Errorf("%d calls, %v; want 100", n, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// resting serves as serve does, and goes on to wait on another goroutine whenever Next says that
// the connection is idle.
func resting(s *ServerConn, handle func(message.Exchange)) (done chan error, rests chan struct{}) {
	done, rests = make(chan error, 1), make(chan struct{}, 100)
	var run func()
	run = func() {
		for {
			ex, err := s.Next()
			switch {
			case errors.Is(err, ErrIdle):
				rests <- struct{}{}
				go func() {
					s.Rest()
					run()
				}()
				return
			case err != nil:
				_ = s.Close()
				done <- err
				return
			}
			handle(ex)
		}
	}
	go run()
	return done, rests
}

func restConfig() *Config { return &Config{RestAfter: time.Second, IdleTimeout: 16 * time.Second} }

func TestAConnectionRestsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		done, rests := resting(NewServerConn(server, restConfig()), reply)
		for range 3 {
			pass(10 * time.Second)
			go func() { _, _ = io.WriteString(client, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n") }()
			expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/a")
		}
		if n := len(rests); n != 3 {
			t.Errorf("rested %d times, want once before each request", n)
		}
		pass(5 * time.Second)
		client.Close()
		if err := <-done; err != io.EOF {
			t.Errorf("Next: %v, want the end of the connection", err)
		}
	})
}

// TestAHeadInPiecesEndsARest: a first byte ends the rest, and from it on a head has its own time.
func TestAHeadInPiecesEndsARest(t *testing.T) {
	client, server := tcpPair(t)
	done, rests := resting(NewServerConn(server, &Config{RestAfter: time.Millisecond}), reply)
	for range 2 {
		<-rests
		send(t, client, "\r")
		send(t, client, "\nG")
		send(t, client, "ET /b HTTP/1.1\r\nHost: x\r\n\r\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n")
		expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/b")
		expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/c")
	}
	<-rests
	client.Close()
	if err := <-done; err != io.EOF {
		t.Errorf("Next: %v, want the end of the connection", err)
	}
}

func TestARestEndsWithTheIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		start := time.Now()
		done, _ := resting(NewServerConn(server, restConfig()), reply)
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		if took := time.Since(start); took < 16*time.Second || took > 19*time.Second {
			t.Errorf("after %v, want 16 to 19 s", took)
		}
	})
}

func TestADrainReachesARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		s := NewServerConn(server, restConfig())
		done, rests := resting(s, reply)
		<-rests
		synctest.Wait()
		s.Drain()
		pass(3 * time.Second)
		select {
		case err := <-done:
			t.Fatalf("a drain alone ended it: %v", err)
		default:
		}
		start := time.Now()
		s.EndIdle()
		if err := <-done; !errors.Is(err, ErrDraining) {
			t.Errorf("Next: %v, want ErrDraining", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("%v after EndIdle", took)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a request that comes into the drain is the last
		client, server := net.Pipe()
		s := NewServerConn(server, restConfig())
		done, rests := resting(s, reply)
		<-rests
		s.Drain()
		go func() { _, _ = io.WriteString(client, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n") }()
		expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/a")
		if err := <-done; err != io.EOF {
			t.Errorf("Next: %v", err)
		}
	})
}

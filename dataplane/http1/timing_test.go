package http1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestSlowHeadIsWaitedForWithoutADeadline is the control of TestSlowHeadIsAnswered408: by itself the engine waits for days.
func TestSlowHeadIsWaitedForWithoutADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		done := serve(server, &Config{ReadHeaderTimeout: -1, IdleTimeout: time.Hour}, reply)
		typed := make(chan struct{})
		go func() {
			defer close(typed)
			for _, c := range []byte("GET / HTTP/1.1\r\nHost: x\r\nA: bbbbbbbbbbbbbbbbbbb\r\n\r\n") {
				if _, err := client.Write([]byte{c}); err != nil {
					t.Error(err)
					return
				}
				pass(time.Hour)
			}
		}()
		line, err := bufio.NewReader(client).ReadString('\n')
		if err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Errorf("%q, %v", line, err)
		}
		<-typed
		client.Close()
		<-done
	})
}

func TestSlowHeadIsAnswered408(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		start := time.Now()
		done := serve(server, &Config{ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Hour}, reply)
		pass(time.Minute) // idle is not slow
		typed := make(chan struct{})
		defer func() { <-typed }()
		go func() {
			defer close(typed)
			for _, c := range []byte("GET / HTTP/1.1\r\nHost: x\r\nA: bbbbbbbbbbbbbbbbbbb") {
				if _, err := client.Write([]byte{c}); err != nil {
					return
				}
				pass(300 * time.Millisecond)
			}
		}()
		line, err := bufio.NewReader(client).ReadString('\n')
		if err != nil || line != "HTTP/1.1 408 Request Timeout\r\n" {
			t.Errorf("%q, %v", line, err)
		}
		client.Close()
		var perr *ParseError
		if err := <-done; !errors.As(err, &perr) || perr.Status != 408 {
			t.Errorf("Next: %v, want a ParseError 408", err)
		}
		if took := time.Since(start) - time.Minute; took != 5*time.Second {
			t.Errorf("after %v, want the header timeout", took)
		}
	})
}

func TestIdleConnectionTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		done := serve(server, &Config{IdleTimeout: 8 * time.Second}, reply)
		start := time.Now()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		if took := time.Since(start); took < 8*time.Second || took > 9*time.Second {
			t.Errorf("after %v, want 8 to 9 s", took)
		}
	})
}

// TestBodyBelowTheLeastRateIsCutOff: the control has no least rate, and waits for days.
func TestBodyBelowTheLeastRateIsCutOff(t *testing.T) {
	for _, tc := range []struct {
		every time.Duration // per 100 bytes
		least int           // in bytes a second
		ok    bool
	}{{900 * time.Millisecond, 100, true}, {1500 * time.Millisecond, 100, false}, {time.Hour, 0, true}} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			got := make(chan error, 1)
			done := serve(server, &Config{ReadRateMin: tc.least, RateGrace: 5 * time.Second}, func(ex message.Exchange) {
				_, err := io.ReadAll(ex)
				got <- err
				if err != nil {
					ex.Abort(err)
					return
				}
				_ = ex.Respond(head(204, 0), true)
			})
			typed := make(chan struct{})
			defer func() { <-typed }()
			go func() {
				defer close(typed)
				_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
				for range 100 {
					pass(tc.every)
					if _, err := client.Write(make([]byte, 100)); err != nil {
						return
					}
				}
				_, _ = io.Copy(io.Discard, client)
			}()
			err := <-got
			if tc.ok != (err == nil) || !tc.ok && !errors.Is(err, ErrTooSlow) {
				t.Errorf("100 bytes every %v, at least %d a second: %v", tc.every, tc.least, err)
			}
			client.Close()
			<-done
		})
	}
}

// TestClientThatTakesNothingIsCutOff: the control has no least rate, and the answer waits for days until it is taken.
func TestClientThatTakesNothingIsCutOff(t *testing.T) {
	for _, least := range []int{1000, 0} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			got := make(chan error, 1)
			done := serve(server, &Config{WriteRateMin: least, RateGrace: 3 * time.Second}, func(ex message.Exchange) {
				_ = ex.Respond(head(200, 1<<20), false)
				_, err := ex.Write(make([]byte, 1<<20))
				got <- err
				ex.Abort(err)
			})
			_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, _ = io.ReadFull(client, make([]byte, 100))
			if least == 0 {
				pass(48 * time.Hour)
				go io.Copy(io.Discard, client)
			}
			if err := <-got; errors.Is(err, os.ErrDeadlineExceeded) != (least > 0) || least == 0 && err != nil {
				t.Errorf("at least %d bytes a second: %v", least, err)
			}
			<-done
		})
	}
}

func TestDeadlineReachesACallThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		taken := make(chan struct{})
		defer func() { <-taken }()
		defer server.Close()
		go func() {
			defer close(taken)
			_, _ = io.Copy(io.Discard, server)
		}()
		c := NewClientConn(client, &Config{})
		s := c.Open()
		if err := s.Send(request("GET", "/", 0), true); err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			var h message.Head
			_, err := s.Receive(&h)
			got <- err
		}()
		synctest.Wait()
		s.SetDeadline(time.Now().Add(time.Second))
		if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, message.ErrStale) {
			t.Errorf("receive: %v", err)
		}
		s.Close()
	})
}

func TestEndIdleEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		s := NewServerConn(server, &Config{})
		got := make(chan error, 1)
		go func() {
			_, err := s.Next()
			got <- err
			s.Close()
		}()
		synctest.Wait()
		s.Drain()
		synctest.Wait()
		select {
		case err := <-got:
			t.Errorf("Drain ended the wait: %v", err)
		default:
		}
		s.EndIdle()
		if err := <-got; !errors.Is(err, ErrDraining) {
			t.Errorf("Next: %v, want ErrDraining", err)
		}
	})
}

func TestDrainingConnectionAnswersARequestThatHasCome(t *testing.T) {
	client, server := tcpPair(t)
	s := NewServerConn(server, &Config{})
	send(t, client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	// Its bytes are on this machine's loopback: they are readable once poll says so.
	if err := s.in.raw.Read(func(fd uintptr) bool { return readable(fd) }); err != nil {
		t.Fatal(err)
	}
	s.EndIdle()
	ex, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := ex.Respond(head(204, 0), true); err != nil {
		t.Fatal(err)
	}
	expect(t, client, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
	client.Close()
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("Next: %v", err)
	}
	s.Close()
}

// readable peeks at a descriptor.
func readable(fd uintptr) bool {
	n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n > 0 && err == nil
}

// pass lets virtual time go by, in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

func send(tb testing.TB, c net.Conn, text string) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		tb.Fatal(err)
	}
}

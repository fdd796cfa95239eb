package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// resets is a connection whose peer has closed: from the first write after broken is set, writes fail as after a
// reset, and only then is there what the peer had said, which then ends by end if it is set.
type resets struct {
	net.Conn
	broken atomic.Bool
	said   chan struct{}
	end    error
	failed atomic.Bool
}

func (r *resets) Write(p []byte) (int, error) {
	if !r.broken.Load() {
		return r.Conn.Write(p)
	}
	if r.failed.CompareAndSwap(false, true) {
		close(r.said)
	}
	return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}
}

func (r *resets) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if err != nil && r.end != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = r.end
	}
	return n, err
}

// TestAFailedWriteHidesNoLastWords lets a server end a connection while its client writes: why the stream broke
// is what the server said, if it said something in time, and that the write failed otherwise.
func TestAFailedWriteHidesNoLastWords(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}
	for _, c := range []struct {
		name        string
		end         error
		say         func(p *peer) // nil says nothing and does not close
		want        error
		notExecuted bool
		took        time.Duration
	}{
		{"GOAWAY", nil, func(p *peer) { p.fr.WriteGoAway(0, 0, nil) }, nil, true, 0},
		{"an alert", alert, func(*peer) {}, alert, false, 0},
		{"nothing", nil, nil, syscall.EPIPE, false, lastWords},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				nc := &resets{Conn: ours, said: make(chan struct{}), end: c.end}
				p := newPeer(t, theirs)
				go p.hello(false)
				cc, err := NewClientConn(nc, Config{Now: func() int64 { return time.Now().UnixNano() }})
				if err != nil {
					t.Fatal(err)
				}
				defer cc.Close()
				read := make(chan struct{})
				go func() { // a pipe has no buffer
					defer close(read)
					_, _ = io.Copy(io.Discard, theirs)
				}()
				synctest.Wait()
				nc.broken.Store(true)
				go func() {
					<-nc.said
					if c.say != nil {
						c.say(p)
						theirs.Close()
					}
				}()
				s, err := cc.Open(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				began := time.Now()
				if err := s.Send(&message.Head{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/")}, true); err != nil {
					t.Fatal(err)
				}
				var h message.Head
				_, err = s.Receive(&h)
				if errors.Is(err, message.ErrNotExecuted) != c.notExecuted || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v, not executed %v", err, c.want, c.notExecuted)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				<-cc.Done()
				if _, err := cc.Open(context.Background()); err == nil {
					t.Error("a stream was opened on a connection that cannot write")
				}
				theirs.Close()
				<-read
			})
		})
	}
}

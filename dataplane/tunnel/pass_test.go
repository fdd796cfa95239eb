//go:build unix

package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// pairOf is a TCP connection's two ends.
func pairOf(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// TestASourceThatWaitsHoldsNoBuffer: ten thousand idle pairs would else hold 160 MiB.
func TestASourceThatWaitsHoldsNoBuffer(t *testing.T) {
	a, b := pairOf(t)
	s := newSource(b)
	held := make(chan bool)
	try := s.try
	s.try = func(fd uintptr) bool {
		done := try(fd)
		if !done {
			held <- s.buf != nil
		}
		return done
	}
	got := make(chan string)
	go func() {
		p, _ := s.next()
		got <- string(p)
	}()
	if <-held {
		t.Error("it waits and holds a buffer")
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if p := <-got; p != "x" {
		t.Errorf("read %q", p)
	}
	s.release()
	a.Close()
	if _, err := s.next(); err != io.EOF || s.buf != nil {
		t.Errorf("at the end: %v, holding %v", err, s.buf != nil)
	}
}

// TestWhatBreaksDoesNotLookWhole: a reset on one side is a reset on the other.
func TestWhatBreaksDoesNotLookWhole(t *testing.T) {
	client, down := pairOf(t)
	up, server := pairOf(t)
	var in, out atomic.Int64
	done := make(chan struct{})
	go func() { defer close(done); _ = NewPair(End{Conn: down}, End{Conn: up}, time.Minute).Run(&in, &out) }()
	if _, err := server.Write([]byte("half of")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	_ = server.SetLinger(0)
	server.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("%v, want a reset", err)
	}
	<-done
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPass is both ends and what passes between them, in CPU microseconds.
func BenchmarkPass(b *testing.B) {
	const chunk = 1 << 20
	for _, how := range []string{"splice", "copy"} {
		b.Run("bulk/"+how, func(b *testing.B) {
			client, down := pairOf(b)
			up, server := pairOf(b)
			var in, out atomic.Int64
			go func() {
				if how == "splice" {
					_ = NewPair(End{Conn: down}, End{Conn: up}, time.Minute).Run(&in, &out)
					return
				}
				_, _ = io.CopyBuffer(struct{ io.Writer }{up}, struct{ io.Reader }{down}, make([]byte, 32<<10))
			}()
			go func() {
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, 256<<10))
			}()
			buf := make([]byte, chunk)
			b.SetBytes(chunk)
			before := cpu()
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/MiB")
		})
	}
	b.Run("message", func(b *testing.B) {
		client, down := pairOf(b)
		up, server := pairOf(b)
		var in, out atomic.Int64
		go func() { _ = NewPair(End{Conn: down}, End{Conn: up}, time.Minute).Run(&in, &out) }()
		go func() { _, _ = io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{server}) }()
		buf := make([]byte, 64)
		b.ReportAllocs()
		before := cpu()
		for b.Loop() {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	})
}

// passed is a pair that runs, between two pairs of sockets, and their other ends.
type passed struct {
	*Pair
	client, server *net.TCPConn
	there, back    atomic.Int64
	ended          chan error // what Run returned or panicked with
}

func passing(t *testing.T, idle time.Duration, ahead string, change func(*Pair)) *passed {
	t.Helper()
	client, down := pairOf(t)
	up, server := pairOf(t)
	for _, c := range []net.Conn{client, server} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	p := &passed{Pair: NewPair(End{down, []byte(ahead)}, End{Conn: up}, idle), client: client, server: server, ended: make(chan error, 1)}
	if change != nil {
		change(p.Pair)
	}
	go func() {
		defer func() {
			if v := recover(); v != nil {
				p.ended <- v.(error)
			}
		}()
		p.ended <- p.Run(&p.there, &p.back)
	}()
	return p
}

func (p *passed) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// TestWhatWasReadAheadGoesFirst and both directions are counted, each as itself.
func TestWhatWasReadAheadGoesFirst(t *testing.T) {
	p := passing(t, 0, "first ", nil)
	_, _ = io.WriteString(p.client, "second")
	_ = p.client.CloseWrite()
	if b, err := io.ReadAll(p.server); string(b) != "first second" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	_, _ = io.WriteString(p.server, "bye")
	_ = p.server.Close()
	if b, err := io.ReadAll(p.client); string(b) != "bye" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := p.wait(t); err != nil || p.there.Load() != 12 || p.back.Load() != 3 {
		t.Errorf("%v, %d there and %d back", err, p.there.Load(), p.back.Load())
	}
}

// TestBulkIsPassedWhole by the kernel, and without it: where splice is not to be had, and where pipes have
// run out.
func TestBulkIsPassedWhole(t *testing.T) {
	for name, pipe := range map[string]func(to, from net.Conn) (pipe, error){
		"splice":  newPipe,
		"none":    func(net.Conn, net.Conn) (pipe, error) { return nil, errors.ErrUnsupported },
		"run out": func(net.Conn, net.Conn) (pipe, error) { return nil, syscall.EMFILE },
		"refused": func(net.Conn, net.Conn) (pipe, error) { return refused{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := passing(t, time.Minute, "", func(p *Pair) { p.pipe = pipe })
			sent := make([]byte, 5<<20+11)
			for i := range sent {
				sent[i] = byte(i * i >> 7)
			}
			go func() {
				_, _ = p.client.Write(sent)
				_ = p.client.CloseWrite()
			}()
			if b, err := io.ReadAll(p.server); err != nil || !bytes.Equal(b, sent) {
				t.Errorf("%d bytes of %d, %v", len(b), len(sent), err)
			}
			_ = p.server.Close()
			if err := p.wait(t); err != nil || p.there.Load() != int64(len(sent)) {
				t.Errorf("%v, counted %d", err, p.there.Load())
			}
		})
	}
}

// refused is a pipe of a kernel that does not splice.
type refused struct{}

func (refused) Step() (int, error) { return 0, syscall.ENOSYS }
func (refused) Held() int          { return 0 }
func (refused) Close()             {}

// TestWhatFallsIdleEnds in both states of a pair: waiting for bytes, and for readers that do not
// read, in either of which no read or write of the other direction would tell.
func TestWhatFallsIdleEnds(t *testing.T) {
	p := passing(t, 100*time.Millisecond, "", nil)
	if err := p.wait(t); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	for _, c := range []net.Conn{p.client, p.server} { // an end, no reset
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v", err)
		}
	}
	p = passing(t, 100*time.Millisecond, "", nil)
	var flood sync.WaitGroup
	defer flood.Wait()
	for _, c := range []net.Conn{p.client, p.server} {
		flood.Go(func() { _, _ = c.Write(make([]byte, 64<<20)) })
	}
	if err := p.wait(t); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with nobody reading: %v", err)
	}
}

// TestACutEndsAPairAtOnce, whatever its directions wait for, and looks like what it is.
func TestACutEndsAPairAtOnce(t *testing.T) {
	denied := errors.New("denied")
	for _, state := range []string{"waiting", "blocked", "before"} {
		t.Run(state, func(t *testing.T) {
			p := passing(t, time.Hour, "", func(p *Pair) {
				if state == "before" {
					p.Cut(denied)
				}
			})
			var flood sync.WaitGroup
			written := errors.New("nothing was")
			if state == "blocked" { // neither end reads, and nobody waits for the other's close
				flood.Go(func() { _, _ = p.server.Write(make([]byte, 64<<20)) })
				flood.Go(func() { _, written = p.client.Write(make([]byte, 64<<20)) })
				for p.there.Load() == 0 || p.back.Load() == 0 {
					runtime.Gosched()
				}
			}
			p.Cut(denied)
			if err := p.wait(t); !errors.Is(err, denied) {
				t.Errorf("ended by %v", err)
			}
			flood.Wait()
			_, read := io.Copy(io.Discard, p.client)
			// The system tells a reset once, to whoever asks first.
			if !errors.Is(read, syscall.ECONNRESET) && !errors.Is(written, syscall.ECONNRESET) {
				t.Errorf("the client's read ends with %v, its write with %v; want a reset", read, written)
			}
			p.Cut(errors.New("later")) // changes nothing
		})
	}
}

// TestAPanicOfEitherDirectionIsTheCallers, who owns the connections' fate; the other direction has ended then.
func TestAPanicOfEitherDirectionIsTheCallers(t *testing.T) {
	for _, side := range []string{"down", "up"} {
		p := passing(t, 0, "", func(p *Pair) {
			if side == "down" {
				p.down.Conn = broken{p.down.Conn}
			} else {
				p.up.Conn = broken{p.up.Conn}
			}
		})
		err := p.wait(t)
		if err == nil || !strings.Contains(err.Error(), "a fault of ours") || !strings.Contains(err.Error(), "broken") {
			t.Errorf("%s: %v, want the panic and where it was", side, err)
		}
		if _, err := p.client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the client sees %v", side, err)
		}
	}
}

type broken struct{ net.Conn }

func (broken) Read([]byte) (int, error) { panic("a fault of ours") }

// giving is an end of a tunnel that gives its connection away, or refuses to.
type giving struct {
	conn  net.Conn
	asked *int
}

func (g giving) Raw() (net.Conn, []byte) { *g.asked++; return g.conn, nil }

type givingExchange struct {
	message.Exchange
	giving
}

type givingStream struct {
	message.Stream
	giving
}

// TestNothingIsTakenUnlessBothEndsGive: an end that is still read by the pipeline must not have been handed over.
func TestNothingIsTakenUnlessBothEndsGive(t *testing.T) {
	a, far := pairOf(t)
	b, _ := pairOf(t)
	var asked int
	type plainExchange struct{ message.Exchange }
	type plainStream struct{ message.Stream }
	for name, ends := range map[string]struct {
		ex    message.Exchange
		s     message.Stream
		asked int
	}{
		"exchange is none": {plainExchange{}, givingStream{giving: giving{conn: a, asked: &asked}}, 0},
		"stream is none":   {givingExchange{giving: giving{conn: a, asked: &asked}}, plainStream{}, 0},
		"stream refuses":   {givingExchange{giving: giving{conn: a, asked: &asked}}, givingStream{giving: giving{asked: &asked}}, 1},
	} {
		asked = 0
		if _, _, ok := Sockets(ends.ex, ends.s); ok || asked != ends.asked {
			t.Errorf("%s: taken: %v, asked %d", name, ok, asked)
		}
	}
	if _, _, ok := Sockets(givingExchange{giving: giving{asked: &asked}}, givingStream{giving: giving{conn: a, asked: &asked}}); ok {
		t.Error("taken from an exchange without a tunnel")
	}
	_ = far.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what had been taken of the other end ends with %v, want a reset", err)
	}
	down, up, ok := Sockets(givingExchange{giving: giving{conn: a, asked: &asked}}, givingStream{giving: giving{conn: b, asked: &asked}})
	if !ok || down.Conn != a || up.Conn != b {
		t.Errorf("%v, %v, %v", down, up, ok)
	}
}

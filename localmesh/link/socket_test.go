package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of these tests, which run over real sockets; it is never what they measure.
const patience = time.Minute

// site is a running link over real sockets with a target on its far side.
type site struct {
	*testing.T
	target *net.TCPListener
	cfg    Config
	client *Client
	listen netip.AddrPort
}

func runLink(t *testing.T, shape Shape) *site {
	t.Helper()
	target, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	dir := t.TempDir()
	s := &site{T: t, target: target, cfg: Config{
		A: "eu-west", B: "us-east", Shape: shape, Seed: 1,
		Control: filepath.Join(dir, "s"), Tap: filepath.Join(dir, "tap"),
		Forwards: []Forward{{
			Name: "gateway", Direction: AtoB, Listen: netip.MustParseAddrPort("127.0.0.1:0"),
			Target: target.Addr().(*net.TCPAddr).AddrPort(), Source: netip.MustParseAddr("127.0.0.77"),
		}},
	}}
	s.start()
	return s
}

// start runs the link until the test ends and waits until its control socket answers.
func (s *site) start() {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, s.cfg, slog.New(slog.DiscardHandler)) }()
	s.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Errorf("Run: %v", err)
		}
		if _, err := os.Lstat(s.cfg.Control); !errors.Is(err, os.ErrNotExist) {
			s.Errorf("the control socket after the end: %v", err)
		}
	})
	deadline := time.Now().Add(patience)
	for {
		var err error
		if s.client, err = Dial(context.Background(), s.cfg.Control); err == nil {
			break
		}
		if time.Now().After(deadline) {
			s.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	s.listen = s.stats().Forwards[0].Listen
}

func (s *site) stats() Stats {
	s.Helper()
	st, err := s.client.Stats(context.Background())
	if err != nil {
		s.Fatal(err)
	}
	return st
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) dial() *net.TCPConn {
	s.Helper()
	conn, err := net.DialTimeout("tcp", s.listen.String(), patience)
	s.must(err)
	return s.bounded(conn.(*net.TCPConn))
}

func (s *site) accept() *net.TCPConn {
	s.Helper()
	s.must(s.target.SetDeadline(time.Now().Add(patience)))
	conn, err := s.target.AcceptTCP()
	s.must(err)
	return s.bounded(conn)
}

func (s *site) bounded(conn *net.TCPConn) *net.TCPConn {
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	s.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *site) say(conn net.Conn, text string) {
	s.Helper()
	_, err := io.WriteString(conn, text)
	s.must(err)
}

func (s *site) hear(conn net.Conn, text string) {
	s.Helper()
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	s.must(err)
	if string(got) != text {
		s.Fatalf("heard %q, want %q", got, text)
	}
}

// eventually waits until cond holds of the link's counters.
func (s *site) eventually(what string, cond func(Stats) bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !cond(s.stats()); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%s: never; last %+v", what, s.stats())
		}
	}
}

func TestLinkRelaysFromItsSourceAddressNeverEarlierThanTheRTT(t *testing.T) {
	s := runLink(t, Shape{RTT: 20 * ms})
	start := time.Now()
	near := s.dial()
	s.say(near, "ping")
	far := s.accept()
	if got := far.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != s.cfg.Forwards[0].Source {
		t.Errorf("the target is called from %v, want %v", got, s.cfg.Forwards[0].Source)
	}
	s.hear(far, "ping")
	s.say(far, "pong")
	s.hear(near, "pong")
	if took := time.Since(start); took < 40*ms { // a lower bound, which no slow machine can break
		t.Errorf("handshake and exchange took %v, want two RTTs at least", took)
	}
	s.eventually("counted", func(st Stats) bool { // a byte is counted just after it can be read
		f := st.Forwards[0]
		return f.Sent == 4 && f.Received == 4 && f.Opened == 1 && f.Active == 1 &&
			st.AtoB.Bytes == 4 && st.BtoA.Bytes == 4 && st.AtoB.Opened == 1 && st.BtoA.Opened == 0
	})
}

func TestSocketsHalfClose(t *testing.T) {
	s := runLink(t, Shape{RTT: 2 * ms})
	near := s.dial()
	s.say(near, "request")
	s.must(near.CloseWrite())
	far := s.accept()
	got, err := io.ReadAll(far)
	s.must(err)
	if string(got) != "request" {
		t.Errorf("heard %q", got)
	}
	s.say(far, "answer")
	s.must(far.Close())
	got, err = io.ReadAll(near)
	s.must(err)
	if string(got) != "answer" {
		t.Errorf("heard %q", got)
	}
	s.eventually("closed", func(st Stats) bool { return st.AtoB.Active == 0 && st.AtoB.Closed == 1 })
}

func TestSocketsReset(t *testing.T) {
	s := runLink(t, Shape{RTT: 2 * ms})
	for _, nearResets := range []bool{true, false} {
		near := s.dial()
		s.say(near, "x")
		far := s.accept()
		s.hear(far, "x")
		resets, hears := near, far
		if !nearResets {
			resets, hears = far, near
		}
		s.must(resets.SetLinger(0))
		s.must(resets.Close())
		if _, err := hears.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("near resets %v: the other end hears %v, want ECONNRESET", nearResets, err)
		}
	}
	s.eventually("closed", func(st Stats) bool { return st.AtoB.Active == 0 })
}

func TestSocketsRefuseAndHeal(t *testing.T) {
	s := runLink(t, Shape{})
	ctx := context.Background()
	near := s.dial()
	s.say(near, "x")
	far := s.accept()
	s.hear(far, "x")
	s.must(s.client.Refuse(ctx))
	for _, end := range []*net.TCPConn{near, far} {
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an end of an old connection hears %v, want ECONNRESET", err)
		}
	}
	if conn, err := net.Dial("tcp", s.listen.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection: %v, %v, want ECONNREFUSED", conn, err)
	}
	if !s.stats().Refusing {
		t.Error("stats do not say that it refuses")
	}
	s.must(s.client.Heal(ctx))
	near = s.dial()
	s.say(near, "y")
	s.hear(s.accept(), "y")
}

func TestSocketsCutAndHealLeaveNoHole(t *testing.T) {
	s := runLink(t, Shape{RTT: 2 * ms})
	ctx := context.Background()
	near := s.dial()
	s.say(near, "before ")
	far := s.accept()
	s.hear(far, "before ")
	s.must(s.client.Cut(ctx, AtoB))
	s.say(near, "during ")
	s.eventually("held", func(st Stats) bool { return st.Held == 7 && st.AtoB.State == "cut" && st.BtoA.State == "open" })
	s.say(far, "back")
	s.hear(near, "back")
	if st := s.stats(); st.AtoB.Bytes != 7 {
		t.Errorf("%d bytes crossed, want those before the cut", st.AtoB.Bytes)
	}
	s.must(s.client.Heal(ctx))
	s.say(near, "after")
	s.hear(far, "during after")
}

// TestSocketsCutOneKindOfTraffic: the other goes on over the same link, in each direction.
func TestSocketsCutOneKindOfTraffic(t *testing.T) {
	s := runLink(t, Shape{RTT: 2 * ms})
	ctx := context.Background()
	data := s.dial()
	s.say(data, "request ")
	served := s.accept()
	s.hear(served, "request ")
	s.must(s.client.CutOnly(ctx, Control))
	s.say(data, "another ")
	s.hear(served, "another ")
	s.say(served, "answer")
	s.hear(data, "answer")
	if st := s.stats(); st.AtoB.State != "data open, control cut" || st.BtoA.State != st.AtoB.State {
		t.Errorf("the link is %s and %s", st.AtoB.State, st.BtoA.State)
	}
	s.must(s.client.HealOnly(ctx, Control))
	s.must(s.client.CutOnly(ctx, Data, AtoB))
	s.say(data, "held ")
	s.eventually("held", func(st Stats) bool {
		return st.Held == 5 && st.AtoB.State == "data cut, control open" && st.BtoA.State == "open"
	})
	s.must(s.client.Heal(ctx))
	s.say(data, "after")
	s.hear(served, "held after")
}

func TestSocketsBulkIsWholeAndIdleHoldsNothing(t *testing.T) {
	s := runLink(t, Shape{RTT: 10 * ms, Jitter: 2 * ms})
	text := noise(16<<20, 1)
	near := s.dial()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = near.Write(text) // the far end judges
		_ = near.CloseWrite()
	})
	sum := sha256.New()
	_, err := io.Copy(sum, s.accept())
	wg.Wait()
	s.must(err)
	if want := sha256.Sum256(text); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("the stream arrived changed")
	}
	s.eventually("empty", func(st Stats) bool { return st.Held == 0 && st.AtoB.Bytes == uint64(len(text)) })
}

func TestTapHoldsTheMarker(t *testing.T) {
	s := runLink(t, Shape{})
	near := s.dial()
	s.say(near, "plain ma")
	far := s.accept()
	s.hear(far, "plain ma")
	s.say(near, "rker")
	s.hear(far, "rker")
	for marker, want := range map[string]int{"marker": 1, "absent": 0} {
		f, err := os.Open(s.cfg.Tap)
		s.must(err)
		streams, n, err := SearchTap(f, []byte(marker))
		_ = f.Close()
		if err != nil || streams != want || n != 12 {
			t.Errorf("%q is in %d streams of %d bytes, error %v; want %d of 12", marker, streams, n, err, want)
		}
	}
}

func TestTapStopsAtItsBound(t *testing.T) {
	tap, err := openTap(filepath.Join(t.TempDir(), "tap"), 100)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tap.record(1, AtoB, [][]byte{make([]byte, 50)})
	}
	info, err := tap.file.Stat()
	if err != nil || info.Size() != 63 || !tap.full() {
		t.Errorf("tap of at most 100 bytes: %v, %v, full %v", info, err, tap.full())
	}
	if err := tap.close(); err != nil {
		t.Error(err)
	}
}

func TestControlSocketIsItsOwnersAloneAndReplacesAStaleOne(t *testing.T) {
	s := runLink(t, Shape{})
	info, err := os.Lstat(s.cfg.Control)
	s.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	second := s.cfg
	second.Tap = ""
	if err := Run(t.Context(), second, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second link on the socket: %v", err)
	}

	stale := filepath.Join(t.TempDir(), "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	s.must(err)
	l.SetUnlinkOnClose(false)
	s.must(l.Close())
	s.must(removeStale(stale))
	s.must(os.WriteFile(stale, nil, 0o600))
	if err := removeStale(stale); err == nil {
		t.Error("a plain file was taken for a stale socket")
	}
}

func TestRunNamesEveryAddressItCannotHave(t *testing.T) {
	taken, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at := taken.Addr().(*net.TCPAddr).AddrPort()
	cfg := Config{A: "a", B: "b", Forwards: []Forward{
		{Name: "first", Listen: at, Target: at, Source: at.Addr()},
		{Name: "fine", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: at, Source: at.Addr()},
	}}
	err = Run(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), `"first"`) {
		t.Errorf("Run: %v", err)
	}
}

func TestClientShapes(t *testing.T) {
	s := runLink(t, Shape{RTT: 80 * ms, Bandwidth: 1e9})
	ctx := context.Background()
	rtt, loss := 100*ms, 0.25
	s.must(s.client.Slow(ctx, Change{RTT: &rtt, Loss: &loss}))
	if got, want := s.stats().Shape, (Shape{RTT: rtt, Loss: loss, Bandwidth: 1e9}); got != want {
		t.Errorf("slowed to %+v, want %+v", got, want)
	}
	var refused *RefusedError
	if err := s.client.Shape(ctx, Shape{Loss: 2}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "loss") {
		t.Errorf("impossible shape: %v", err)
	}
	s.must(s.client.Stall(ctx, BtoA))
	if st := s.stats(); st.AtoB.State != "open" || st.BtoA.State != "stalled" {
		t.Errorf("states %s, %s", st.AtoB.State, st.BtoA.State)
	}
	s.must(s.client.Restore(ctx))
	if st := s.stats(); st.Shape != s.cfg.Shape || st.BtoA.State != "open" {
		t.Errorf("restored to %+v, %s", st.Shape, st.BtoA.State)
	}
	if _, err := Dial(ctx, s.cfg.Control+"no"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no link: %v", err)
	}
}

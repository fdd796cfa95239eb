package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/control/probe"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// probers is how many paths the observer's process watches: all over one link, to one
// gateway, each with its own connections.
const probers = 20

// part is what a child is told on its standard input. It lives until that is closed.
type part struct {
	Material material
	Gateway  netip.AddrPort // of the observer
	Link     json.RawMessage
}

// beChild runs one of the processes: "gateway", "observer" or "link".
func beChild(ctx context.Context, what string) error {
	in := json.NewDecoder(os.Stdin)
	var p part
	if err := in.Decode(&p); err != nil {
		return fmt.Errorf("read the part of a child: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // the parent's end
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	var err error
	switch what {
	case "gateway":
		err = beGateway(ctx, p)
	case "observer":
		err = beObserver(ctx, p)
	case "link":
		err = beLink(ctx, p)
	default:
		return fmt.Errorf("no such child: %q", what)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func beGateway(ctx context.Context, p part) error {
	source, err := p.Material.source()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	g := tunnel.NewGateway(tunnel.GatewayConfig{Source: source, Log: slog.New(slog.DiscardHandler),
		Route:  func(mesh.SNI) (netip.AddrPort, bool) { return netip.AddrPort{}, false },
		Domain: func() mesh.TrustDomain { return farDomain }})
	return g.Serve(ctx, ln)
}

func beLink(ctx context.Context, p part) error {
	cfg, err := link.ReadConfig(strings.NewReader(string(p.Link)))
	if err != nil {
		return err
	}
	return link.Run(ctx, cfg, slog.New(slog.DiscardHandler))
}

// beObserver watches, and prints each change as "nanoseconds prober state".
func beObserver(ctx context.Context, p part) error {
	source, err := p.Material.source()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var tasks sync.WaitGroup
	for i := range probers {
		last := mesh.Reachability(0xff)
		pr := probe.New(probe.Config{Source: source, Gateway: gatewayIdentity, Name: tunnel.GatewayName(farDomain), Clock: clock.Real{},
			Log:  slog.New(slog.DiscardHandler),
			Peer: mesh.Cluster{Name: "far", TrustDomain: farDomain, Gateways: []netip.AddrPort{p.Gateway}},
			Changed: func(_ mesh.ClusterName, s liveness.State) {
				if r := s.Reach(); r != last {
					last = r
					mu.Lock()
					defer mu.Unlock()
					fmt.Println(time.Now().UnixNano(), i, r)
				}
			}})
		tasks.Go(func() { _ = pr.Run(ctx) })
	}
	tasks.Wait()
	return nil
}

// child is a process of ours.
type child struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines *bufio.Scanner
}

func start(ctx context.Context, what string, p part) (*child, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-child", what)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", what, err)
	}
	if err := json.NewEncoder(in).Encode(p); err != nil {
		return nil, fmt.Errorf("tell the %s its part: %w", what, err)
	}
	return &child{cmd, in, bufio.NewScanner(out)}, nil
}

// end closes the child's input and waits; one that is stopped is killed first.
func (c *child) end() {
	c.in.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	_ = c.cmd.Wait()
}

// cpu is the processor time that the child has used (proc(5): utime and stime, in hundredths).
func (c *child) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	sum := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond, nil
}

// change is a line of the observer.
type change struct {
	at     time.Time
	prober int
	state  string
}

// stage is everything running.
type stage struct {
	gateway, link, observer *child
	control                 *link.Client

	mu      sync.Mutex
	changes []change
}

func raise(ctx context.Context, dir string, shape link.Shape) (s *stage, err error) {
	s = &stage{}
	defer func() {
		if err != nil {
			s.strike()
		}
	}()
	near, far, err := newMaterial()
	if err != nil {
		return s, err
	}
	if s.gateway, err = start(ctx, "gateway", part{Material: far}); err != nil {
		return s, err
	}
	if !s.gateway.lines.Scan() {
		return s, errors.New("the gateway said no address")
	}
	target, err := netip.ParseAddrPort(s.gateway.lines.Text())
	if err != nil {
		return s, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, err
	}
	listen := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	socket := filepath.Join(dir, "link.sock")
	cfg, err := json.Marshal(link.Config{A: "near", B: "far", Shape: shape, Seed: 1, Control: socket, Forwards: []link.Forward{
		{Name: "gateway", Direction: link.AtoB, Listen: listen, Target: target, Source: netip.MustParseAddr("127.0.0.1")}}})
	if err != nil {
		return s, err
	}
	if s.link, err = start(ctx, "link", part{Link: cfg}); err != nil {
		return s, err
	}
	for tries := 0; ; tries++ {
		if s.control, err = link.Dial(ctx, socket); err == nil {
			break
		}
		if tries == 100 {
			return s, fmt.Errorf("reach the link: %w", err)
		}
		pause(ctx, 50*time.Millisecond)
	}
	if s.observer, err = start(ctx, "observer", part{Material: near, Gateway: listen}); err != nil {
		return s, err
	}
	go s.watch()
	pause(ctx, 5*time.Second) // connected and measured
	s.take()
	return s, nil
}

func (s *stage) strike() {
	for _, c := range []*child{s.observer, s.link, s.gateway} {
		if c != nil {
			_ = c.cmd.Process.Signal(syscall.SIGCONT)
			c.end()
		}
	}
}

func (s *stage) watch() {
	for s.observer.lines.Scan() {
		var nanos int64
		var c change
		if _, err := fmt.Sscan(s.observer.lines.Text(), &nanos, &c.prober, &c.state); err != nil {
			continue
		}
		c.at = time.Unix(0, nanos)
		s.mu.Lock()
		s.changes = append(s.changes, c)
		s.mu.Unlock()
	}
}

// take returns the changes since the last call.
func (s *stage) take() []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.changes
	s.changes = nil
	return out
}

func pause(ctx context.Context, d time.Duration) { _ = clock.Wait(ctx, clock.Real{}, d) }

func lost(cs []change) (after []time.Time) {
	for _, c := range cs {
		if c.state == mesh.Unreachable.String() {
			after = append(after, c.at)
		}
	}
	return after
}

// confirm repeats some cells over sockets and processes.
func confirm(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "detection")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, loss := range []float64{0, 1, 5} {
		shape := link.Shape{RTT: ms(60), Loss: loss / 100}
		if err := confirmCell(ctx, out, dir, shape); err != nil {
			return fmt.Errorf("cell %v: %w", shape, err)
		}
	}
	return nil
}

func confirmCell(ctx context.Context, out io.Writer, dir string, shape link.Shape) error {
	s, err := raise(ctx, dir, shape)
	if err != nil {
		return err
	}
	defer s.strike()
	name := cell{shape: shape}.String()
	const quiet = 30 * time.Second
	before, err := s.observer.cpu()
	if err != nil {
		return err
	}
	pause(ctx, quiet)
	after, err := s.observer.cpu()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-12s quiet            %d false trips in %.1f minutes of a path; CPU of a prober %.3f %% of a core\n", name,
		len(lost(s.take())), (probers * quiet).Minutes(), 100*float64(after-before)/float64(quiet)/probers)

	_ = s.observer.cmd.Process.Signal(syscall.SIGSTOP)
	pause(ctx, 4*time.Second)
	_ = s.observer.cmd.Process.Signal(syscall.SIGCONT)
	pause(ctx, 4*time.Second)
	fmt.Fprintf(out, "%-12s observer stopped %d false trips in 4 s of SIGSTOP and after\n", name, len(lost(s.take())))
	burn(ctx, 8*time.Second)
	fmt.Fprintf(out, "%-12s observer starved %d false trips beside %d busy threads\n", name, len(lost(s.take())), busy())

	heal := func() error { return s.control.Heal(ctx) }
	signal := func(sig syscall.Signal) func() error {
		return func() error { return s.gateway.cmd.Process.Signal(sig) }
	}
	for _, f := range []struct {
		name        string
		begin, undo func() error
	}{
		{"black hole", func() error { return s.control.Cut(ctx) }, heal},
		{"cut there", func() error { return s.control.Cut(ctx, link.AtoB) }, heal},
		{"cut back", func() error { return s.control.Cut(ctx, link.BtoA) }, heal},
		{"gateway stopped", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		{"gateway killed", signal(syscall.SIGKILL), func() error { return nil }},
	} {
		if err := s.confirmFault(ctx, out, name, f.name, f.begin, f.undo); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) confirmFault(ctx context.Context, out io.Writer, cell, name string, begin, undo func() error) error {
	s.take()
	began := time.Now()
	if err := begin(); err != nil {
		return err
	}
	pause(ctx, 4*time.Second)
	var took []time.Duration
	for _, at := range lost(s.take()) {
		took = append(took, at.Sub(began))
	}
	slices.Sort(took)
	if len(took) == 0 {
		fmt.Fprintf(out, "%-12s %-16s not found\n", cell, name)
	} else {
		fmt.Fprintf(out, "%-12s %-16s found by %d of %d: p50 %.0f ms, max %.0f ms", cell, name, len(took), probers,
			inMS(took[len(took)/2]), inMS(took[len(took)-1]))
	}
	healed := time.Now()
	if err := undo(); err != nil {
		return err
	}
	pause(ctx, 6*time.Second)
	var back []time.Duration
	for _, c := range s.take() {
		if c.state != mesh.Unreachable.String() {
			back = append(back, c.at.Sub(healed))
		}
	}
	if len(back) > 0 {
		fmt.Fprintf(out, "; back: %d, max %.0f ms", len(back), inMS(slices.Max(back)))
	}
	fmt.Fprintln(out)
	return nil
}

func busy() int { return 8 * runtime.NumCPU() }

// burn keeps every processor busy.
func burn(ctx context.Context, d time.Duration) {
	var tasks sync.WaitGroup
	for range busy() {
		c := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if c.Start() == nil {
			tasks.Go(func() {
				pause(ctx, d)
				_ = c.Process.Kill()
				_ = c.Wait()
			})
		}
	}
	tasks.Wait()
}

package plane_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// childConfig is what a control plane in a process of its own is told; the seal key is descriptor 3.
type childConfig struct {
	Plane plane.Config
	// Spec arms failpoints.
	Spec string
}

func points() []failpoint.Point { return slices.Concat(peer.Failpoints(), loop.Failpoints()) }

// runChild is a control plane that obeys lines on its standard input ("put NAME", "delete NAME", "yaml BASE64") and
// says on its standard output who it is ("bundle BASE64"), what it has done ("done NAME") and what it holds
// ("holds ORIGIN SUM", when that changes). It ends with its standard input.
func runChild(config string) error {
	var cfg childConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	cfg.Plane.Failpoints = failpoint.New(points()...)
	if err := cfg.Plane.Failpoints.EnableSpec(cfg.Spec); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	p, err := plane.New(ctx, cfg.Plane, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	c := &cluster{ctx: ctx, name: cfg.Plane.Cluster, plane: p}
	b, err := json.Marshal(p.Bundle())
	if err != nil {
		return err
	}
	var out sync.Mutex
	say := func(words ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(words...)
	}
	say("bundle", base64.StdEncoding.EncodeToString(b))
	go func() { stop(c.obey(os.Stdin, say)) }()
	go c.tellHoldings(ctx, say)
	err = p.Run(ctx)
	if errors.Is(context.Cause(ctx), io.EOF) {
		return nil
	}
	return err
}

// obey carries out lines until they end. A write that fails is tried again: the store may be starting.
func (c *cluster) obey(in io.Reader, say func(...any)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		for {
			var err error
			switch word {
			case "put":
				err = c.write(policyYAML(rest))
			case "yaml":
				var text []byte
				if text, err = base64.StdEncoding.DecodeString(rest); err == nil {
					err = c.write(string(text))
				}
			case "delete":
				_, err = c.plane.Objects().Delete(c.ctx, policyKey(rest), store.Any())
				if errors.Is(err, store.ErrNotFound) {
					err = nil
				}
			}
			if err == nil {
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-c.ctx.Done():
				return context.Cause(c.ctx)
			}
		}
		say("done", rest)
	}
	return io.EOF
}

func policyYAML(name string) string {
	return strings.Replace(aDenial, "name: nobody", "name: "+name, 1)
}

func policyKey(name string) store.Key {
	return store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: name}
}

// holdings is a sum over the policies of an origin that a cluster has in force.
func (c *cluster) holdings(origin mesh.ClusterName) string {
	var names []string
	for f := range c.plane.World().All() {
		if f.Origin == origin && f.Kind == mesh.KindAccessPolicy {
			names = append(names, fmt.Sprintf("%s@%d.%d", f.Name, f.Stamp.WallMillis, f.Stamp.Counter))
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("%d:%x", len(names), sha256.Sum256([]byte(strings.Join(names, " "))))
}

func (c *cluster) tellHoldings(ctx context.Context, say func(...any)) {
	said := map[mesh.ClusterName]string{}
	for ctx.Err() == nil {
		for _, origin := range []mesh.ClusterName{"eu", "us"} {
			if now := c.holdings(origin); now != said[origin] {
				said[origin] = now
				say("holds", origin, now)
			}
		}
		<-time.After(20 * time.Millisecond)
	}
}

// child is a control plane in a process of its own.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	ended chan struct{}
	code  int

	mu    sync.Mutex
	holds map[string]string
	done  map[string]bool
}

// startChild starts us, with failpoints armed.
func startChild(t *testing.T, cfg plane.Config, key []byte, spec string) *child {
	t.Helper()
	config, err := json.Marshal(childConfig{cfg, spec})
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(key); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	c := &child{t: t, lines: make(chan string, 1), ended: make(chan struct{}), holds: map[string]string{}, done: map[string]bool{}}
	c.cmd = exec.Command(os.Args[0], "child", string(config))
	c.cmd.ExtraFiles = []*os.File{r}
	c.cmd.Stderr = t.Output()
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read(out)
	t.Cleanup(func() {
		c.in.Close()
		<-c.ended
	})
	return c
}

func (c *child) read(out io.Reader) {
	defer close(c.ended)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		c.mu.Lock()
		switch word {
		case "bundle":
			c.lines <- rest // once
		case "done":
			c.done[rest] = true
		case "holds":
			origin, sum, _ := strings.Cut(rest, " ")
			c.holds[origin] = sum
		}
		c.mu.Unlock()
	}
	_ = c.cmd.Wait() // the code says it
	c.code = c.cmd.ProcessState.ExitCode()
}

// say sends a line; one that is dead does not hear it.
func (c *child) say(line string) { _, _ = io.WriteString(c.in, line+"\n") }

func (c *child) holding(origin string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holds[origin]
}

// await waits until the child has carried out a line.
func (c *child) await(name string) {
	c.t.Helper()
	eventually(c.t, "true", func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Sprint(c.done[name])
	})
}

// TestCrashAtEveryPointOfReplicationConverges kills a control plane, as kill -9 does, in the middle of telling,
// applying, caching and computing. While it is dead the other cluster goes on writing and deleting. Started again
// on what is on its disk, both hold what the other states, and nothing that was deleted.
func TestCrashAtEveryPointOfReplicationConverges(t *testing.T) {
	for _, point := range points() {
		after := 6 // in the midst of changes
		switch {
		case strings.HasPrefix(string(point), "peer.cache."), point == loop.PointPublish:
			after = 1 // which happen less often
		}
		runs := []int{after}
		if point == peer.PointSend || point == peer.PointApply || point == loop.PointCommit {
			runs = append(runs, 0) // and in the first exchange
		}
		for _, after := range runs {
			t.Run(fmt.Sprintf("%s@%d", point, after), func(t *testing.T) {
				t.Parallel()
				crash(t, fmt.Sprintf("%s=exit@%d", point, after))
			})
		}
	}
}

func crash(t *testing.T, spec string) {
	eu := newCluster(t, nil, nil, "eu")
	eu.startAlone()
	us := newCluster(t, nil, nil, "us") // of which only directory, key and addresses are used
	cfg := plane.Config{Cluster: "us", Domain: mesh.DefaultDomain, Network: "us", StateDir: us.dir, SealFD: 3,
		Control: us.addr["control"], Federation: us.addr["federation"]}
	first := startChild(t, cfg, us.key, "")
	var b mesh.Bundle
	text, err := base64.StdEncoding.DecodeString(<-first.lines)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	// They join while nothing fails; what there is then is in the store of each.
	both := clusterYAML("eu", eu.plane.Bundle(), eu.addr) + "---" + clusterYAML("us", b, us.addr)
	eu.apply(both)
	first.say("yaml " + base64.StdEncoding.EncodeToString([]byte(both)))
	for i := range 4 {
		eu.apply(policyYAML(fmt.Sprintf("p%d", i)))
		first.say(fmt.Sprintf("put q%d", i))
	}
	first.await("q3")
	converged(t, eu, first)
	first.in.Close()
	<-first.ended

	armed := startChild(t, cfg, us.key, spec)
	deadline := time.After(30 * time.Second)
	for i, dead := 0, false; !dead; i++ {
		eu.apply(policyYAML(fmt.Sprintf("n%d", i%5)))
		if i%3 == 2 {
			eu.remove(fmt.Sprintf("n%d", (i-1)%5))
		}
		armed.say(fmt.Sprintf("put m%d", i%5))
		if i%3 == 2 {
			armed.say(fmt.Sprintf("delete m%d", (i-1)%5))
		}
		select {
		case <-armed.ended:
			dead = true
		case <-time.After(30 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s never fired", spec)
		}
	}
	if armed.code != failpoint.ExitKilled {
		t.Fatalf("ended with %d, want %d", armed.code, failpoint.ExitKilled)
	}
	eu.apply(policyYAML("meanwhile"))
	eu.remove("p1")

	again := startChild(t, cfg, us.key, "")
	again.say("put after")
	again.say("delete q1")
	again.await("q1")
	converged(t, eu, again)
}

// converged waits until both hold what the other states.
func converged(t *testing.T, eu *cluster, us *child) {
	t.Helper()
	last := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		a, b, c, d := eu.holdings("eu"), us.holding("eu"), us.holding("us"), eu.holdings("us")
		if a == b && c == d && c != "" && !strings.HasPrefix(c, "0:") {
			return
		}
		last = fmt.Sprintf("eu states %.6s, us holds %.6s; us states %.6s, eu holds %.6s", a, b, c, d)
		<-time.After(20 * time.Millisecond)
	}
	t.Fatal("not converged: " + last)
}

func (c *cluster) remove(policy string) {
	c.t.Helper()
	if _, err := c.plane.Objects().Delete(c.ctx, policyKey(policy), store.Any()); err != nil && !errors.Is(err, store.ErrNotFound) {
		c.t.Fatal(err)
	}
}

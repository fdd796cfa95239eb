package localmesh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Mesh is a mesh that Run runs. Its methods are safe for concurrent use.
type Mesh struct {
	cfg  Config
	plan *Plan
	log  *slog.Logger

	token     trust.Secret
	transport *http.Transport
	apis      map[mesh.ClusterName]*planeAPI
	replicas  []*planeAPI // each control plane, by itself
	processes []*process  // in the order of Plan.Specs
	stores    map[mesh.ClusterName]*storeDrill
	console   net.Listener
	locks     []*lock
	down      context.CancelFunc // ends Run

	mu      sync.Mutex
	summary Summary
}

// Limits of the supervisor.
const (
	startsAtOnce  = 4 // processes being started; more only wait for the same cores
	leftoverGrace = 5 * time.Second
)

// NotReadyError says what was missing when the time to be ready was over.
type NotReadyError struct {
	After    time.Duration
	Missing  []string
	StateDir string
}

func (e *NotReadyError) Error() string {
	text := fmt.Sprintf("the mesh is not ready after %v, missing:", e.After)
	for _, m := range e.Missing {
		text += "\n  " + m
	}
	return text + "\nlogs are in " + e.StateDir + "/logs"
}

// Run runs a mesh until ctx ends or somebody asks it to, and then ends every process it
// started. It returns nil then; *TakenError when the addresses belong to another mesh, and
// *NotReadyError when the mesh did not work in time, in both cases with nothing left running.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("start the mesh: %w", err)
	}
	plan, err := NewPlan(cfg)
	if err != nil {
		return err
	}
	manifests, err := readManifests(plan, cfg.Mesh.Manifests)
	if err != nil {
		return err
	}
	m := &Mesh{cfg: cfg, plan: plan, log: log, transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		apis: map[mesh.ClusterName]*planeAPI{}, stores: map[mesh.ClusterName]*storeDrill{}}
	defer m.transport.CloseIdleConnections()
	return m.run(ctx, manifests)
}

// run takes what the mesh needs alone, in an order that changes nothing of another mesh, and
// gives it back in the opposite order.
func (m *Mesh) run(ctx context.Context, manifests []manifestFile) (err error) {
	began := time.Now()
	if m.locks, err = lockNetworks(m.cfg.RuntimeDir, m.plan); err != nil {
		return err
	}
	defer func() {
		releaseAll(m.locks)
		_ = os.Remove(m.cfg.RuntimeDir) // if this was the last mesh
	}()
	if err := m.plan.makeDirs(); err != nil {
		return err
	}
	own, err := tryLock(m.plan.path("lock"))
	if errors.Is(err, errLocked) {
		return fmt.Errorf("start the mesh: a mesh runs in %s; end it with isthmus down, or give another --state-dir", m.plan.StateDir)
	}
	if err != nil {
		return err
	}
	defer own.release()
	// What a killed supervisor left behind is about to end.
	leftover, cancel := context.WithTimeout(ctx, leftoverGrace)
	defer cancel()
	alive, err := waitLock(leftover, m.plan.path("alive"))
	if err != nil {
		return fmt.Errorf("start the mesh: processes of an earlier one have not ended: %w", err)
	}
	defer alive.release()
	if err := m.probe(leftover); err != nil {
		return err
	}
	defer m.console.Close()
	if err := errors.Join(m.openToken(), m.plan.forgetSnapshots()); err != nil {
		return err
	}
	m.transport.DialContext = m.plan.dialAny
	alone := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	defer alone.CloseIdleConnections()
	for _, c := range m.plan.Clusters {
		m.apis[c.Name] = &planeAPI{cluster: c.Name, address: m.plan.api(c), token: m.token, client: &http.Client{Transport: m.transport}}
		for i := range c.Planes() {
			m.replicas = append(m.replicas, &planeAPI{cluster: c.Name, process: c.planeName(i), address: at(m.plan.Layout.Replica(c.N, i), portAPI), token: m.token, client: &http.Client{Transport: alone}})
		}
		m.stores[c.Name] = &storeDrill{pidFile: m.plan.storePID(c), executable: m.cfg.Executable}
	}
	return m.supervise(ctx, began, alive, manifests)
}

// probe opens the console's address and looks whether those of the control planes are free.
// It waits for those whose holder is ending.
func (m *Mesh) probe(ctx context.Context) error {
	var lc net.ListenConfig
	listen := func(address string) (net.Listener, error) {
		for {
			ln, err := lc.Listen(ctx, "tcp", address)
			if !errors.Is(err, syscall.EADDRINUSE) {
				return ln, err
			}
			// Only an earlier mesh over this state directory would go away by itself.
			if _, gone := ReadSummary(m.plan.StateDir); gone != nil || !sleep(ctx, pollEvery) {
				return nil, &TakenError{Base: int(m.plan.Layout), Address: address}
			}
		}
	}
	for _, c := range m.plan.Clusters {
		ln, err := listen(at(m.plan.Layout.ControlPlane(c.N), portControl).String())
		if err != nil {
			return err
		}
		_ = ln.Close()
	}
	var err error
	m.console, err = listen(m.plan.Layout.Console().String())
	return err
}

// openToken reads the token of the state directory, or makes it.
func (m *Mesh) openToken() error {
	text, err := ReadToken(m.plan.StateDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) < 32 {
		random := make([]byte, 32)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		text = hex.EncodeToString(random)
		err = writeFile(m.plan.tokenFile(), []byte(text+"\n"))
	}
	m.token = trust.NewSecret([]byte(text))
	return err
}

// supervise starts everything, waits for ready, and for the end.
func (m *Mesh) supervise(ctx context.Context, began time.Time, alive *lock, manifests []manifestFile) error {
	ctx, m.down = context.WithCancel(ctx)
	defer m.down()
	pipe, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the mesh: %w", err)
	}
	defer pipe.Close()
	defer ours.Close()
	m.summary = m.plan.summary()
	m.summary.PID, m.summary.Executable, m.summary.Started = os.Getpid(), m.cfg.Executable, began
	for _, l := range m.locks {
		m.summary.Locks = append(m.summary.Locks, l.file.Name())
	}
	if err := m.summary.write(); err != nil {
		return err
	}
	l := &launcher{plan: m.plan, executable: m.cfg.Executable, environ: m.cfg.Environ, parent: pipe, alive: alive.file, log: m.log,
		issue: func(ctx context.Context, c *Cluster, id mesh.Identity) (string, error) {
			return m.apis[c.Name].joinToken(ctx, id)
		}}
	crew, err := m.muster(ctx, l)
	if err != nil {
		return err
	}
	served := m.serve(ctx)
	err = m.bringUp(ctx, began, crew, manifests)
	if err == nil {
		<-ctx.Done()
	}
	m.down()
	for _, s := range m.stores {
		_ = s.resume() // a paused one would not hear its control plane
	}
	crew.stop()
	l.joins.Wait()
	for _, s := range m.stores {
		s.end(context.WithoutCancel(ctx), stopGrace)
	}
	<-served
	if gone := os.Remove(stateFile(m.plan.StateDir)); gone != nil && err == nil {
		err = fmt.Errorf("end the mesh: %w", gone)
	}
	return err
}

// crew are the processes, in three parts of which the first to be needed ends last: stores that are shared at the base, links and
// control planes at the back, proxies and applications at the front.
type crew struct {
	base, back, front part
	logs              []*logFile
}

// part is one of them.
type part struct {
	running sync.WaitGroup
	ctx     context.Context
	end     context.CancelFunc
}

func (p *part) stop() {
	p.end()
	p.running.Wait()
}

// muster prepares every process; none runs yet.
func (m *Mesh) muster(ctx context.Context, l *launcher) (*crew, error) {
	c := &crew{}
	lasting := context.WithoutCancel(ctx) // they end in their order, not when ctx does
	for _, p := range []*part{&c.base, &c.back, &c.front} {
		p.ctx, p.end = context.WithCancel(lasting)
	}
	slots := make(chan struct{}, startsAtOnce)
	for _, s := range m.plan.Specs() {
		if err := m.plan.writeSpec(s); err != nil {
			c.stop()
			return nil, err
		}
		out, err := openLog(m.plan.logFile(s.Name), logMax)
		if err != nil {
			c.stop()
			return nil, err
		}
		c.logs = append(c.logs, out)
		m.processes = append(m.processes, newProcess(s, slots, m.log, func() (*exec.Cmd, func(), error) {
			return l.command(ctx, s, out)
		}))
	}
	return c, nil
}

// start starts the processes of some roles.
func (m *Mesh) start(c *crew, roles ...Role) {
	for _, p := range m.processes {
		for _, r := range roles {
			if p.spec.Role != r {
				continue
			}
			in := &c.front
			switch r {
			case RoleStore:
				in = &c.base
			case RoleLink, RoleControlPlane, RoleRelay:
				in = &c.back
			}
			in.running.Go(func() { p.run(in.ctx) })
		}
	}
}

// stop ends every process and returns when all have ended.
func (c *crew) stop() {
	c.front.stop()
	c.back.stop()
	c.base.stop()
	for _, l := range c.logs {
		_ = l.Close()
	}
}

// bringUp starts the processes in the order in which they need each other and returns when
// the mesh is ready.
func (m *Mesh) bringUp(ctx context.Context, began time.Time, c *crew, manifests []manifestFile) error {
	limit, cancel := context.WithDeadline(ctx, began.Add(m.cfg.ReadyTimeout))
	defer cancel()
	m.start(c, RoleStore, RoleControlPlane, RoleRelay, RoleLink)
	err := m.configure(limit)
	configured := time.Since(began)
	if err == nil {
		m.start(c, RoleGateway, RoleIngress, RoleShell, RoleSidecar, RoleApp)
		err = m.applyManifests(limit, manifests)
	}
	if err == nil {
		err = m.awaitReady(limit)
	}
	var refused *refusedError
	var notReady *NotReadyError
	switch {
	case ctx.Err() != nil: // asked to end before it was ready
		return nil
	case err == nil:
	case errors.As(err, &notReady):
		return err
	case limit.Err() != nil && !errors.As(err, &refused):
		return &NotReadyError{m.cfg.ReadyTimeout, append([]string{err.Error()}, m.failed()...), m.plan.StateDir}
	default:
		return fmt.Errorf("start the mesh: %w", err)
	}
	m.mu.Lock()
	m.summary.Ready, m.summary.ReadyAfter = true, time.Since(began)
	s := m.summary
	m.mu.Unlock()
	if err := s.write(); err != nil {
		return err
	}
	m.log.Info("the mesh is ready", "after", s.ReadyAfter, "configured", configured, "processes", len(m.processes))
	if m.cfg.Out != nil {
		if err := s.Print(m.cfg.Out); err != nil {
			return fmt.Errorf("print what runs: %w", err)
		}
	}
	if m.cfg.Ready != nil {
		m.cfg.Ready(m.Summary())
	}
	return nil
}

// configure tells each control plane of the mesh, as soon as all have roots to be known by, and takes away what
// an earlier mesh file said.
func (m *Mesh) configure(ctx context.Context) error {
	roots := map[mesh.ClusterName][][]byte{}
	var mu sync.Mutex
	err := m.everywhere(func(c *Cluster) error {
		b, err := m.apis[c.Name].bundle(ctx)
		mu.Lock()
		defer mu.Unlock()
		roots[c.Name] = b.Roots
		return err
	})
	if err != nil {
		return err
	}
	return m.everywhere(func(c *Cluster) error {
		objects, err := m.plan.Objects(c, roots)
		if err != nil {
			return err
		}
		if err := m.prune(ctx, c, objects); err != nil {
			return err
		}
		return m.apis[c.Name].apply(ctx, objects)
	})
}

// everywhere does one thing for each cluster, at once.
func (m *Mesh) everywhere(do func(*Cluster) error) error {
	errs := make([]error, len(m.plan.Clusters))
	var wg sync.WaitGroup
	for i, c := range m.plan.Clusters {
		wg.Go(func() { errs[i] = do(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Summary is the mesh as it is now.
func (m *Mesh) Summary() Summary {
	m.mu.Lock()
	s := m.summary
	m.mu.Unlock()
	for _, p := range m.processes {
		s.Procs = append(s.Procs, p.status())
	}
	return s
}

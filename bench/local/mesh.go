package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/localmesh"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// running is a local mesh that runs.
type running struct {
	b       *bench
	dir     string // its state directory
	took    time.Duration
	summary localmesh.Summary
	token   string
}

// upTimeout bounds a start; `isthmus up` itself gives up earlier.
const upTimeout = time.Minute

// up starts a mesh: the default one, or that of the file which text writes.
func (b *bench) up(ctx context.Context, name string, text func() string) (*running, error) {
	m := &running{b: b, dir: filepath.Join(b.dir, name)}
	args := []string{"up", "--detach", "--state-dir", m.dir, "--address-base", fmt.Sprint(b.base)}
	if text != nil {
		file := filepath.Join(b.dir, name+".yaml")
		if err := os.WriteFile(file, []byte(text()), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--file", file)
	}
	began := time.Now()
	if err := b.isthmus(ctx, args...); err != nil {
		m.down(&err)
		return nil, err
	}
	m.took = time.Since(began)
	state, err := os.ReadFile(filepath.Join(m.dir, "mesh.json"))
	if err == nil {
		err = json.Unmarshal(state, &m.summary)
	}
	if err == nil {
		var token []byte
		token, err = os.ReadFile(filepath.Join(m.dir, "token"))
		m.token = string(bytes.TrimSpace(token))
	}
	if err != nil {
		err = fmt.Errorf("read the state of the mesh: %w", err)
		m.down(&err)
		return nil, err
	}
	return m, nil
}

// down ends the mesh, also after an interrupt, and adds to *err if that fails.
func (m *running) down(err *error) {
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	e := m.b.isthmus(ctx, "down", "--state-dir", m.dir)
	left, scan := processes(m.dir)
	if len(left) > 0 {
		scan = fmt.Errorf("processes %v are left of the mesh", left)
	}
	*err = errors.Join(*err, e, scan)
}

// isthmus runs the command line interface.
func (b *bench) isthmus(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "isthmus"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("isthmus %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// pids are the processes of the mesh with all the words in their command lines.
func (m *running) pids(words ...string) ([]int, error) {
	return processes(append([]string{m.dir, filepath.Join(m.b.bin, "isthmus")}, words...)...)
}

// pid is the only such process.
func (m *running) pid(words ...string) (int, error) {
	pids, err := m.pids(words...)
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d processes of the mesh are %q, want one", len(pids), words)
	}
	return pids[0], nil
}

// cluster finds a cluster.
func (m *running) cluster(name string) *localmesh.ClusterSummary {
	i := slices.IndexFunc(m.summary.Clusters, func(c localmesh.ClusterSummary) bool { return string(c.Name) == name })
	return &m.summary.Clusters[i]
}

// api is a client of a cluster's control plane.
func (m *running) api(cluster string) *api.Client {
	return &api.Client{BaseURL: m.cluster(cluster).API, Token: m.token, HTTP: &http.Client{Timeout: 10 * time.Second}}
}

// addr is 127.B.net.host of the n-th cluster.
func (b *bench) addr(n, net, host int) netip.Addr { return localmesh.Layout(b.base).Addr(n, net, host) }

// footprint measures the default mesh: time to ready, memory, processes.
func (b *bench) footprint(ctx context.Context) error {
	b.say("starting the default mesh %d times", b.size.starts+1)
	var took []float64
	for i := range b.size.starts + 1 {
		m, err := b.up(ctx, fmt.Sprint("start-", i), nil)
		if err != nil {
			return err
		}
		if i > 0 { // the first warms the machine
			took = append(took, m.took.Seconds())
		}
		if i == b.size.starts {
			err = b.memory(ctx, m)
		}
		if m.down(&err); err != nil {
			return err
		}
	}
	b.add(row{Row: "ready", Unit: "s", title: "`isthmus up --detach` to ready, default mesh, empty state directory"}.of(took).within(5))
	return nil
}

// memory is read a while after the start, when what starting took has been given back.
func (b *bench) memory(ctx context.Context, m *running) error {
	b.say("waiting %s, then reading memory", b.size.settle)
	idle, err := b.idleProxy(ctx, m)
	if err != nil {
		return err
	}
	if err := pause(ctx, b.size.settle); err != nil {
		return errors.Join(err, idle.end())
	}
	rss, err := kib("status", "VmRSS", idle.cmd.Process.Pid)
	if err = errors.Join(err, idle.end()); err != nil {
		return err
	}
	all, err := m.pids()
	if err != nil {
		return err
	}
	sum, err := kib("smaps_rollup", "Pss", all...)
	if err != nil {
		return err
	}
	var planes, sidecars []float64
	for _, c := range m.summary.Clusters {
		pids, err := m.planePIDs(string(c.Name))
		if err != nil {
			return err
		}
		pss, err := kib("smaps_rollup", "Pss", pids...)
		if err != nil {
			return err
		}
		planes = append(planes, megabytes(pss))
	}
	proxies, err := m.pids("\x00proxy\x00")
	if err != nil {
		return err
	}
	for _, pid := range proxies {
		v, err := kib("status", "VmRSS", pid)
		if err != nil {
			return err
		}
		sidecars = append(sidecars, v/1024)
	}
	after := fmt.Sprintf(", %s after the start", b.size.settle)
	b.add(row{Row: "pss-control-plane-mb", Unit: "MB", title: "PSS of one control plane with its store" + after}.of(planes).within(120))
	b.add(row{Row: "rss-idle-mib", Unit: "MiB", title: "RSS of an idle `isthmus-proxy` on its own, joined to the default mesh" + after}.of([]float64{rss / 1024}).within(20))
	b.add(row{Row: "rss-local-proxy-mib", Unit: "MiB",
		title: fmt.Sprintf("RSS of `isthmus proxy` in the local mesh, each of %d, pages of the binary shared with all", len(proxies))}.of(sidecars))
	b.add(row{Row: "pss-mesh-mb", Unit: "MB", title: "sum of PSS of the local mesh" + after}.of([]float64{megabytes(sum)}).within(1000))
	b.add(row{Row: "processes", Unit: "processes", title: "processes of the local mesh"}.of([]float64{float64(len(all))}))
	return nil
}

func megabytes(kib float64) float64 { return kib * 1024 / 1e6 }

// planePIDs are a control plane and its store.
func (m *running) planePIDs(cluster string) ([]int, error) {
	plane, err := m.pid("\x00control-plane\x00", cluster+".control-plane")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(m.dir, "clusters", cluster, "store.pid"))
	if err != nil {
		return nil, err
	}
	var store int
	if _, err := fmt.Sscan(string(text), &store); err != nil {
		return nil, fmt.Errorf("read the process number of the store of %s: %w", cluster, err)
	}
	return []int{plane, store}, nil
}

// idleProxy starts bin/isthmus-proxy as one more workload of eu-west, with the
// configuration of a sidecar, and returns when it has everything that it asked for.
func (b *bench) idleProxy(ctx context.Context, m *running) (*process, error) {
	const cluster, account = "eu-west", "shell"
	id := mesh.Identity{TrustDomain: m.cluster(cluster).TrustDomain, Namespace: "default", ServiceAccount: account}
	token, err := m.api(cluster).NewToken(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("join token for the idle proxy: %w", err)
	}
	own := b.addr(1, 250, 1)
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(own, port) }
	text, err := json.Marshal(map[string]any{
		"id": "default/idle", "mode": "sidecar", "cluster": cluster, "trustDomain": id.TrustDomain, "serviceAccount": account,
		"controlPlanes": []netip.AddrPort{m.cluster(cluster).ControlPlane}, "join": token, "local": own,
		"outbound": at(15001), "inbound": at(15008), "admin": at(15020), "dns": at(15053), "serviceNet": netip.PrefixFrom(b.addr(1, 250, 0), 24),
	})
	if err != nil {
		return nil, err
	}
	config := filepath.Join(m.dir, "idle.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	p, err := start(filepath.Join(b.bin, "isthmus-proxy"), "-config", config)
	if err != nil {
		return nil, err
	}
	if err := answers(ctx, "http://"+at(15020).String()+"/ready"); err != nil {
		return nil, errors.Join(fmt.Errorf("the idle isthmus-proxy is not ready: %w\n%s", err, p.output.String()), p.end())
	}
	return p, nil
}

// answers waits until a URL answers 200, ten seconds at most.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := fetch(ctx, url, io.Discard)
		if err == nil {
			return nil
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// fetch copies the body of a URL that answers 200.
func fetch(ctx context.Context, url string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %d", url, resp.StatusCode)
	}
	_, err = io.Copy(to, resp.Body)
	return err
}

// process is a child of the driver.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer // complete after end
}

func start(name string, args ...string) (*process, error) {
	return startCommand(exec.Command(name, args...))
}

func startCommand(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// end kills the process and waits for it.
func (p *process) end() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = p.cmd.Wait() // it was killed
	return nil
}

// meshFile is the mesh of the figures: the default regions and links, and two services whose one
// instance each is this program: near in eu-west, far in us-east.
func (b *bench) meshFile() string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return fmt.Sprintf(`apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, region: eu-west-1, zones: [a, b], network: eu, provider: aws, jurisdiction: EU}
  - {name: us-east, region: us-east-1, zones: [a, b], network: us, provider: aws, jurisdiction: US}
  - {name: ap-south, region: ap-south-1, zones: [a, b], network: ap, provider: aws, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: %s}
  - {between: [eu-west, ap-south], rtt: 120ms}
  - {between: [us-east, ap-south], rtt: 200ms}
workloads:
  - {name: near, namespace: bench, clusters: [eu-west], replicas: 1, port: 8080, servicePort: 8080, run: [%q, -be, app]}
  - {name: far, namespace: bench, clusters: [us-east], replicas: 1, port: 8080, servicePort: 8080, run: [%q, -be, app]}
`, rtt, self, self)
}

// rtt is of the link between eu-west and us-east.
const rtt = 80 * time.Millisecond

// serviceAt is where the shell of eu-west sees a service of namespace bench.
func (m *running) serviceAt(ctx context.Context, name string) (string, error) {
	kind, ok := manifest.KindNamed("Service")
	if !ok {
		return "", errors.New("there is no kind Service")
	}
	raw, err := m.api("eu-west").Get(ctx, kind, "bench", name)
	if err != nil {
		return "", fmt.Errorf("address of service %s: %w", name, err)
	}
	var s struct{ Spec struct{ ClusterIP string } }
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("address of service %s: %w", name, err)
	}
	return s.Spec.ClusterIP + ":8080", nil
}

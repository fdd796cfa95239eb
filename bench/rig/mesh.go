package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Mesh is a local mesh that runs.
type Mesh struct {
	Summary localmesh.Summary
	// Took is how long the start took.
	Took time.Duration

	bin, dir string // of the binaries; its state directory
	env      []string
	base     int
	token    string
}

// Options say how a mesh is started.
type Options struct {
	Bin  string // the folder of the built binaries
	Dir  string // where the mesh keeps its state, in a folder Name
	Name string
	Base int      // its address base
	File string   // the text of its mesh file; empty: the default mesh
	Env  []string // added to the environment of every process of the mesh
}

// upTimeout bounds a start; `isthmus up` itself gives up earlier.
const upTimeout = time.Minute

// Up starts a mesh.
func Up(ctx context.Context, o Options) (*Mesh, error) {
	m := &Mesh{bin: o.Bin, dir: filepath.Join(o.Dir, o.Name), base: o.Base, env: o.Env}
	args := []string{"up", "--detach", "--state-dir", m.dir, "--address-base", fmt.Sprint(o.Base)}
	if o.File != "" {
		file := filepath.Join(o.Dir, o.Name+".yaml")
		if err := os.WriteFile(file, []byte(o.File), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--file", file)
	}
	began := time.Now()
	if err := m.isthmus(ctx, args...); err != nil {
		m.Down(&err)
		return nil, err
	}
	m.Took = time.Since(began)
	state, err := os.ReadFile(filepath.Join(m.dir, "mesh.json"))
	if err == nil {
		err = json.Unmarshal(state, &m.Summary)
	}
	if err == nil {
		var token []byte
		token, err = os.ReadFile(filepath.Join(m.dir, "token"))
		m.token = string(bytes.TrimSpace(token))
	}
	if err != nil {
		err = fmt.Errorf("read the state of the mesh: %w", err)
		m.Down(&err)
		return nil, err
	}
	return m, nil
}

// Down ends the mesh, also after an interrupt, and adds to *err if that fails.
func (m *Mesh) Down(err *error) {
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	e := m.isthmus(ctx, "down", "--state-dir", m.dir)
	left, scan := Processes(m.dir)
	if len(left) > 0 {
		scan = fmt.Errorf("processes %v are left of the mesh", left)
	}
	*err = errors.Join(*err, e, scan)
}

// isthmus runs the command line interface.
func (m *Mesh) isthmus(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "isthmus"), args...)
	cmd.Env = append(os.Environ(), m.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("isthmus %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Drill does harm to parts of the mesh, or undoes it, as isthmus drill says.
func (m *Mesh) Drill(ctx context.Context, args ...string) error {
	return m.isthmus(ctx, append([]string{"drill", "--state-dir", m.dir}, args...)...)
}

// PIDs are the processes of the mesh with all the words in their command lines.
func (m *Mesh) PIDs(words ...string) ([]int, error) {
	return Processes(append([]string{m.dir, filepath.Join(m.bin, "isthmus")}, words...)...)
}

// PID is the only such process.
func (m *Mesh) PID(words ...string) (int, error) {
	pids, err := m.PIDs(words...)
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d processes of the mesh are %q, want one", len(pids), words)
	}
	return pids[0], nil
}

// Cluster finds a cluster.
func (m *Mesh) Cluster(name string) *localmesh.ClusterSummary {
	i := slices.IndexFunc(m.Summary.Clusters, func(c localmesh.ClusterSummary) bool { return string(c.Name) == name })
	return &m.Summary.Clusters[i]
}

// API is a client of a cluster's control plane.
func (m *Mesh) API(cluster string) *api.Client {
	return &api.Client{BaseURL: m.Cluster(cluster).API, Token: m.token, HTTP: &http.Client{Timeout: 10 * time.Second}}
}

// Addr is 127.B.net.host of the n-th cluster.
func (m *Mesh) Addr(n, net, host int) netip.Addr { return localmesh.Layout(m.base).Addr(n, net, host) }

// PlanePIDs are a control plane and its store.
func (m *Mesh) PlanePIDs(cluster string) ([]int, error) {
	plane, err := m.PID("\x00control-plane\x00", cluster+".control-plane")
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

// IdleProxy starts bin/isthmus-proxy as one more workload of eu-west, with the
// configuration of a sidecar, and returns it with its address when it has everything that it
// asked for.
func (m *Mesh) IdleProxy(ctx context.Context) (*Process, netip.Addr, error) {
	const cluster, account = "eu-west", "shell"
	id := mesh.Identity{TrustDomain: m.Cluster(cluster).TrustDomain, Namespace: "default", ServiceAccount: account}
	own := m.Addr(1, 250, 1)
	token, err := m.API(cluster).NewToken(ctx, id)
	if err != nil {
		return nil, own, fmt.Errorf("join token for the idle proxy: %w", err)
	}
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(own, port) }
	text, err := json.Marshal(map[string]any{
		"id": "default/idle", "mode": "sidecar", "cluster": cluster, "trustDomain": id.TrustDomain, "serviceAccount": account,
		"controlPlanes": []netip.AddrPort{m.Cluster(cluster).ControlPlane}, "join": token, "local": own,
		"outbound": at(15001), "inbound": at(15008), "admin": at(15020), "dns": at(15053), "serviceNet": netip.PrefixFrom(m.Addr(1, 250, 0), 24),
	})
	if err != nil {
		return nil, own, err
	}
	config := filepath.Join(m.dir, "idle.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, own, err
	}
	p, err := Start(nil, filepath.Join(m.bin, "isthmus-proxy"), "-config", config)
	if err != nil {
		return nil, own, err
	}
	if err := Answers(ctx, "http://"+at(15020).String()+"/ready"); err != nil {
		return nil, own, notReady(p, err)
	}
	return p, own, nil
}

// notReady is why a process that was to become ready did not, after it was ended.
func notReady(p *Process, err error) error {
	e := p.End()
	return errors.Join(fmt.Errorf("%s is not ready: %w\n%s", p.cmd.Path, err, p.Output()), e)
}

// ServiceAt is where the shell of eu-west sees a service of namespace bench, as address and port.
func (m *Mesh) ServiceAt(ctx context.Context, name string) (string, error) {
	kind, ok := manifest.KindNamed("Service")
	if !ok {
		return "", errors.New("there is no kind Service")
	}
	raw, err := m.API("eu-west").Get(ctx, kind, "bench", name)
	if err != nil {
		return "", fmt.Errorf("address of service %s: %w", name, err)
	}
	var s struct {
		Spec struct {
			ClusterIP string
			Ports     []struct{ Port int }
		}
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("address of service %s: %w", name, err)
	}
	if len(s.Spec.Ports) == 0 {
		return "", fmt.Errorf("address of service %s: it has no port", name)
	}
	return fmt.Sprintf("%s:%d", s.Spec.ClusterIP, s.Spec.Ports[0].Port), nil
}

// Apply applies the text of objects to a cluster.
func (m *Mesh) Apply(ctx context.Context, cluster, text string) error {
	file := filepath.Join(m.dir, "apply.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	return m.isthmus(ctx, "apply", "--state-dir", m.dir, "--cluster", cluster, "-f", file)
}

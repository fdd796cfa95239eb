package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// stage is everything that runs: our mesh, the mesh of another build if asked for, the peers.
type stage struct {
	ours, baseline *ground
	haproxy, nginx *rivals
	app            netip.Addr
	sni            string
}

// ground is a mesh of one cluster: the shell's sidecar calls, that of near-0 serves.
type ground struct {
	mesh                    *rig.Mesh
	shell, sidecar, gateway int // processes
	explicit                string
	at                      map[string]string // services as the shell sees them
	admins                  []string          // of shell and sidecar
}

// rivals is one kind of peer, alone and in a pair; why says what is missing.
type rivals struct {
	pair, single *rig.Peer
	at           rig.Peers
	why          string
}

const cluster = "eu-west"

// start starts all.
func (b *bench) start(ctx context.Context) (_ *stage, err error) {
	s := &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	b.Say("starting the mesh")
	if s.ours, err = b.ground(ctx, b.bin, "ours", b.base, netip.Addr{}, b.procs); err != nil {
		return nil, err
	}
	s.app = s.ours.mesh.Cluster(cluster).Instances[0].App.Addr()
	s.sni = s.ours.name("pass")
	if b.baseline != "" {
		if s.baseline, err = b.ground(ctx, b.baseline, "baseline", b.base+10, s.app, 0); err != nil {
			return nil, err
		}
	}
	return s, b.peers(ctx, s)
}

// peers starts HAProxy and nginx; that there is none is no error.
func (b *bench) peers(ctx context.Context, s *stage) error {
	certs := filepath.Join(b.dir, "certs")
	if err := rig.WriteCertificates(certs); err != nil {
		return err
	}
	logs, err := rig.SinkLogs(ctx)
	if err != nil {
		return err
	}
	m := s.ours.mesh
	p := rig.Peers{Certs: certs, Configs: b.peerDir, Dir: b.dir, Threads: 1, App: s.app, Client: m.Addr(1, 251, 1), Server: m.Addr(1, 252, 1),
		Single: m.Addr(1, 253, 1), SNI: s.sni, Log: logs}
	begin := func(name string, pair, single func(context.Context) (*rig.Peer, error)) *rivals {
		r := &rivals{at: p}
		var err, err2 error
		r.pair, err = pair(ctx)
		r.single, err2 = single(ctx)
		if err := errors.Join(err, err2); err != nil {
			b.Say("%s: %v", name, err)
			why, _, _ := strings.Cut(err.Error(), "\n") // what it said itself is above
			r.why = name + " does not run here: " + why
			_ = r.close()
			return r
		}
		b.pin(append(r.pair.PIDs, r.single.PIDs...)...)
		return r
	}
	s.haproxy = begin("HAProxy", p.HAProxyPair, p.HAProxySingle)
	s.nginx = begin("nginx", p.NGINXPair, p.NGINXSingle)
	return nil
}

func (r *rivals) close() error {
	var errs []error
	for _, p := range []*rig.Peer{r.pair, r.single} {
		if p != nil {
			errs = append(errs, p.End())
		}
	}
	return errors.Join(errs...)
}

func (s *stage) close() error {
	var err error
	for _, r := range []*rivals{s.haproxy, s.nginx} {
		if r != nil {
			err = errors.Join(err, r.close())
		}
	}
	for _, g := range []*ground{s.ours, s.baseline} {
		if g != nil {
			g.mesh.Down(&err)
		}
	}
	return err
}

// ground starts a mesh of the binaries in bin. app is the application to stand behind it, that
// of the mesh itself if it is not valid.
func (b *bench) ground(ctx context.Context, bin, name string, base int, app netip.Addr, procs int) (_ *ground, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &ground{at: map[string]string{}}
	var env []string
	if procs > 0 {
		env = append(env, fmt.Sprint("GOMAXPROCS=", procs))
	}
	if g.mesh, err = rig.Up(ctx, rig.Options{Bin: bin, Dir: b.dir, Name: name, Base: base, Env: env, File: fmt.Sprintf(meshFile, self)}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.mesh.Down(&err)
		}
	}()
	for _, p := range []struct {
		pid  *int
		name string
	}{{&g.shell, cluster + ".shell.json"}, {&g.sidecar, cluster + ".bench.near-0.sidecar.json"}, {&g.gateway, cluster + ".gateway.json"}} {
		if *p.pid, err = g.mesh.PID("\x00proxy\x00", p.name); err != nil {
			return nil, err
		}
	}
	b.pin(g.shell, g.sidecar, g.gateway)
	c := g.mesh.Cluster(cluster)
	if !app.IsValid() {
		app = c.Instances[0].App.Addr()
	}
	g.explicit = c.Shell.String()
	g.admins = []string{fmt.Sprintf("http://%s:15020", c.Shell.Addr()), fmt.Sprintf("http://%s:15020", c.Instances[0].Sidecar)}
	text := fmt.Sprintf(objects, netip.AddrPortFrom(app, rig.AppSink))
	if _, err := g.mesh.API(cluster).Apply(ctx, []api.File{{Name: "bench.yaml", Text: []byte(text)}}, api.ApplyOptions{}); err != nil {
		return nil, fmt.Errorf("apply the objects of the benchmark: %w", err)
	}
	for _, service := range []string{"near", "raw", "sink", "rpc"} {
		if g.at[service], err = g.mesh.ServiceAt(ctx, service); err != nil {
			return nil, err
		}
	}
	return g, g.answers(ctx, app)
}

// answers waits until the objects are in force in the proxies.
func (g *ground) answers(ctx context.Context, app netip.Addr) error {
	ctx, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	out := netip.AddrPortFrom(app, rig.AppHTTP).String()
	for _, w := range []load.Way{
		{Target: g.at["near"], Request: load.Get(path, host)}, {Target: g.at["raw"], Request: load.Get(path, host)},
		{Target: g.explicit, Request: load.Get("http://"+out+path, out)},
	} {
		for {
			_, err := load.Connections(ctx, &w, 1, 1)
			if err == nil {
				break
			}
			if rig.Pause(ctx, 100*time.Millisecond) != nil {
				return fmt.Errorf("the mesh does not answer at %s: %w", w.Target, err)
			}
		}
	}
	return nil
}

// name is the server name of the first slot of a service.
func (g *ground) name(service string) string {
	return mesh.SNI{Service: mesh.ServiceName{Namespace: "bench", Name: service}, TrustDomain: g.mesh.Cluster(cluster).TrustDomain}.String()
}

// hello is what a TLS client of a server name says first.
func hello(name string) ([]byte, error) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, NextProtos: []string{"isthmus/1"}}).Handshake() // nobody answers
	}()
	if err := server.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	buf := make([]byte, 16<<10)
	n, err := server.Read(buf) // one record, written at once
	if err != nil {
		return nil, err
	}
	return bytes.Clone(buf[:n]), nil
}

// pin gives processes the cores that are for proxies, if there are enough.
func (b *bench) pin(pids ...int) {
	if !b.split {
		return
	}
	for _, pid := range pids {
		if err := rig.PinProxy(pid); err != nil {
			b.Say("pin process %d: %v", pid, err)
		}
	}
}

// What is asked for.
const (
	path = "/items?id=7"
	host = "near.bench.svc.clusterset.local"
)

// meshFile is one cluster with one service, whose one instance is this program.
const meshFile = `apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, region: eu-west-1, zones: [a], network: eu}
workloads:
  - {name: near, namespace: bench, clusters: [eu-west], replicas: 1, port: 8080, servicePort: 8080, run: [%q, -be, app]}
`

// objects are the other services of the same instance: bytes, bulk and gRPC; one whose server proxy
// is the application's sink, so that a gateway can be measured alone; and leave to
// call what is outside the mesh, for a proxy that is alone.
const objects = `apiVersion: v1
kind: Service
metadata: {name: raw, namespace: bench}
spec:
  selector: {app: near}
  ports: [{name: tcp, port: 9000, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: sink, namespace: bench}
spec:
  selector: {app: near}
  ports: [{name: tcp, port: 9001, targetPort: 8081}]
---
apiVersion: v1
kind: Service
metadata: {name: rpc, namespace: bench}
spec:
  selector: {app: near}
  ports: [{name: grpc, port: 9002, targetPort: 8082}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: pass, namespace: bench}
---
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: pass-0, namespace: bench, labels: {app: pass}}
spec:
  address: 127.0.0.1
  locality: {zone: a}
  ports: [{name: tcp, port: 9003}]
  proxy: %s
  serviceAccount: pass
---
apiVersion: v1
kind: Service
metadata: {name: pass, namespace: bench}
spec:
  selector: {app: pass}
  ports: [{name: tcp, port: 9003}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: pass, namespace: bench}
---
apiVersion: isthmus.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {outbound: AllowAny}
`

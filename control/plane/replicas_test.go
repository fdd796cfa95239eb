package plane_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/internal/members"
	"github.com/isthmus-mesh/isthmus/trust"
)

// etcd is a store of three members, each a process.
type etcd struct {
	t    *testing.T
	plan members.Plan
	// run are the processes, nil for one that is down.
	run [3]*exec.Cmd
	in  [3]*os.File
}

func startEtcd(t *testing.T) *etcd {
	t.Helper()
	e := &etcd{t: t, plan: members.Plan{Dir: filepath.Join(t.TempDir(), "etcd"), Token: t.Name()}}
	for i := range e.run { // etcd holds a member's certificate against the address that it comes from
		e.plan.Members = append(e.plan.Members, members.Member{Name: fmt.Sprint("member-", i), Client: loopback.Home(t), Peer: loopback.Home(t)})
	}
	if err := e.plan.Write(time.Now()); err != nil {
		t.Fatal(err)
	}
	for i := range e.run {
		e.start(i)
		t.Cleanup(func() { e.kill(i) })
	}
	e.elected()
	return e
}

// elected returns once the members answer as one: a busy machine may take longer to elect than a control plane waits.
func (e *etcd) elected() {
	e.t.Helper()
	st, err := store.Open(store.Config{Endpoints: e.plan.Endpoints(), TLS: mustTLS(e.t, e)})
	if err != nil {
		e.t.Fatal(err)
	}
	defer st.Close()
	eventually(e.t, "answers", func() string {
		if _, err := st.Get(e.t.Context(), store.Key{Kind: "Service", Namespace: "none", Name: "none"}); !errors.Is(err, store.ErrNotFound) {
			return fmt.Sprint(err)
		}
		return "answers"
	})
}

// start starts a member; it ends with the test's process at the latest.
func (e *etcd) start(i int) {
	e.t.Helper()
	alive, ours, err := os.Pipe()
	if err != nil {
		e.t.Fatal(err)
	}
	defer alive.Close()
	cmd := exec.Command(os.Args[0], "store", "--config", e.plan.Config(e.plan.Members[i]))
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), "ISTHMUS_PARENT_FD=3"), []*os.File{alive}
	cmd.Stderr = e.t.Output()
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.run[i], e.in[i] = cmd, ours
}

// kill is kill -9.
func (e *etcd) kill(i int) {
	if e.run[i] == nil {
		return
	}
	_ = e.run[i].Process.Kill()
	_ = e.run[i].Wait()
	e.in[i].Close()
	e.run[i] = nil
}

// tls is what clients show and believe.
func (e *etcd) tls() plane.StoreTLS {
	return plane.StoreTLS{CA: e.plan.CA(), Certificate: e.plan.Certificate(), Key: e.plan.Key()}
}

// replicas starts control planes of one cluster over e, each with a directory of its own; the first is at the
// addresses of which others are told first.
func replicas(t *testing.T, ctx context.Context, parts *sync.WaitGroup, e *etcd, name string, n int) []*cluster {
	t.Helper()
	var out []*cluster
	for i := range n {
		c := newCluster(t, ctx, parts, "eu")
		c.name, c.store = "eu", e
		c.log = c.log.With("replica", fmt.Sprint(name, "-", i))
		if i > 0 {
			c.key, c.addr["gateway"] = out[0].key, out[0].addr["gateway"]
			c.dir = fmt.Sprint(out[0].dir, "-", i)
		}
		out = append(out, c)
	}
	return out
}

func (c *cluster) ready() {
	c.t.Helper()
	eventually(c.t, "<nil>", func() string { return fmt.Sprint(c.plane.Ready()) })
}

// TestReplicasAreOneAuthority starts three replicas at once over an etcd of three members that none has written to: they
// are one authority, and a token made at one is good at another, once. So they are with a member down, and over
// a restart of one with the whole etcd away.
func TestReplicasAreOneAuthority(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	e := startEtcd(t)
	all := replicas(t, ctx, &parts, e, "eu", 3)
	var starting sync.WaitGroup
	for _, c := range all {
		starting.Go(func() { c.start() })
	}
	starting.Wait()
	if t.Failed() { // a replica did not start
		t.FailNow()
	}
	want := fmt.Sprint(all[0].plane.Bundle())
	for _, c := range all {
		c.ready()
		if got := fmt.Sprint(c.plane.Bundle()); got != want {
			t.Errorf("another bundle at a replica: %s, want %s", got, want)
		}
	}
	e.kill(2)
	a := all[0].agent(agent.Config{ID: "default/one", Mode: agent.ModeSidecar, ServiceAccount: "shell", Outbound: loopback.AddrPort(t),
		ControlPlanes: []netip.AddrPort{all[1].addr["control"]}})
	all[1].run("proxy", a.Run)
	eventually(t, "default/one", func() string {
		for _, p := range all[1].plane.Proxies() {
			return p.Node.ID
		}
		return "no proxy"
	})
	all[1].apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: written-with-two-members}\n")
	for _, c := range all {
		eventually(t, "<nil>", func() string {
			_, err := c.plane.Objects().Get(ctx, store.Key{Kind: "Namespace", Name: "written-with-two-members"})
			return fmt.Sprint(err)
		})
	}
	oneKeyWins(t, all[0].plane.Objects(), all[1].plane.Objects())
	e.kill(0)
	e.kill(1)
	again := *all[2]
	again.addr = map[string]netip.AddrPort{"control": loopback.AddrPort(t), "federation": loopback.AddrPort(t)}
	again.start()
	if got := fmt.Sprint(again.plane.Bundle()); got != want {
		t.Errorf("a replica that starts while the store is away has another bundle: %s, want %s", got, want)
	}
}

// oneKeyWins races keys for tokens at two replicas: one is let, and let again.
func oneKeyWins(t *testing.T, objects ...ca.TokenObjects) {
	t.Helper()
	for i := range 20 {
		token := ca.TokenRecord{ID: trust.TokenID{1, byte(i)}, Expires: time.Now().Add(time.Hour)}
		token.Identity.TrustDomain, token.Identity.Namespace, token.Identity.ServiceAccount = "eu.isthmus.local", "shop", "web"
		if err := ca.NewSharedTokens(objects[0]).Create(t.Context(), token, time.Now()); err != nil {
			t.Fatal(err)
		}
		use := func(key int) error {
			return ca.NewSharedTokens(objects[key%len(objects)]).Use(t.Context(), token.ID, ca.KeyDigest{byte(key + 1)}, time.Now())
		}
		var won atomic.Int32
		var racing sync.WaitGroup
		for key := range 4 {
			racing.Go(func() {
				if err := use(key); err == nil {
					won.Add(1)
				} else if !errors.Is(err, ca.ErrNoToken) {
					t.Errorf("use of a token: %v", err)
				}
			})
		}
		racing.Wait()
		again := 0
		for key := range 4 {
			if use(key) == nil {
				again++
			}
		}
		if won.Load() != 1 || again != 1 {
			t.Fatalf("%d keys used one token, and %d again; want 1 and 1", won.Load(), again)
		}
	}
}

// TestEtcdsCertificatesAreLookedAt starts control planes that believe another CA, or show no certificate: each ends at
// once and says what to do. One with another seal key, or of another cluster, does not get the authority.
func TestEtcdsCertificatesAreLookedAt(t *testing.T) {
	e := startEtcd(t)
	ctx := t.Context()
	good := replicas(t, ctx, &sync.WaitGroup{}, e, "eu", 1)[0]
	good.startAlone()
	good.ready()
	other := members.Plan{Dir: filepath.Join(t.TempDir(), "other"), Token: "other", Members: e.plan.Members}
	if err := other.Write(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		wrong func(*plane.Config)
		says  string
	}{
		{"another CA", func(c *plane.Config) { c.StoreTLS.CA = other.CA() }, "was signed by no CA that is believed here: give the PEM file of etcd's CA with --etcd-ca"},
		{"the system's CAs", func(c *plane.Config) { c.StoreTLS.CA = "" }, "was signed by no CA that is believed here: give the PEM file of etcd's CA with --etcd-ca"},
		{"no certificate", func(c *plane.Config) { c.StoreTLS.Certificate, c.StoreTLS.Key = "", "" }, "etcd does not take the certificate that it was shown: give one that etcd's --trusted-ca-file signed, with --etcd-cert and --etcd-key"},
		{"a certificate of another CA", func(c *plane.Config) { c.StoreTLS.Certificate, c.StoreTLS.Key = other.Certificate(), other.Key() }, "etcd does not take the certificate"},
		{"another seal key", func(c *plane.Config) { c.SealFD = sealFD(t, sealKey()) }, "give all replicas of a cluster the same seal key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := good.config()
			cfg.StateDir = t.TempDir()
			c.wrong(&cfg)
			_, err := plane.New(ctx, cfg, good.log)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one that says %q", err, c.says)
			}
			if strings.Contains(c.says, "etcd") && !errors.Is(err, store.ErrRefused) {
				t.Errorf("error %v, want one that is ErrRefused", err)
			}
		})
	}
	cfg := good.config()
	cfg.StateDir = t.TempDir()
	if _, err := plane.New(ctx, cfg, good.log); err != nil {
		t.Errorf("control run, everything right: %v", err)
	}
}

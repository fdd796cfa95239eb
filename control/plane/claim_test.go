package plane_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// TestClustersShareAnEtcd: a cluster that is given the etcd of another by mistake ends with what to do, and leaves no trace
// there; with a prefix of its own it runs beside the other, and neither sees what is the other's. A store that nobody has claimed
// yet, as those of former versions, is claimed by who runs on it.
func TestClustersShareAnEtcd(t *testing.T) {
	ctx, parts := lasting(t)
	e := startEtcd(t)
	eu := replicas(t, ctx, parts, e, "eu", 1)[0]
	stopEU := eu.startAlone()
	eu.ctx, eu.parts = ctx, parts
	eu.ready()
	eu.apply(service("catalog"))
	claim := store.Key{Kind: "Claim.isthmus.dev", Name: "cluster"}
	owner := func(c *cluster) string {
		o, err := c.plane.Objects().Get(ctx, claim)
		if err != nil {
			return err.Error()
		}
		return string(o.Value)
	}
	if got := owner(eu); got != "eu" {
		t.Fatalf("ready, and the store belongs to %q, want eu", got)
	}

	us := newCluster(t, ctx, parts, "us")
	us.store, us.key = e, eu.key // the seal key says nothing against it
	before, _, err := eu.plane.Objects().List(ctx, store.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, us)
	after, _, err := eu.plane.Objects().List(ctx, store.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != len(after) {
		t.Errorf("%d objects after the wrong cluster was refused, %d before", len(after), len(before))
	}

	us.prefix = "/isthmus-us/"
	stopUS := us.startAlone()
	us.ready()
	us.apply(service("reviews"))
	for _, c := range []struct {
		in        *cluster
		has, less string
	}{{eu, "catalog", "reviews"}, {us, "reviews", "catalog"}} {
		eventually(t, "<nil> not found", func() string {
			_, has := c.in.plane.Objects().Get(ctx, store.Key{Kind: "Service", Namespace: "shop", Name: c.has})
			_, less := c.in.plane.Objects().Get(ctx, store.Key{Kind: "Service", Namespace: "shop", Name: c.less})
			if errors.Is(less, store.ErrNotFound) {
				less = store.ErrNotFound
			}
			return fmt.Sprint(has, " ", less)
		})
	}
	stopUS()

	// It has run and starts from its copy of the authority while the etcd is away: it ends as soon as that is back.
	stopEU()
	e.kill(0)
	e.kill(1)
	us.prefix = ""
	p, err := plane.New(ctx, us.config(), us.log)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	e.start(0)
	e.start(1)
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), wrongEtcd) {
			t.Errorf("ended with %v, want %q", err, wrongEtcd)
		}
		if p.Ready() == nil {
			t.Error("it was ready in another cluster's store")
		}
	case <-time.After(bound):
		t.Fatal("it runs on in another cluster's store")
	}

	// A store of a former version has no claim.
	direct, err := store.Open(store.Config{Endpoints: e.plan.Endpoints(), TLS: mustTLS(t, e)})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if _, err := direct.Delete(ctx, claim, store.Any()); err != nil {
		t.Fatal(err)
	}
	eu.addr["control"], eu.addr["federation"] = loopback.AddrPort(t), loopback.AddrPort(t)
	defer eu.startAlone()()
	eu.ready()
	if got := owner(eu); got != "eu" {
		t.Errorf("a store without a claim belongs to %q after its cluster has started, want eu", got)
	}
}

// TestReplicasAgreeOnThePrefix: a replica that is given another prefix than the others of its cluster would find nothing, and be an authority of its own: it ends with what to do,
// and writes nothing there but whose that prefix is. The control is the same replica with the prefix of the others; and who has none written down, as former
// versions, is written down by the first that starts.
func TestReplicasAgreeOnThePrefix(t *testing.T) {
	ctx, parts := lasting(t)
	e := startEtcd(t)
	two := replicas(t, ctx, parts, e, "eu", 2)
	first, second := two[0], two[1]
	stop := first.startAlone()
	first.ready()

	second.prefix = "/elsewhere/"
	const wrong = "the objects of cluster eu are under the prefix /isthmus/"
	if _, err := plane.New(ctx, second.config(), second.log); err == nil || !errors.Is(err, store.ErrRefused) || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "--etcd-prefix /isthmus/") {
		t.Fatalf("error %v, want %q and what to do", err, wrong)
	}
	at := func(prefix string) *store.Store {
		st, err := store.Open(store.Config{Endpoints: e.plan.Endpoints(), Prefix: prefix, TLS: mustTLS(t, e)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() }) // nothing was written to it
		return st
	}
	all, _, err := at("/elsewhere/").List(ctx, store.Scope{})
	if err != nil || len(all) > 1 || len(all) == 1 && all[0].Key.Kind != "Claim.isthmus.dev" {
		t.Errorf("under the other prefix are %v, %v; want the claim at most", all, err)
	}

	second.prefix = ""
	stopSecond := second.startAlone()
	second.ready()
	stopSecond()
	stop()

	entry := store.Key{Kind: "Prefix.isthmus.dev", Name: "eu"}
	index := at("/isthmus-clusters/")
	if _, err := index.Delete(ctx, entry, store.Any()); err != nil {
		t.Fatal(err)
	}
	first.addr["control"], first.addr["federation"] = loopback.AddrPort(t), loopback.AddrPort(t)
	defer first.startAlone()()
	first.ready()
	if o, err := index.Get(ctx, entry); err != nil || string(o.Value) != "/isthmus/" {
		t.Errorf("after a start the prefix is %q, %v", o.Value, err)
	}
}

const wrongEtcd = "belongs to cluster eu under the prefix /isthmus/, and two clusters over one would overwrite each other's objects: start this one with --etcd-prefix /isthmus-us/, or give it an etcd of its own"

// refused starts a control plane that must not start.
func refused(t *testing.T, c *cluster) {
	t.Helper()
	_, err := plane.New(c.ctx, c.config(), c.log)
	if err == nil || !strings.Contains(err.Error(), wrongEtcd) || !errors.Is(err, store.ErrRefused) {
		t.Fatalf("error %v, want one that says %q", err, wrongEtcd)
	}
}

func mustTLS(t *testing.T, e *etcd) *tls.Config {
	t.Helper()
	c, err := e.tls().Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func service(name string) string {
	return fmt.Sprintf("\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {ports: [{port: 80}]}\n", name)
}

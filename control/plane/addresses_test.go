package plane_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// seenAt is the address at which a cluster's proxies are told of a service.
func (c *cluster) seenAt(service string) string {
	v, err := derive.Eval(c.plane.World(), compile.NameOf, compile.In{Service: mesh.ServiceName{Namespace: "shop", Name: service}, View: c.plane.View()})
	switch {
	case err != nil:
		return err.Error()
	case v == nil:
		return "absent"
	}
	return v.Address.String()
}

// export states a service that other clusters may see.
func (c *cluster) export(service string) {
	c.t.Helper()
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %[1]s, namespace: shop}, spec: {ports: [{port: 80}]}}\n---\n"+
		"{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceExport, metadata: {name: %[1]s, namespace: shop}}", service))
}

func (c *cluster) withdraw(kind, name string) {
	c.t.Helper()
	if _, err := c.plane.Objects().Delete(c.ctx, store.Key{Kind: kind, Namespace: "shop", Name: name}, store.Any()); err != nil {
		c.t.Fatal(err)
	}
}

// TestAServiceOfAnotherClusterHasAnAddressHere follows the address of a service that only another cluster has:
// over a restart of the control plane that gave it, its going and coming back, and a
// service of the own that states the same address behind the API's back.
func TestAServiceOfAnotherClusterHasAnAddressHere(t *testing.T) {
	ctx, end := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end()
	us := newCluster(t, ctx, &parts, "us")
	us.start()
	eu := newCluster(t, context.Background(), nil, "eu")
	eu.services = netip.MustParsePrefix("127.11.0.0/24")
	stop := eu.startAlone()
	eu.join(eu)
	eu.join(us)
	us.join(us)
	us.join(eu)
	us.export("first")
	eventually(t, "127.11.0.10", func() string { return eu.seenAt("first") })
	us.export("second")
	eventually(t, "127.11.0.11", func() string { return eu.seenAt("second") })
	if got := us.seenAt("first"); got != "invalid IP" {
		t.Errorf("in the cluster that has it and states none: %s", got)
	}

	stop() // the control plane and its store
	stop = eu.startAlone()
	eventually(t, "127.11.0.10", func() string { return eu.seenAt("first") })
	eventually(t, "127.11.0.11", func() string { return eu.seenAt("second") })

	us.withdraw("ServiceExport.multicluster.x-k8s.io", "first")
	eventually(t, "absent", func() string { return eu.seenAt("first") })
	us.export("third")
	eventually(t, "127.11.0.12", func() string { return eu.seenAt("third") })
	us.export("first")
	eventually(t, "127.11.0.10", func() string { return eu.seenAt("first") })

	eu.apply("{apiVersion: v1, kind: Service, metadata: {name: bold, namespace: shop}, spec: {clusterIP: 127.11.0.11, ports: [{port: 80}]}}")
	eventually(t, "127.11.0.13", func() string { return eu.seenAt("second") })
	if got := eu.seenAt("bold"); got != "127.11.0.11" {
		t.Errorf("the own service: %s", got)
	}
	eu.apply("{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceImport, metadata: {name: third, namespace: shop}, spec: {type: ClusterSetIP, ips: [127.11.0.77], ports: [{port: 80}]}}")
	eventually(t, "127.11.0.77", func() string { return eu.seenAt("third") })
	stop()
}

// TestARangeThatIsExhaustedIsSaid lets another cluster export more services than there are addresses.
func TestARangeThatIsExhaustedIsSaid(t *testing.T) {
	ctx, end := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end()
	us, eu := newCluster(t, ctx, &parts, "us"), newCluster(t, ctx, &parts, "eu")
	eu.services = netip.MustParsePrefix("127.11.0.8/30") // .10 and .11
	us.start()
	eu.start()
	eu.join(eu)
	eu.join(us)
	us.join(us)
	us.join(eu)
	for _, s := range []string{"a", "b", "c"} {
		us.export(s)
		eventually(t, map[string]string{"a": "127.11.0.10", "b": "127.11.0.11", "c": "invalid IP"}[s], func() string { return eu.seenAt(s) })
	}
	c := mesh.ServiceName{Namespace: "shop", Name: "c"}
	eventually(t, "no address is left in 127.11.0.8/30", func() string { return eu.plane.Addresses().Problem(c) })
	us.withdraw("ServiceExport.multicluster.x-k8s.io", "c")
	eventually(t, "none", func() string {
		if p := eu.plane.Addresses().Problem(c); p != "" {
			return p
		}
		return "none"
	})
}

// TestTwoReplicasOverOneStore gives addresses by two pools over the real store at once.
func TestTwoReplicasOverOneStore(t *testing.T) {
	eu := newCluster(t, context.Background(), nil, "eu")
	eu.services = netip.MustParsePrefix("127.11.0.0/24")
	defer eu.startAlone()()
	eventually(t, "ready", func() string {
		if err := eu.plane.Ready(); err != nil {
			return err.Error()
		}
		return "ready"
	})
	const services, replicas = 40, 3
	told := make([][services]netip.Addr, replicas)
	var all sync.WaitGroup
	for r := range replicas {
		pool, err := address.New(address.Config{Range: eu.services, Store: eu.plane.Objects(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for i := range services {
				n := (i*[replicas]int{1, 3, 7}[r] + 13*r) % services // each in an order of its own
				answers, err := pool.Claim(t.Context(), []address.Ask{{Service: mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint("s", n)}}}, address.Options{})
				if err != nil || answers[0].Refused != address.None {
					t.Errorf("replica %d, service %d: %+v, %v", r, n, answers, err)
					return
				}
				told[r][n] = answers[0].Address
			}
		})
	}
	all.Wait()
	seen := map[netip.Addr]int{}
	for n, a := range told[0] {
		if other, twice := seen[a]; twice {
			t.Errorf("services %d and %d have %s", other, n, a)
		}
		seen[a] = n
		for r := range told {
			if told[r][n] != a {
				t.Errorf("service %d: replica 0 was told %s, replica %d %s", n, a, r, told[r][n])
			}
		}
	}
}

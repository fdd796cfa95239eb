package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// clusterName is the cluster whose control plane is measured.
const clusterName = "eu-west"

// meshFile is a mesh of one cluster without workloads: its services are objects.
const meshFile = `apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters: [{name: eu-west}]
`

// batch is how many objects are applied at once.
const batch = 200

// plane is ours under test.
type plane struct {
	name  string // of its cluster
	m     *rig.Mesh
	door  *api.Client
	pid   int   // of the control plane
	pids  []int // and of its store
	ends  int   // endpoints a service
	serve server
}

// startPlane starts a mesh of one cluster and gives it services.
func startPlane(ctx context.Context, o rig.Options, services, endpoints int) (*plane, error) {
	if o.File == "" {
		o.File = meshFile
	}
	m, err := rig.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	p := &plane{name: clusterName, m: m, door: m.API(clusterName), ends: endpoints}
	if err := p.fill(ctx, services); err != nil {
		m.Down(&err)
		return nil, err
	}
	return p, nil
}

// fill gives the control plane its services.
func (p *plane) fill(ctx context.Context, services int) error {
	docs := []string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n"}
	for i := range services {
		docs = append(docs, serviceYAML(i))
		for e := range p.ends {
			docs = append(docs, workloadYAML(i, e, 0))
		}
	}
	if err := p.applyAll(ctx, docs); err != nil {
		return err
	}
	return p.enter(ctx, services)
}

// applyAll applies documents in batches.
func (p *plane) applyAll(ctx context.Context, docs []string) error {
	for len(docs) > 0 {
		n := min(batch, len(docs))
		if err := p.apply(ctx, strings.Join(docs[:n], "---\n")); err != nil {
			return err
		}
		docs = docs[n:]
	}
	return nil
}

// enter gets what a fleet needs to ask for the services.
func (p *plane) enter(ctx context.Context, services int) (err error) {
	if p.pids, err = p.m.PlanePIDs(p.name); err != nil {
		return err
	}
	p.pid = p.pids[0]
	config, err := p.join(ctx)
	if err != nil {
		return err
	}
	all := names(services)
	p.serve = server{addr: p.m.Cluster(p.name).ControlPlane.String(), tls: config, node: p.node, interests: []interest{
		{typ: string(ir.TypeBundle)}, {typ: string(ir.TypeCluster)},
		{typ: string(ir.TypeName), want: services},
		{typ: string(ir.TypeEndpoints), names: all, want: services},
		{typ: string(ir.TypeService), names: all, want: services},
		{typ: string(ir.TypeSplit), names: all},
	}}
	return nil
}

// node is a proxy of namespace bench that follows all six types.
func (p *plane) node(i int) []byte { return p.nodeOf(i, 6) }

// nodeOf is a proxy: its ID, its mode, and how many types follow at once (metadata of package xds).
func (p *plane) nodeOf(i, types int) []byte {
	text := func(v string) []byte { return appendField(nil, 3, []byte(v)) }
	entry := func(k, v string) []byte { return appendField(appendField(nil, 1, []byte(k)), 2, text(v)) }
	meta := appendField(appendField(nil, 1, entry("isthmus.dev/mode", "sidecar")), 1, entry("isthmus.dev/types", fmt.Sprint(types)))
	b := appendField(nil, 1, fmt.Appendf(nil, "bench/proxy-%d", i))
	b = appendField(b, 2, []byte(p.name))
	return appendField(b, 3, meta)
}

// join gets a certificate as a proxy does; all proxies of the fleet show it.
func (p *plane) join(ctx context.Context) (*tls.Config, error) {
	c := p.m.Cluster(p.name)
	id := mesh.Identity{TrustDomain: c.TrustDomain, Namespace: "bench", ServiceAccount: "proxy"}
	text, err := p.door.NewToken(ctx, id)
	if err != nil {
		return nil, err
	}
	token, err := trust.ParseToken(text)
	if err != nil {
		return nil, err
	}
	control := mesh.Identity{TrustDomain: c.TrustDomain, Namespace: "isthmus-system", ServiceAccount: "control-plane"}
	conn, err := grpc.NewClient("passthrough:"+c.ControlPlane.String(), grpc.WithTransportCredentials(credentials.NewTLS(
		trust.JoinClientConfig(clock.Real{}, token, "join."+string(c.TrustDomain), []mesh.Identity{control}, "h2"))))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	key, err := trust.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	csr, err := key.CSR()
	if err != nil {
		return nil, err
	}
	r, err := wirepb.NewIdentityClient(conn).Sign(ctx, &wirepb.SignRequest{Csr: csr, Token: token.Text()})
	if err != nil {
		return nil, fmt.Errorf("get a certificate for the fleet: %w", err)
	}
	svid, err := trust.NewSVID(key, r.Chain)
	if err != nil {
		return nil, err
	}
	bundles := new(trust.Bundles)
	for _, b := range r.Bundles {
		if bundles, err = bundles.With(*wire.ToBundle(b)); err != nil {
			return nil, err
		}
	}
	source := trust.NewSource(clock.Real{})
	if err := source.Update(svid, bundles); err != nil {
		return nil, err
	}
	return trust.ClientConfig(source, trust.AcceptServers(c.TrustDomain, control), "control-plane."+string(c.TrustDomain), "h2"), nil
}

func (p *plane) apply(ctx context.Context, text string) error {
	for end := time.Now().Add(time.Minute); ; {
		r, err := p.door.Apply(ctx, []api.File{{Name: "bench.yaml", Text: []byte(text)}}, api.ApplyOptions{})
		var busy *api.Error
		switch {
		case err == nil:
			return nil
		case r != nil && len(r.Faults) > 0:
			return fmt.Errorf("%w: %v", err, r.Faults[0])
		case !errors.As(err, &busy) || busy.Status < 500 || time.Now().After(end):
			return err
		}
		if err := rig.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// serviceYAML is a service without an address of its own: a local mesh has some two hundred of these.
func serviceYAML(i int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: svc-%[1]d, namespace: bench}\nspec: {clusterIP: None, selector: {app: svc-%[1]d}, ports: [{name: http, port: 80, targetPort: 8080}]}\n", i)
}

// workloadYAML is an endpoint; version moves it to another address.
func workloadYAML(i, e, version int) string {
	octet := e
	if version > 0 {
		octet = 10 + version%197 // a prime: services that are changed in turn get another each time
	}
	return fmt.Sprintf(`apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: svc-%[1]d-%[2]d, namespace: bench, labels: {app: svc-%[1]d}}
spec: {address: 10.%[3]d.%[4]d.%[5]d, locality: {zone: a}, ports: [{name: http, port: 8080}], proxy: "10.%[3]d.%[4]d.%[5]d:15008", serviceAccount: svc}
`, i, e, i>>8, i&255, octet)
}

func routeYAML(i, version int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route-%[1]d, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: svc-%[1]d}]
  rules: [{matches: [{path: {type: PathPrefix, value: /v%[2]d}}], backendRefs: [{name: svc-%[1]d, port: 80}]}]
`, i, version)
}

package localmesh

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var update = flag.Bool("update", false, "write the golden files anew")

// planned is the plan of the default mesh.
func planned(t *testing.T, change func(*Config)) *Plan {
	t.Helper()
	c := Config{Mesh: Default(), StateDir: "/s", AddressBase: DefaultBase}
	if change != nil {
		change(&c)
	}
	p, err := NewPlan(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAddressesAreThoseOfTheContract(t *testing.T) {
	p := planned(t, nil)
	eu, us := p.Clusters[0], p.Clusters[1]
	catalog := eu.Instances[slices.IndexFunc(eu.Instances, func(i *Instance) bool { return i.Name() == "catalog-1" })]
	k := p.serviceIndex(mesh.ServiceName{Namespace: "shop", Name: "catalog"})
	for _, c := range []struct {
		what string
		got  fmt.Stringer
		want string
	}{
		{"shell of the first cluster", p.Layout.Shell(eu.N), "127.11.0.1"},
		{"control plane of the second", p.Layout.ControlPlane(us.N), "127.12.0.2"},
		{"gateway", p.Layout.Gateway(eu.N), "127.11.0.3"},
		{"where the first reaches the second", p.Layout.LinkEnd(eu.N, us.N), "127.11.255.2"},
		{"sidecar", p.Layout.Sidecar(eu.N, catalog.N), "127.11.3.1"},
		{"application", p.Layout.App(eu.N, catalog.N), "127.11.3.2"},
		{"service", p.Layout.Service(eu.N, k), "127.11.0.11"},
		{"service as an instance sees it", p.Layout.ServiceFor(eu.N, catalog.N, k), "127.11.3.11"},
		{"console", p.Layout.Console(), "127.0.0.1:15080"},
		{"console at another base", Layout(40).Console(), "127.41.0.1:15080"},
	} {
		if got := c.got.String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestNoTwoProcessesHaveOneAddress(t *testing.T) {
	t.Run("networks apart", func(t *testing.T) { addressesDiffer(t, planned(t, nil)) })
	t.Run("one network", func(t *testing.T) { addressesDiffer(t, planned(t, oneNetwork)) })
	t.Run("several control planes", func(t *testing.T) { addressesDiffer(t, planned(t, replicated)) })
}

// replicated gives the first cluster three control planes.
func replicated(c *Config) { c.Mesh.Clusters[0].Replicas = 3 }

func oneNetwork(c *Config) {
	for i := range c.Mesh.Clusters {
		c.Mesh.Clusters[i].Network = "flat"
	}
}

func addressesDiffer(t *testing.T, p *Plan) {
	owner := map[netip.AddrPort]string{}
	taken := func(name string, addresses ...netip.AddrPort) {
		for _, a := range addresses {
			if before := owner[a]; a.IsValid() && before != "" {
				t.Errorf("%s and %s both listen on %s", before, name, a)
			}
			owner[a] = name
		}
	}
	specs := p.Specs()
	for _, s := range specs {
		switch c := s.Config.(type) {
		case planeConfig:
			taken(s.Name, c.Control, c.Federation, c.API)
		case *proxyConfig:
			taken(s.Name, c.Outbound, c.Inbound, c.Gateway, c.Admin, c.DNS)
			if c.Local != c.Admin.Addr() {
				t.Errorf("%s speaks from %s and listens on %s", s.Name, c.Local, c.Admin)
			}
		case link.Config:
			for _, f := range c.Forwards {
				taken(s.Name, f.Listen)
				if near, far := p.cluster(f.Listen.Addr()), p.cluster(f.Target.Addr()); near == far || p.cluster(f.Source) != far {
					t.Errorf("%s: %+v does not lead from one cluster into the other", s.Name, f)
				}
			}
		}
	}
	want := 3*(1+2+2*5) + 3
	for _, c := range p.Clusters {
		if c.Planes() > 1 {
			want += c.Planes() - 1 + membersOfStore
			for _, m := range p.store(c).Members {
				taken(m.Name, m.Client, m.Peer)
			}
		}
	}
	if len(specs) != want {
		t.Errorf("%d processes besides stores and supervisor, want %d", len(specs), want)
	}
}

// TestProxiesReachEachEndpointOfTheirNetworkThroughALink follows what a proxy dials: translated, it is an address of its
// own cluster at which a link listens, which leads to that endpoint; and no address of another cluster is left that
// could be dialled directly.
func TestProxiesReachEachEndpointOfTheirNetworkThroughALink(t *testing.T) {
	p := planned(t, func(c *Config) { oneNetwork(c); c.Mesh.Clusters[2].Network = "apart" })
	forwards := map[netip.AddrPort]link.Forward{}
	for _, l := range p.Links {
		for _, f := range p.linkConfig(l).Forwards {
			forwards[f.Listen] = f
		}
	}
	if want := 3*2*2 + 2*5; len(forwards) != want {
		t.Errorf("%d forwards, want %d: gateway and federation port each way of three pairs, 5 endpoints each way of one", len(forwards), want)
	}
	for _, s := range p.Specs() {
		c, ok := s.Config.(*proxyConfig)
		if !ok {
			continue
		}
		for _, other := range p.Clusters {
			if other == s.Cluster {
				continue
			}
			if !slices.ContainsFunc(c.Unreachable, func(n netip.Prefix) bool { return n.Contains(p.Layout.App(other.N, 254)) }) {
				t.Errorf("%s may connect to %s directly: unreachable are %v", s.Name, other.Name, c.Unreachable)
			}
			for _, i := range other.Instances {
				own := at(p.Layout.Sidecar(other.N, i.N), portInbound)
				to, translated := c.Translate[own]
				switch f := forwards[to]; {
				case translated != (other.Network == s.Cluster.Network):
					t.Errorf("%s on network %s: %s on %s is translated: %v", s.Name, s.Cluster.Network, own, other.Network, translated)
				case translated && (f.Target != own || !p.Layout.Cluster(s.Cluster.N).Contains(to.Addr())):
					t.Errorf("%s reaches %s at %s, which leads to %s", s.Name, own, to, f.Target)
				}
			}
		}
	}
}

func TestTheLargestClustersOfOneNetworkHaveALink(t *testing.T) {
	p := planned(t, func(c *Config) {
		oneNetwork(c)
		c.Mesh.Workloads = []manifest.LocalWorkload{{Namespace: "a", Name: "s", Clusters: []mesh.ClusterName{"eu-west", "us-east"}, Replicas: instancesMax}}
	})
	text, err := json.Marshal(p.linkConfig(p.Links[0]))
	if err != nil {
		t.Fatal(err)
	}
	c, err := link.ReadConfig(bytes.NewReader(text))
	if err != nil || len(c.Forwards) != 2*(2+instancesMax) {
		t.Errorf("%d forwards in %d bytes: %v", len(c.Forwards), len(text), err)
	}
}

// cluster is the second octet.
func (p *Plan) cluster(a netip.Addr) byte { return a.As4()[1] }

func TestTheOrderOfTheMeshFileChangesNoAddress(t *testing.T) {
	want := planned(t, nil)
	got := planned(t, func(c *Config) { slices.Reverse(c.Mesh.Workloads); slices.Reverse(c.Mesh.Links) })
	if d := cmp.Diff(want.Services, got.Services); d != "" {
		t.Errorf("services (-file +reversed):\n%s", d)
	}
	for i, c := range want.Clusters {
		a, err := want.Objects(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := got.Objects(got.Clusters[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(a), string(b)); d != "" {
			t.Errorf("objects of %s (-file +reversed):\n%s", c.Name, d)
		}
	}
}

// TestTheDefaultMeshIsThatOfTheContract compares with a mesh file that says what the contract
// says.
func TestTheDefaultMeshIsThatOfTheContract(t *testing.T) {
	const file = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, region: eu-west-1, zones: [a, b], network: eu, provider: aws, jurisdiction: EU}
  - {name: us-east, region: us-east-1, zones: [a, b], network: us, provider: aws, jurisdiction: US}
  - {name: ap-south, region: ap-south-1, zones: [a, b], network: ap, provider: aws, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: 80ms}
  - {between: [eu-west, ap-south], rtt: 120ms}
  - {between: [us-east, ap-south], rtt: 200ms}
workloads:
  - {name: frontend, namespace: shop, run: builtin/shop}
  - {name: catalog, namespace: shop, replicas: 2, run: builtin/shop}
  - {name: reviews, namespace: shop, run: builtin/shop}
  - {name: cart, namespace: shop, run: builtin/shop}
`
	r := manifest.Parse("mesh.yaml", []byte(file), manifest.Options{})
	if len(r.Faults) > 0 {
		t.Fatal(r.Faults)
	}
	if d := cmp.Diff(*r.Objects[0].Value.(*manifest.LocalMesh), Default()); d != "" {
		t.Errorf("default mesh (-contract +Default):\n%s", d)
	}
}

func TestObjectsOfAClusterAreAsCommitted(t *testing.T) {
	p := planned(t, func(c *Config) {
		c.Mesh.Workloads = c.Mesh.Workloads[1:2]
		c.Mesh.Workloads = append(c.Mesh.Workloads, manifest.LocalWorkload{Namespace: "ops", Name: "probe", Clusters: []mesh.ClusterName{"eu-west"},
			Replicas: 0, Port: 9090, ServicePort: 9000, Command: []string{"probe"}},
			manifest.LocalWorkload{Namespace: "far", Name: "there", Clusters: []mesh.ClusterName{"us-east"}, Export: true, Replicas: 1, Port: 9090, ServicePort: 90, Builtin: "builtin/echo"},
			manifest.LocalWorkload{Namespace: "far", Name: "kept", Clusters: []mesh.ClusterName{"us-east"}, Replicas: 1, Port: 9090, ServicePort: 90, Builtin: "builtin/echo"})
	})
	got, err := p.Objects(p.Clusters[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "objects.yaml")
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("objects (-committed +got; -update writes them):\n%s", d)
	}
}

func TestRootsGoIntoTheClusterTheyVerify(t *testing.T) {
	p := planned(t, nil)
	root, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Objects(p.Clusters[0], map[mesh.ClusterName][][]byte{"us-east": {root}})
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(text), "---\n") {
		if got, want := strings.Contains(doc, "BEGIN CERTIFICATE"), strings.Contains(doc, "kind: Cluster") && strings.Contains(doc, "name: us-east"); got != want {
			t.Errorf("roots in this object: %v, want %v\n%s", got, want, doc)
		}
	}
}

func TestEveryRoundTripTimeCanBeWritten(t *testing.T) {
	for rtt, want := range map[time.Duration]string{1500 * time.Millisecond: "rtt: 1500ms", time.Minute: "rtt: 60000ms", 0: ""} {
		p := planned(t, func(c *Config) { c.Mesh.Links[0].RTT = rtt })
		text, err := p.Objects(p.Clusters[0], nil)
		if err != nil {
			t.Fatalf("%v: %v", rtt, err)
		}
		if got := strings.Count(string(text), "rtt:"); want == "" && got != 1 || !strings.Contains(string(text), want) {
			t.Errorf("%v: want %q in the objects", rtt, want)
		}
	}
}

func TestPlansThatCannotBeAreRefusedWithAllFaults(t *testing.T) {
	crowd := func(n, replicas int) []manifest.LocalWorkload {
		var out []manifest.LocalWorkload
		for i := range n {
			out = append(out, manifest.LocalWorkload{Namespace: "a", Name: fmt.Sprintf("s%d", i), Clusters: []mesh.ClusterName{"eu-west"}, Replicas: replicas})
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"no cluster":       {func(c *Config) { c.Mesh.Clusters = nil }, []string{"no cluster"}},
		"base too high":    {func(c *Config) { c.AddressBase = 253 }, []string{"address base 253: want 1 to 252 for 3 clusters"}},
		"too many":         {func(c *Config) { c.Mesh.Workloads = crowd(250, 2) }, []string{"250 of them", "500 instances"}},
		"path too long":    {func(c *Config) { c.StateDir = "/" + strings.Repeat("x", 100) }, []string{"link eu-west--us-east: control: ", "us-east--ap-south"}},
		"rtt out of range": {func(c *Config) { c.Mesh.Links[0].RTT = time.Hour; c.Mesh.Links[1].Loss = 1 }, []string{"rtt: 1h", "loss: 1 is"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Mesh: Default(), StateDir: "/s", AddressBase: DefaultBase}
			c.change(&cfg)
			_, err := NewPlan(cfg)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want %q in it", err, want)
				}
			}
		})
	}
}

func TestUnlistedPairsHaveALinkToo(t *testing.T) {
	p := planned(t, func(c *Config) { c.Mesh.Links = nil })
	if len(p.Links) != 3 || p.Links[0].Shape != (link.Shape{RTT: manifest.DefaultRTT}) {
		t.Errorf("links %+v, want three of %v", p.Links, manifest.DefaultRTT)
	}
	reversed := planned(t, func(c *Config) { c.Mesh.Links[0].Between = [2]mesh.ClusterName{"us-east", "eu-west"} })
	if got := reversed.Link("eu-west", "us-east").Name(); got != "us-east--eu-west" {
		t.Errorf("link %s, want it named as it was written", got)
	}
}

func TestTargets(t *testing.T) {
	p := planned(t, func(c *Config) {
		c.Mesh.Workloads = append(c.Mesh.Workloads,
			manifest.LocalWorkload{Namespace: "other", Name: "cart", Clusters: []mesh.ClusterName{"us-east"}, Replicas: 1},
			manifest.LocalWorkload{Namespace: "shop", Name: "gateway", Clusters: []mesh.ClusterName{"us-east"}, Replicas: 1})
	})
	instance := func(names ...string) Target {
		var t Target
		for _, n := range names {
			t.Processes = append(t.Processes, n+".app", n+".sidecar")
		}
		return t
	}
	for text, want := range map[string]Target{
		"control-plane@eu-west":         {Processes: []string{"eu-west.control-plane"}},
		"gateway@us-east":               {Processes: []string{"us-east.gateway"}},
		"gateway.shop@us-east":          instance("us-east.shop.gateway-0"),
		"store@ap-south":                {Stores: []mesh.ClusterName{"ap-south"}},
		"catalog@eu-west":               instance("eu-west.shop.catalog-0", "eu-west.shop.catalog-1"),
		"catalog.shop@eu-west":          instance("eu-west.shop.catalog-0", "eu-west.shop.catalog-1"),
		"catalog/1@eu-west":             instance("eu-west.shop.catalog-1"),
		"catalog.shop/0@eu-west":        instance("eu-west.shop.catalog-0"),
		"cart.other@us-east":            instance("us-east.other.cart-0"),
		"cart@eu-west":                  instance("eu-west.shop.cart-0"),
		"sidecar:catalog@eu-west":       {Processes: []string{"eu-west.shop.catalog-0.sidecar", "eu-west.shop.catalog-1.sidecar"}},
		"app:catalog.shop/1@eu-west":    {Processes: []string{"eu-west.shop.catalog-1.app"}},
		"eu-west--us-east":              {Processes: []string{"link.eu-west--us-east"}, Links: []TargetLink{{p.Link("eu-west", "us-east"), "eu-west"}}},
		"us-east--eu-west":              {Processes: []string{"link.eu-west--us-east"}, Links: []TargetLink{{p.Link("eu-west", "us-east"), "us-east"}}},
		"mars":                          {},
		"eu-west--mars":                 {},
		"catalog@mars":                  {},
		"catalog":                       {},
		"catalogue@eu-west":             {},
		"catalog/2@eu-west":             {},
		"catalog/-1@eu-west":            {},
		"catalog/x@eu-west":             {},
		"catalog.ops@eu-west":           {},
		"cart@us-east":                  {}, // in two namespaces
		"app:eu-west":                   {},
		"app:gateway@eu-west":           {},
		"sidecar:app:catalog@eu-west":   {},
		"":                              {},
		"@eu-west":                      {},
		"control-plane":                 {},
		"catalog.shop.svc/0@eu-west":    {},
		"catalog@eu-west@us-east":       {},
		"eu-west--us-east--ap-south":    {},
		"sidecar:control-plane@eu-west": {},
	} {
		got, err := p.Target(text)
		if len(want.Processes)+len(want.Stores) == 0 {
			unknown, ok := err.(*UnknownTargetError)
			if !ok || !slices.Contains(unknown.Valid, "catalog.shop/1@eu-west") || !strings.Contains(err.Error(), "store@ap-south") {
				t.Errorf("%q: %v, %v: want an error that lists what may be written", text, got, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b *Link) bool { return a == b })); d != "" {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
	whole, err := p.Target("us-east")
	if err != nil || len(whole.Processes) != 1+2+2*7 || len(whole.Links) != 2 || len(whole.Stores) != 1 {
		t.Errorf("a cluster: %+v, %v: want all its processes, its store and both links", whole, err)
	}
	for _, text := range p.Targets() {
		if _, err := p.Target(text); err != nil && !strings.Contains(err.Error(), "namespaces") {
			t.Errorf("listed as valid: %v", err)
		}
	}
}

func TestDirectionsCountFromTheClusterNamedFirst(t *testing.T) {
	p := planned(t, nil)
	l := p.Link("eu-west", "us-east")
	for _, c := range []struct {
		from      mesh.ClusterName
		direction string
		want      []link.Direction
	}{
		{"eu-west", "", nil}, {"us-east", "", nil},
		{"eu-west", "a-to-b", []link.Direction{link.AtoB}}, {"eu-west", "b-to-a", []link.Direction{link.BtoA}},
		{"us-east", "a-to-b", []link.Direction{link.BtoA}}, {"us-east", "b-to-a", []link.Direction{link.AtoB}},
	} {
		if got := (TargetLink{l, c.from}).directions(c.direction); !slices.Equal(got, c.want) {
			t.Errorf("%s from %s: %v, want %v", c.direction, c.from, got, c.want)
		}
	}
}

func TestDrillsAreRefusedBeforeAnythingIsDone(t *testing.T) {
	m := &Mesh{plan: planned(t, nil)} // nothing runs: a drill that is carried out would crash
	for _, c := range []struct {
		verb    string
		targets []string
		o       DrillOptions
		want    string
	}{
		{"destroy", []string{"eu-west"}, DrillOptions{}, "kill, pause, resume, partition, heal, slow"},
		{VerbKill, nil, DrillOptions{}, "no target"},
		{VerbKill, []string{"eu-west", "mars"}, DrillOptions{}, `"mars": no such cluster or link`},
		{VerbKill, []string{"eu-west"}, DrillOptions{RTT: "1s"}, "of links"},
		{VerbPartition, []string{"catalog@eu-west"}, DrillOptions{}, "is no link"},
		{VerbPartition, []string{"eu-west"}, DrillOptions{Direction: "up"}, `direction "up"`},
		{VerbPartition, []string{"eu-west"}, DrillOptions{RTT: "1s"}, "changed by slow"},
		{VerbSlow, []string{"eu-west"}, DrillOptions{}, "nothing to change"},
		{VerbSlow, []string{"eu-west"}, DrillOptions{RTT: "1s", Direction: "a-to-b"}, "both directions"},
		{VerbSlow, []string{"eu-west"}, DrillOptions{RTT: "fast", Jitter: "-1s", Loss: "2", Bandwidth: "10"}, `rtt "fast"`},
		{VerbSlow, []string{"eu-west"}, DrillOptions{Loss: "NaN%", Bandwidth: "NaNbps"}, `loss "NaN%"`},
	} {
		err := m.Drill(t.Context(), c.verb, c.targets, c.o)
		if bad, ok := err.(*BadDrillError); !ok || !strings.Contains(bad.Error(), c.want) {
			t.Errorf("%s %v %+v: %v, want a refusal with %q", c.verb, c.targets, c.o, err, c.want)
		}
	}
}

func TestTheSummaryNamesThreeCommandsWorthTrying(t *testing.T) {
	s := planned(t, nil).summary()
	s.ReadyAfter = 1234 * time.Millisecond
	var b strings.Builder
	if err := s.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ready after 1.2 s", "eu-west    primary   eu-west-1    EU             http://127.11.0.1:15001   http://127.11.0.2:15080",
		"eu-west--us-east 80ms", "Console: http://127.0.0.1:15080", "curl -x http://127.11.0.1:15001 http://catalog.shop.svc.clusterset.local/\n",
		"isthmus drill kill catalog.shop@eu-west", "isthmus status"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, b.String())
		}
	}
}

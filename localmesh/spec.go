//house:exempt a table: the processes of a mesh and what each is told

package localmesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/members"
	"github.com/isthmus-mesh/isthmus/localmesh/app"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Role is what a process of the mesh is.
type Role string

// The roles of processes. A store belongs to its control plane, which starts it, but where several share one: then its members are
// processes of the mesh.
const (
	RoleLink         Role = "link"
	RoleControlPlane Role = "control-plane"
	RoleStore        Role = "store"
	RoleRelay        Role = "relay"
	RoleGateway      Role = "gateway"
	RoleIngress      Role = "ingress"
	RoleShell        Role = "shell"
	RoleSidecar      Role = "sidecar"
	RoleApp          Role = "app"
)

// Descriptors that a process inherits beyond the standard three, in this order; which of
// the later two depends on the process.
const (
	fdParent = 3 // end of file when the supervisor is gone
	fdAlive  = 4 // the lock on the state directory, held for as long as the process lives
	fdSeal   = 5
	fdJoin   = 6
)

// Spec is one process before it runs. Its configuration is written to Plan.specFile.
type Spec struct {
	Name string
	Role Role
	// Cluster is nil for a link; Instance nil but for sidecars and applications.
	Cluster  *Cluster
	Instance *Instance
	Link     *Link
	// Args follow the executable; --config and the file are added.
	Args   []string
	Config any
	// Sealed processes get a seal key on fdSeal, that of the process Seals where this is not "". ConfigFile is read in place of one that is
	// written from Config. Identity is whom those that join may be.
	Sealed     bool
	Seals      string
	ConfigFile string
	Identity   mesh.Identity
	// Group says that the process has children that a signal must reach as well.
	Group bool
}

// planeConfig is what `isthmus control-plane --config` and `isthmus relay --config` read.
type planeConfig struct {
	Cluster      mesh.ClusterName `json:"cluster"`
	Domain       string           `json:"domain"`
	Network      mesh.Network     `json:"network"`
	StateDir     string           `json:"stateDir"`
	SealFD       int              `json:"sealFD"`
	Local        netip.Addr       `json:"local"`
	Control      netip.AddrPort   `json:"control"`
	Federation   netip.AddrPort   `json:"federation,omitzero"`
	API          netip.AddrPort   `json:"api"`
	Metrics      netip.AddrPort   `json:"metrics"`
	TokenFile    string           `json:"tokenFile"`
	ServiceRange netip.Prefix     `json:"serviceRange"`
	TTL          time.Duration    `json:"certificateTTL,omitempty"`
	// Of several replicas.
	StoreEndpoints []string  `json:"storeEndpoints,omitempty"`
	StoreTLS       *storeTLS `json:"storeTLS,omitempty"`
}

// storeTLS is part of planeConfig.
type storeTLS struct {
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// proxyConfig is what `isthmus proxy --config` reads. Like planeConfig it is written out here
// and not imported: the supervisor knows processes by their files alone, and links neither a
// control plane nor a proxy.
type proxyConfig struct {
	ID             string                            `json:"id"`
	Mode           string                            `json:"mode"`
	Cluster        mesh.ClusterName                  `json:"cluster"`
	Zone           mesh.Zone                         `json:"zone,omitempty"`
	TrustDomain    mesh.TrustDomain                  `json:"trustDomain"`
	ServiceAccount string                            `json:"serviceAccount"`
	ControlPlanes  []netip.AddrPort                  `json:"controlPlanes"`
	JoinFD         int                               `json:"joinFD"`
	SealFD         int                               `json:"sealFD"`
	Snapshot       string                            `json:"snapshot"`
	Handover       string                            `json:"handover"`
	Local          netip.Addr                        `json:"local"`
	Translate      map[netip.AddrPort]netip.AddrPort `json:"translate,omitempty"`
	Unreachable    []netip.Prefix                    `json:"unreachable,omitempty"`
	Outbound       netip.AddrPort                    `json:"outbound,omitzero"`
	Inbound        netip.AddrPort                    `json:"inbound,omitzero"`
	Gateway        netip.AddrPort                    `json:"gateway,omitzero"`
	Ingress        netip.Addr                        `json:"ingress,omitzero"`
	IngressOffset  uint16                            `json:"ingressOffset,omitempty"`
	Regions        string                            `json:"regions,omitempty"`
	Admin          netip.AddrPort                    `json:"admin"`
	DNS            netip.AddrPort                    `json:"dns,omitzero"`
	ServiceNet     netip.Prefix                      `json:"serviceNet,omitzero"`
}

// Specs are all processes, in the order of their start.
func (p *Plan) Specs() []Spec {
	var links, stores, planes, proxies, apps []Spec
	for _, l := range p.Links {
		links = append(links, Spec{Name: "link." + l.Name(), Role: RoleLink, Link: l, Args: []string{"link"}, Config: p.linkConfig(l)})
	}
	for _, c := range p.Clusters {
		stores = append(stores, p.storeSpecs(c)...)
		for i := range c.Planes() {
			planes = append(planes, p.planeSpec(c, i))
		}
		proxies = append(proxies, p.gatewaySpec(c), p.shellSpec(c))
		if c.Ingress {
			proxies = append(proxies, p.ingressSpec(c))
		}
		for _, i := range c.Instances {
			proxies = append(proxies, p.sidecarSpec(c, i))
			apps = append(apps, p.appSpec(c, i))
		}
	}
	// Control planes have the longest way to go, and need their store.
	return slices.Concat(stores, planes, links, proxies, apps)
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// linkConfig lets each cluster reach the other's gateway and, where it follows that one, its
// federation port, at its own end of the link; and each of its sidecars, where both are on one network.
func (p *Plan) linkConfig(l *Link) link.Config {
	c := link.Config{A: string(l.A.Name), B: string(l.B.Name), Shape: l.Shape, Control: p.linkSocket(l),
		Seed: uint64(l.A.N)<<8 | uint64(l.B.N)}
	for _, d := range []struct {
		direction link.Direction
		from, to  *Cluster
	}{{link.AtoB, l.A, l.B}, {link.BtoA, l.B, l.A}} {
		listen, source := p.Layout.LinkEnd(d.from.N, d.to.N), p.Layout.LinkEnd(d.to.N, d.from.N)
		c.Forwards = append(c.Forwards,
			link.Forward{Name: "gateway", Direction: d.direction, Listen: at(listen, portGateway),
				Target: at(p.Layout.Gateway(d.to.N), portGateway), Source: source})
		for i := range d.to.Planes() {
			if !d.from.Follows(d.to) {
				break
			}
			name := "federation"
			if i > 0 {
				name = fmt.Sprintf("federation of replica %d", i)
			}
			c.Forwards = append(c.Forwards, link.Forward{Name: name, Direction: d.direction, Listen: p.Layout.Federation(d.from.N, d.to.N, i),
				Target: at(p.Layout.Replica(d.to.N, i), portFederation), Source: source, Traffic: link.Control})
		}
		if d.from.Network != d.to.Network {
			continue
		}
		for _, i := range d.to.Instances {
			c.Forwards = append(c.Forwards, link.Forward{Name: "endpoint " + i.Workload.Namespace + "/" + i.Name(), Direction: d.direction,
				Listen: p.Layout.Endpoint(d.from.N, d.to.N, i.N), Target: at(p.Layout.Sidecar(d.to.N, i.N), portInbound), Source: source})
		}
	}
	return c
}

// paths make the proxies of cluster c go through links: to the endpoints of clusters on the same
// network at its own ends of links, and into another cluster in no other way. One kernel has all
// addresses of the mesh; what routers do elsewhere the proxies must be told.
func (p *Plan) paths(c *Cluster) (translate map[netip.AddrPort]netip.AddrPort, unreachable []netip.Prefix) {
	translate = map[netip.AddrPort]netip.AddrPort{}
	for _, other := range p.Clusters {
		if other == c {
			continue
		}
		unreachable = append(unreachable, p.Layout.Cluster(other.N))
		if other.Network != c.Network {
			continue
		}
		for _, i := range other.Instances {
			translate[at(p.Layout.Sidecar(other.N, i.N), portInbound)] = p.Layout.Endpoint(c.N, other.N, i.N)
		}
	}
	return translate, unreachable
}

// planeSpec is control plane i, from 0, or the relay.
func (p *Plan) planeSpec(c *Cluster, i int) Spec {
	own, role := p.Layout.Replica(c.N, i), c.planeRole()
	config := planeConfig{
		Cluster: c.Name, Domain: p.Domain, Network: c.Network, StateDir: p.planeDir(c, i), SealFD: fdSeal, Local: own,
		Control: at(own, portControl), API: at(own, portAPI), Metrics: at(own, portMetrics), TokenFile: p.tokenFile(),
		ServiceRange: p.Layout.Net(c.N, systemNet), TTL: p.CertificateTTL,
	}
	if !c.Remote() {
		config.Federation = at(own, portFederation)
	}
	s := Spec{Name: c.planeName(i), Role: role, Cluster: c, Args: []string{string(role)}, Sealed: true}
	if c.Planes() > 1 { // they are one authority, sealed by one key
		store := p.store(c)
		config.StoreEndpoints, config.StoreTLS = store.Endpoints(), &storeTLS{store.CA(), store.Certificate(), store.Key()}
		s.Seals = c.planeName(0)
	}
	s.Config = config
	return s
}

// planeName is the process of control plane i.
func (c *Cluster) planeName(i int) string {
	name := string(c.Name) + "." + string(c.planeRole())
	if i > 0 {
		name += fmt.Sprintf("-%d", i)
	}
	return name
}

// store is the one that several control planes of a cluster share. Its members come from 127.0.0.1 to each other: etcd binds no source.
func (p *Plan) store(c *Cluster) members.Plan {
	out := members.Plan{Dir: p.membersDir(c), Token: string(c.Name)}
	for i := range membersOfStore {
		a := p.Layout.Member(c.N, i)
		out.Members = append(out.Members, members.Member{Name: fmt.Sprintf("store-%d", i), Client: at(a, portStore), Peer: at(a, portRaft)})
	}
	return out
}

// storeSpecs are the members of a store that several control planes share; none where one has a store of its own.
func (p *Plan) storeSpecs(c *Cluster) (out []Spec) {
	if c.Planes() == 1 {
		return nil
	}
	store := p.store(c)
	for _, m := range store.Members {
		out = append(out, Spec{Name: string(c.Name) + "." + m.Name, Role: RoleStore, Cluster: c, Args: []string{"store"}, ConfigFile: store.Config(m)})
	}
	return out
}

// planeRole is what serves the proxies of a cluster.
func (c *Cluster) planeRole() Role {
	if c.Remote() {
		return RoleRelay
	}
	return RoleControlPlane
}

// api is where a cluster's control plane answers, the first where there are several.
func (p *Plan) api(c *Cluster) netip.AddrPort { return at(p.Layout.ControlPlane(c.N), portAPI) }

// controlPorts are where the proxies of a cluster follow its control planes.
func (p *Plan) controlPorts(c *Cluster) (out []netip.AddrPort) {
	for i := range c.Planes() {
		out = append(out, at(p.Layout.Replica(c.N, i), portControl))
	}
	return out
}

// proxySpec is what all proxies have in common.
func (p *Plan) proxySpec(c *Cluster, role Role, name string, workload, account mesh.ServiceName, own netip.Addr) (Spec, *proxyConfig) {
	config := &proxyConfig{
		ID: workload.String(), Mode: "sidecar", Cluster: c.Name, TrustDomain: c.TrustDomain, ServiceAccount: account.Name,
		ControlPlanes: p.controlPorts(c),
		JoinFD:        fdJoin, SealFD: fdSeal, Snapshot: p.snapshot(name), Handover: p.handoverSocket(own),
		Local: own, Admin: at(own, portAdmin),
	}
	config.Translate, config.Unreachable = p.paths(c)
	identity := mesh.Identity{TrustDomain: c.TrustDomain, Namespace: account.Namespace, ServiceAccount: account.Name}
	return Spec{Name: name, Role: role, Cluster: c, Args: []string{"proxy"}, Config: config, Sealed: true, Identity: identity}, config
}

func (p *Plan) gatewaySpec(c *Cluster) Spec {
	const namespace = "isthmus-system"
	own := p.Layout.Gateway(c.N)
	s, config := p.proxySpec(c, RoleGateway, string(c.Name)+".gateway", mesh.ServiceName{Namespace: namespace, Name: "gateway-0"},
		mesh.ServiceName{Namespace: namespace, Name: "gateway"}, own)
	config.Mode, config.Gateway = "gateway", at(own, portGateway)
	return s
}

func (p *Plan) ingressSpec(c *Cluster) Spec {
	own := p.Layout.Ingress(c.N)
	s, config := p.proxySpec(c, RoleIngress, string(c.Name)+".ingress", mesh.ServiceName{Namespace: systemNamespace, Name: "ingress-0"},
		mesh.ServiceName{Namespace: systemNamespace, Name: "ingress"}, own)
	config.Mode, config.Ingress, config.IngressOffset = "ingress", own, ingressOffset
	config.DNS, config.Regions = at(own, portDNS), p.ClientRegions
	return s
}

func (p *Plan) shellSpec(c *Cluster) Spec {
	shell := mesh.ServiceName{Namespace: "default", Name: "shell"}
	own := p.Layout.Shell(c.N)
	s, config := p.proxySpec(c, RoleShell, string(c.Name)+".shell", shell, shell, own)
	config.Outbound, config.DNS, config.ServiceNet = at(own, portOutbound), at(own, portDNS), p.Layout.Net(c.N, systemNet)
	return s
}

func (i *Instance) processName(c *Cluster, role Role) string {
	return fmt.Sprintf("%s.%s.%s.%s", c.Name, i.Workload.Namespace, i.Name(), role)
}

func (p *Plan) sidecarSpec(c *Cluster, i *Instance) Spec {
	own := p.Layout.Sidecar(c.N, i.N)
	s, config := p.proxySpec(c, RoleSidecar, i.processName(c, RoleSidecar),
		mesh.ServiceName{Namespace: i.Workload.Namespace, Name: i.Name()}, i.Service(), own)
	config.Zone = i.Zone
	config.Outbound, config.Inbound, config.DNS = at(own, portOutbound), at(own, portInbound), at(own, portDNS)
	config.ServiceNet = p.Layout.Net(c.N, i.N)
	s.Instance = i
	return s
}

func (p *Plan) appSpec(c *Cluster, i *Instance) Spec {
	own, proxy := p.Layout.App(c.N, i.N), at(p.Layout.Sidecar(c.N, i.N), portOutbound)
	config := app.Config{
		Service: i.Workload.Name, Namespace: i.Workload.Namespace, Cluster: c.Name, Region: c.Region, Zone: i.Zone,
		Instance: i.Name(), Listen: at(own, i.Workload.Port), Proxy: proxy, Lanes: i.Workload.Lanes,
	}
	run, isBuiltin := strings.CutPrefix(i.Workload.Builtin, "builtin/")
	if !isBuiltin {
		run, config.Command, config.Dir = app.Exec, i.Workload.Command, p.MeshDir
		config.Env, config.Supervised = p.commandEnv(c, i), true
	}
	return Spec{Name: i.processName(c, RoleApp), Role: RoleApp, Cluster: c, Instance: i, Args: []string{"workload", run},
		Config: config, Group: !isBuiltin}
}

// commandEnv is what a command is told about where it runs.
func (p *Plan) commandEnv(c *Cluster, i *Instance) []string {
	proxy := "http://" + at(p.Layout.Sidecar(c.N, i.N), portOutbound).String()
	const direct = "127.0.0.0/8,localhost"
	env := []string{
		"HOST=" + p.Layout.App(c.N, i.N).String(), fmt.Sprintf("PORT=%d", i.Workload.Port),
		"http_proxy=" + proxy, "HTTP_PROXY=" + proxy, "no_proxy=" + direct, "NO_PROXY=" + direct,
	}
	for _, w := range slices.Concat(c.Workloads, p.imports(c)) {
		address := at(p.Layout.ServiceFor(c.N, i.N, p.indexOf(w)), w.ServicePort)
		env = append(env, fmt.Sprintf("ISTHMUS_SERVICE_%s_%s=%s", variable(w.Name), variable(w.Namespace), address))
	}
	return env
}

// variable writes a name as environments do.
func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

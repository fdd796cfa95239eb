package localmesh

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Plan is a mesh before anything of it runs. It is immutable.
type Plan struct {
	Layout   Layout
	StateDir string
	// MeshDir is where the mesh file lies: its commands run there.
	MeshDir string
	Domain  string
	// CertificateTTL is the life of certificates; 0 is the control plane's default.
	CertificateTTL time.Duration
	// ClientRegions is a file of the regions of clients, absolute; "" is none.
	ClientRegions string
	Clusters      []*Cluster
	Links         []*Link
	// Services are sorted by namespace and name: the place of one is the last octet of its
	// addresses, the same in every cluster.
	Services []mesh.ServiceName
}

// Cluster is one cluster of a Plan.
type Cluster struct {
	manifest.LocalCluster
	// N counts clusters from 1, in the order of the mesh file.
	N           int
	TrustDomain mesh.TrustDomain
	// Workloads and Instances are in the order of their names.
	Workloads []*manifest.LocalWorkload
	Instances []*Instance
}

// Instance is one replica of a workload in one cluster.
type Instance struct {
	// Workload is what it is a replica of, and Ordinal which, from 0.
	Workload *manifest.LocalWorkload
	Ordinal  int
	// N counts the instances of the cluster from 1: its network is Layout.Net(cluster, N).
	N    int
	Zone mesh.Zone
}

// Name is the instance's own, as in "catalog-0".
func (i *Instance) Name() string { return i.Workload.Name + "-" + strconv.Itoa(i.Ordinal) }

// Service is the service it stands behind.
func (i *Instance) Service() mesh.ServiceName {
	return mesh.ServiceName{Namespace: i.Workload.Namespace, Name: i.Workload.Name}
}

// Link is the WAN between two clusters.
type Link struct {
	A, B  *Cluster
	Shape link.Shape
}

// Name is as people write it: "eu-west--us-east".
func (l *Link) Name() string { return string(l.A.Name) + "--" + string(l.B.Name) }

// NewPlan plans the mesh of a configuration. All faults are reported at once.
func NewPlan(c Config) (*Plan, error) {
	p := &Plan{Layout: Layout(c.AddressBase), StateDir: c.StateDir, MeshDir: c.MeshDir, Domain: mesh.DefaultDomain,
		CertificateTTL: c.Mesh.CertificateTTL}
	if r := c.Mesh.ClientRegions; r != "" {
		if p.ClientRegions = r; !filepath.IsAbs(r) {
			p.ClientRegions = filepath.Join(c.MeshDir, r)
		}
	}
	var faults []error
	if len(c.Mesh.Clusters) == 0 {
		return nil, errors.New("plan the mesh: it has no cluster; write at least one under clusters")
	}
	if err := p.Layout.Validate(len(c.Mesh.Clusters)); err != nil {
		faults = append(faults, err)
	}
	for i, lc := range c.Mesh.Clusters {
		p.Clusters = append(p.Clusters, &Cluster{LocalCluster: lc, N: i + 1, TrustDomain: mesh.TrustDomainOf(lc.Name, p.Domain)})
	}
	p.planRoles(c.Topology)
	for _, c := range p.Clusters {
		if c.Remote() && c.Replicas > 1 {
			faults = append(faults, fmt.Errorf("cluster %s: it is remote and has replicas: %d; a remote cluster has one relay", c.Name, c.Replicas))
		}
	}
	p.planLinks(c.Mesh.Links)
	faults = append(faults, p.planWorkloads(c.Mesh.Workloads)...)
	for _, l := range p.Links {
		if err := p.linkConfig(l).Validate(); err != nil {
			faults = append(faults, fmt.Errorf("link %s: %w", l.Name(), err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("plan the mesh: %w", err)
	}
	return p, nil
}

// planRoles gives each cluster its role. In a mesh of primary and remotes the first that the file does not call remote is
// the primary, and so are those that it calls so.
func (p *Plan) planRoles(topology string) {
	first := slices.IndexFunc(p.Clusters, func(c *Cluster) bool { return c.Role != mesh.RoleRemote })
	var primaries []mesh.ClusterName
	for i, c := range p.Clusters {
		if c.Role == "" {
			c.Role = mesh.RolePrimary
			if topology == PrimaryRemote && i != first {
				c.Role = mesh.RoleRemote
			}
		}
		if c.Role == mesh.RolePrimary {
			primaries = append(primaries, c.Name)
		}
	}
	for _, c := range p.Clusters {
		if c.Remote() && len(c.Primaries) == 0 {
			c.Primaries = primaries
		}
	}
}

// Planes is how many control planes a cluster has, its relay counted as one.
func (c *Cluster) Planes() int { return max(1, c.Replicas) }

// Remote reports whether the cluster has a relay in place of a control plane with a store.
func (c *Cluster) Remote() bool { return c.Role == mesh.RoleRemote }

// Follows reports whether processes of c that follow other clusters follow o at its own address: of two primaries each the
// other, and a remote cluster its primaries.
func (c *Cluster) Follows(o *Cluster) bool {
	return !o.Remote() && (!c.Remote() || slices.Contains(c.Primaries, o.Name))
}

// planLinks joins every pair of clusters, as written or as by default.
func (p *Plan) planLinks(written []manifest.LocalLink) {
	for i, a := range p.Clusters {
		for _, b := range p.Clusters[i+1:] {
			l := &Link{A: a, B: b, Shape: link.Shape{RTT: manifest.DefaultRTT}}
			for _, w := range written {
				switch w.Between {
				case [2]mesh.ClusterName{b.Name, a.Name}:
					l.A, l.B = b, a
				case [2]mesh.ClusterName{a.Name, b.Name}:
				default:
					continue
				}
				l.Shape = link.Shape{RTT: w.RTT, Jitter: w.Jitter, Loss: w.Loss, Bandwidth: w.Bandwidth}
			}
			p.Links = append(p.Links, l)
		}
	}
}

// planWorkloads numbers services and instances in the order of their names, so that the
// order of the mesh file changes no address.
func (p *Plan) planWorkloads(written []manifest.LocalWorkload) []error {
	var faults []error
	sorted := slices.Clone(written)
	slices.SortFunc(sorted, func(a, b manifest.LocalWorkload) int {
		return mesh.ServiceName{Namespace: a.Namespace, Name: a.Name}.Compare(mesh.ServiceName{Namespace: b.Namespace, Name: b.Name})
	})
	for i := range sorted {
		w := &sorted[i]
		p.Services = append(p.Services, mesh.ServiceName{Namespace: w.Namespace, Name: w.Name})
		for _, c := range p.Clusters {
			if !slices.Contains(w.Clusters, c.Name) {
				continue
			}
			c.Workloads = append(c.Workloads, w)
			for n := range w.Replicas {
				instance := &Instance{Workload: w, Ordinal: n, N: len(c.Instances) + 1}
				if len(c.Zones) > 0 {
					instance.Zone = c.Zones[n%len(c.Zones)]
				}
				c.Instances = append(c.Instances, instance)
			}
		}
	}
	if len(p.Services) > servicesMax {
		faults = append(faults, fmt.Errorf("workloads: %d of them; a local mesh has addresses for %d", len(p.Services), servicesMax))
	}
	for _, c := range p.Clusters {
		if len(c.Instances) > instancesMax {
			faults = append(faults, fmt.Errorf("cluster %s: %d instances; it has addresses for %d", c.Name, len(c.Instances), instancesMax))
		}
	}
	return faults
}

// imports are the workloads that a cluster sees in others only, in the order of their names.
func (p *Plan) imports(c *Cluster) []*manifest.LocalWorkload {
	var out []*manifest.LocalWorkload
	for _, other := range p.Clusters {
		for _, w := range other.Workloads {
			if w.Export && !slices.Contains(c.Workloads, w) && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	slices.SortFunc(out, func(a, b *manifest.LocalWorkload) int { return p.indexOf(a) - p.indexOf(b) })
	return out
}

func (p *Plan) indexOf(w *manifest.LocalWorkload) int {
	return p.serviceIndex(mesh.ServiceName{Namespace: w.Namespace, Name: w.Name})
}

// Cluster finds a cluster by name; nil if there is none.
func (p *Plan) Cluster(name mesh.ClusterName) *Cluster {
	for _, c := range p.Clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Link finds the link of two clusters, in either order; nil if there is none.
func (p *Plan) Link(a, b mesh.ClusterName) *Link {
	for _, l := range p.Links {
		if l.A.Name == a && l.B.Name == b || l.A.Name == b && l.B.Name == a {
			return l
		}
	}
	return nil
}

// serviceIndex is the place of a service among the services.
func (p *Plan) serviceIndex(n mesh.ServiceName) int { return slices.Index(p.Services, n) }

// Paths below the state directory.
func (p *Plan) path(elements ...string) string {
	return filepath.Join(append([]string{p.StateDir}, elements...)...)
}

func (p *Plan) tokenFile() string           { return p.path("token") }
func (p *Plan) keyFile(name string) string  { return p.path("keys", name) }
func (p *Plan) logFile(name string) string  { return p.path("logs", name+".log") }
func (p *Plan) specFile(name string) string { return p.path("run", name+".json") }
func (p *Plan) snapshot(name string) string { return p.path("snapshots", name) }

// handoverSocket is where the successor of the proxy at own gets its ports; short, as linkSocket is.
func (p *Plan) handoverSocket(own netip.Addr) string {
	a := own.As4()
	return p.path("run", fmt.Sprintf("%x.sock", a[1:]))
}

func (p *Plan) clusterDir(c *Cluster) string {
	return p.path("clusters", string(c.Name))
}

// planeDir is the state of control plane i; the first has the cluster's own directory.
func (p *Plan) planeDir(c *Cluster, i int) string {
	if i == 0 {
		return p.clusterDir(c)
	}
	return filepath.Join(p.clusterDir(c), fmt.Sprintf("replica-%d", i))
}

// membersDir is where the members of a shared store keep theirs.
func (p *Plan) membersDir(c *Cluster) string { return filepath.Join(p.clusterDir(c), "members") }

// storePID is where a control plane writes the process number of its store.
func (p *Plan) storePID(c *Cluster) string { return filepath.Join(p.clusterDir(c), "store.pid") }

// linkSocket is short, numbers for names, because the path of a socket has 103 bytes.
func (p *Plan) linkSocket(l *Link) string {
	return p.path("run", fmt.Sprintf("%d-%d.sock", l.A.N, l.B.N))
}

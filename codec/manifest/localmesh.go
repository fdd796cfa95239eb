//house:exempt a parser: mesh.yaml

package manifest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// LocalMesh is mesh.yaml: a whole mesh on one machine. Defaults are filled in.
type LocalMesh struct {
	Clusters  []LocalCluster
	Links     []LocalLink
	Workloads []LocalWorkload
	// Manifests are files and folders of objects applied after start, as written: relative
	// to mesh.yaml.
	Manifests []string
	// CertificateTTL is the life of certificates, for drills; 0 is that of a real cluster.
	CertificateTTL time.Duration
	// ClientRegions is a file that tells the regions of clients outside the mesh, relative to mesh.yaml.
	ClientRegions string
}

// LocalCluster is one cluster. Network and Region are the name unless set, so that
// clusters are apart unless joined on purpose.
type LocalCluster struct {
	Name         mesh.ClusterName
	Region       mesh.Region
	Zones        []mesh.Zone
	Network      mesh.Network
	Provider     mesh.Provider
	Jurisdiction mesh.Jurisdiction
	// Role is "" where the file does not say; Primaries are those of a remote cluster, all of the mesh unless set.
	Role      mesh.Role
	Primaries []mesh.ClusterName
	// Replicas is how many control planes it has, 0 where the file does not say: one, which has a store of its own. Several share one of
	// three members.
	Replicas int
	// Ingress says that it has an ingress gateway.
	Ingress bool
}

// LocalLink is the WAN between two clusters, the same in both directions.
type LocalLink struct {
	Between [2]mesh.ClusterName
	// RTT is the round-trip time, DefaultRTT unless set; Jitter varies it by up to as much.
	RTT, Jitter time.Duration
	// Loss is the share of what is lost, 0 to 1.
	Loss float64
	// Bandwidth is in bits a second each way; 0 is no limit.
	Bandwidth int64
}

// Defaults of mesh.yaml.
const (
	DefaultRTT         = 50 * time.Millisecond
	DefaultServicePort = 80
	DefaultProtocol    = "http"
	DefaultPort        = 8080
)

// What a workload runs, unless it is a command.
const (
	RunEcho = "builtin/echo"
	RunShop = "builtin/shop"
)

// LocalWorkload is one service of the local mesh.
type LocalWorkload struct {
	Namespace, Name string
	Clusters        []mesh.ClusterName // all of them unless set
	Replicas        int                // in each cluster
	Port            uint16             // the workload listens on, the Service's target port
	ServicePort     uint16
	Protocol        string // of both, as an appProtocol: http, http2, grpc or tcp
	// Builtin is RunEcho or RunShop, or "" for Command: a program and its arguments.
	Builtin string
	Command []string
	// Lanes is how many requests an instance serves at once, as its Workload declares; a builtin lets others wait.
	// 0 is unknown, and no limit.
	Lanes int
	// Export makes the service known to the other clusters.
	Export bool
}

// localMesh is the shape of mesh.yaml.
type localMesh struct {
	header   `json:",inline"`
	Clusters []struct {
		Name         string   `json:"name" is:"required label"`
		Region       string   `json:"region" is:"len=1..63"`
		Zones        []string `json:"zones" is:"len=1..63 unique=."`
		Network      string   `json:"network" is:"len=1..63"`
		Provider     string   `json:"provider" is:"len=1..63"`
		Jurisdiction string   `json:"jurisdiction" is:"len=1..63"`
		Role         string   `json:"role" is:"enum=primary|remote"`
		Primaries    []string `json:"primaries" is:"label unique=."`
		Replicas     *int     `json:"replicas" is:"1..3"`
		Ingress      bool     `json:"ingress"`
	} `json:"clusters" is:"required items=1..64 unique=name"`
	Links     []localLink     `json:"links"`
	Workloads []localWorkload `json:"workloads"`
	Manifests []string        `json:"manifests" is:"len=1..4096"`
	TTL       string          `json:"certificateTTL" is:"duration"`
	Regions   string          `json:"clientRegions" is:"len=1..4096"`
}

type localLink struct {
	Between   []string `json:"between" is:"required items=2..2 unique=."`
	RTT       *string  `json:"rtt" is:"duration"`
	Jitter    *string  `json:"jitter" is:"duration"`
	Loss      percent  `json:"loss"`
	Bandwidth bitRate  `json:"bandwidth"`
}

type localWorkload struct {
	Name        string   `json:"name" is:"required label"`
	Namespace   string   `json:"namespace" is:"label"`
	Clusters    []string `json:"clusters" is:"unique=."`
	Replicas    *int     `json:"replicas" is:"0..200"`
	Port        *int     `json:"port" is:"1..65535"`
	ServicePort *int     `json:"servicePort" is:"1..65535"`
	Protocol    *string  `json:"protocol" is:"enum=http|http2|grpc|tcp"`
	Lanes       *int     `json:"lanes" is:"1..100000"`
	Run         command  `json:"run" is:"required"`
	Export      *bool    `json:"export"`
}

// percent is a share written as "0.5%".
type percent float64

func (x *percent) decodeValue(d *decoder, v *value, p *path) {
	number, ok := strings.CutSuffix(v.text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if v.kind != kindString || !ok || err != nil || !looksFloat(number) || f < 0 || f > 100 {
		d.fault(v.place, p, "want a percentage", "write 0% to 100%, such as 0.5%")
		return
	}
	*x = percent(f / 100)
}

// bitRate is bits a second, written as "1Gbps".
type bitRate int64

func (x *bitRate) decodeValue(d *decoder, v *value, p *path) {
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"Gbps", 1e9}, {"Mbps", 1e6}, {"kbps", 1e3}, {"bps", 1}} {
		number, ok := strings.CutSuffix(v.text, u.suffix)
		if f, err := strconv.ParseFloat(number, 64); v.kind == kindString && ok && err == nil && looksFloat(number) && f*u.factor >= 1 && f*u.factor <= 1e12 {
			*x = bitRate(f * u.factor)
			return
		}
	}
	d.fault(v.place, p, "want a bandwidth", "write a number and bps, kbps, Mbps or Gbps, such as 1Gbps")
}

// command is what a workload runs.
type command struct {
	builtin string
	words   []string
}

func (x *command) decodeValue(d *decoder, v *value, p *path) {
	switch {
	case v.kind == kindString && (v.text == RunEcho || v.text == RunShop):
		x.builtin = v.text
	case v.kind == kindList && len(v.list) > 0:
		for i, e := range v.list {
			if d.want(e, kindString, p.item(i)) {
				x.words = append(x.words, e.text)
			}
		}
	default:
		remedy := "write " + RunEcho + ", " + RunShop + " or a list of a program and its arguments"
		if v.kind == kindString {
			if near := nearest(v.text, []string{RunEcho, RunShop}); near != "" {
				remedy += ", likely " + near
			}
		}
		d.fault(v.place, p, "is neither a built-in nor a command", remedy)
	}
}

// The lives of certificates that a local mesh may ask for: below the first, a machine under load
// renews too late.
const (
	certificateTTLMin = 10 * time.Second
	certificateTTLMax = 7 * 24 * time.Hour
)

func (s *scope) localMesh(in *localMesh) *LocalMesh {
	out := &LocalMesh{Manifests: in.Manifests, CertificateTTL: duration(in.TTL), ClientRegions: in.Regions}
	if in.TTL != "" && isDuration(in.TTL) && (out.CertificateTTL < certificateTTLMin || out.CertificateTTL > certificateTTLMax) {
		s.fault((*path)(nil).field("certificateTTL"), quote(in.TTL)+" is out of range", "write 10s to 168h, or remove it for 24h")
	}
	var names []string
	for _, c := range in.Clusters {
		lc := LocalCluster{Name: mesh.ClusterName(c.Name), Region: mesh.Region(c.Region), Zones: convert[mesh.Zone](c.Zones),
			Network: mesh.Network(c.Network), Provider: mesh.Provider(c.Provider), Jurisdiction: mesh.Jurisdiction(c.Jurisdiction)}
		if lc.Region == "" {
			lc.Region = mesh.Region(c.Name)
		}
		if lc.Network == "" {
			lc.Network = mesh.Network(c.Name)
		}
		lc.Ingress = c.Ingress
		if c.Replicas != nil {
			lc.Replicas = *c.Replicas
		}
		lc.Role, lc.Primaries = localRoles[c.Role], convert[mesh.ClusterName](c.Primaries)
		names = append(names, c.Name)
		out.Clusters = append(out.Clusters, lc)
	}
	s.localPrimaries(out.Clusters)
	s.localLinks(in.Links, names, out)
	s.localWorkloads(in.Workloads, names, out)
	return out
}

// localRoles are the roles as mesh.yaml writes them.
var localRoles = map[string]mesh.Role{"primary": mesh.RolePrimary, "remote": mesh.RoleRemote}

// localPrimaries checks who serves the remote clusters.
func (s *scope) localPrimaries(clusters []LocalCluster) {
	roles, at := map[mesh.ClusterName]mesh.Role{}, (*path)(nil).field("clusters")
	primaries := 0
	for _, c := range clusters {
		roles[c.Name] = c.Role
		if c.Role != mesh.RoleRemote {
			primaries++
		}
	}
	if primaries == 0 && len(clusters) > 0 {
		s.fault(at, "every cluster is remote", "let at least one be primary: it has the control plane that the others follow")
	}
	for i, c := range clusters {
		if len(c.Primaries) > 0 && c.Role != mesh.RoleRemote {
			s.fault(at.item(i).field("primaries"), "only a remote cluster has primaries", "write role: remote, or remove them")
		}
		if c.Replicas > 1 && c.Role == mesh.RoleRemote {
			s.fault(at.item(i).field("replicas"), "a remote cluster has one relay", "write 1, or make it primary")
		}
		for j, n := range c.Primaries {
			if role, known := roles[n]; !known || role == mesh.RoleRemote {
				s.fault(at.item(i).field("primaries").item(j), quote(string(n))+" is no primary of the file", "write the name of a cluster that is not remote")
			}
		}
	}
}

// clusterAt reports a name that no cluster of the file bears.
func (s *scope) clusterAt(name string, known []string, at *path) {
	if contains(known, name) {
		return
	}
	remedy := "write " + enumerate(known)
	if near := nearest(name, known); near != "" {
		remedy = "did you mean " + near + "?"
	}
	s.fault(at, "unknown cluster "+quote(name), remedy)
}

func (s *scope) localLinks(in []localLink, names []string, out *LocalMesh) {
	seen := map[[2]mesh.ClusterName]int{}
	for i, l := range in {
		at := (*path)(nil).field("links").item(i)
		for j, name := range l.Between {
			s.clusterAt(name, names, at.field("between").item(j))
		}
		if len(l.Between) != 2 {
			continue
		}
		link := LocalLink{Between: [2]mesh.ClusterName(convert[mesh.ClusterName](l.Between)), RTT: DefaultRTT,
			Jitter: duration(text(l.Jitter, "")), Loss: float64(l.Loss), Bandwidth: int64(l.Bandwidth)}
		if l.RTT != nil {
			link.RTT = duration(*l.RTT)
		}
		pair := link.Between
		if pair[0] > pair[1] {
			pair[0], pair[1] = pair[1], pair[0]
		}
		if first, twice := seen[pair]; twice {
			s.fault(at, fmt.Sprintf("a second link of these clusters, the first is links[%d]", first), "remove one of the two")
		}
		seen[pair] = i
		out.Links = append(out.Links, link)
	}
}

func (s *scope) localWorkloads(in []localWorkload, names []string, out *LocalMesh) {
	seen := map[mesh.ServiceName]int{}
	for i, w := range in {
		at := (*path)(nil).field("workloads").item(i)
		lw := LocalWorkload{Namespace: w.Namespace, Name: w.Name, Clusters: convert[mesh.ClusterName](w.Clusters), Replicas: 1,
			Port: DefaultPort, ServicePort: DefaultServicePort, Protocol: text(w.Protocol, DefaultProtocol), Builtin: w.Run.builtin, Command: w.Run.words, Export: true}
		if lw.Namespace == "" {
			lw.Namespace = "default"
		}
		for j, c := range w.Clusters {
			s.clusterAt(c, names, at.field("clusters").item(j))
		}
		if len(w.Clusters) == 0 {
			lw.Clusters = convert[mesh.ClusterName](names)
		}
		if w.Replicas != nil {
			lw.Replicas = *w.Replicas
		}
		if w.Port != nil {
			lw.Port = uint16(*w.Port)
		}
		if w.ServicePort != nil {
			lw.ServicePort = uint16(*w.ServicePort)
		}
		if w.Lanes != nil {
			lw.Lanes = *w.Lanes
		}
		if w.Export != nil {
			lw.Export = *w.Export
		}
		name := mesh.ServiceName{Namespace: lw.Namespace, Name: lw.Name}
		if first, twice := seen[name]; twice && w.Name != "" {
			s.fault(at.field("name"), fmt.Sprintf("a second workload %s, the first is workloads[%d]", name, first), "write another name, or give the first more clusters or replicas")
		}
		seen[name] = i
		out.Workloads = append(out.Workloads, lw)
	}
}

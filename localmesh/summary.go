//house:exempt a table: the fields of a running mesh as it is told

package localmesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Summary is a running mesh: what GET /v1/local answers and what is kept in
// STATE_DIR/mesh.json.
type Summary struct {
	StateDir    string    `json:"stateDir"`
	AddressBase int       `json:"addressBase"`
	PID         int       `json:"pid"` // of the supervisor
	Executable  string    `json:"executable"`
	Started     time.Time `json:"started"`
	Ready       bool      `json:"ready"`
	// ReadyAfter is how long the start took, in nanoseconds; 0 until ready.
	ReadyAfter time.Duration `json:"readyAfterNanoseconds,omitempty"`
	// Console is the URL of the console and of the mesh's own API.
	Console  string            `json:"console"`
	Clusters []ClusterSummary  `json:"clusters"`
	Links    []LinkSummary     `json:"links"`
	Services []ServiceSummary  `json:"services"`
	Locks    []string          `json:"locks"` // files outside the state directory
	Procs    []ProcessStatus   `json:"processes,omitempty"`
	Sockets  map[string]string `json:"linkSockets"` // control socket of each link
	// Removed and Moved are what the start changed of what it found in the state directory.
	Removed []Removed `json:"removed,omitempty"`
	Moved   []Moved   `json:"moved,omitempty"`
}

// ClusterSummary is where the parts of a cluster are.
type ClusterSummary struct {
	Name         mesh.ClusterName  `json:"name"`
	Role         mesh.Role         `json:"role"`
	Region       mesh.Region       `json:"region"`
	Jurisdiction mesh.Jurisdiction `json:"jurisdiction,omitempty"`
	TrustDomain  mesh.TrustDomain  `json:"trustDomain"`
	API          string            `json:"api"`
	Shell        netip.AddrPort    `json:"shell"` // the explicit proxy for curl -x
	DNS          netip.AddrPort    `json:"dns"`
	ControlPlane netip.AddrPort    `json:"controlPlane"`
	Gateway      netip.AddrPort    `json:"gateway"`
	Ingress      netip.Addr        `json:"ingress,omitzero"`
	Instances    []InstanceSummary `json:"instances,omitempty"`
}

// InstanceSummary is where one instance is.
type InstanceSummary struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Zone      mesh.Zone      `json:"zone,omitempty"`
	App       netip.AddrPort `json:"app"`
	Sidecar   netip.Addr     `json:"sidecar"`
}

// LinkSummary is a link as configured.
type LinkSummary struct {
	Name string `json:"name"`
	RTT  string `json:"rtt"`
}

// ServiceSummary is a service of the mesh file.
type ServiceSummary struct {
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	Port      uint16             `json:"port"`
	Exported  bool               `json:"exported"`
	Clusters  []mesh.ClusterName `json:"clusters"`
}

// summary is what the plan says; the supervisor adds what it knows.
func (p *Plan) summary() Summary {
	s := Summary{StateDir: p.StateDir, AddressBase: int(p.Layout), Console: "http://" + p.Layout.Console().String(), Sockets: map[string]string{}}
	seen := map[mesh.ServiceName]int{}
	for _, c := range p.Clusters {
		cs := ClusterSummary{
			Name: c.Name, Role: c.Role, Region: c.Region, Jurisdiction: c.Jurisdiction, TrustDomain: c.TrustDomain, API: "http://" + p.api(c).String(),
			Shell: at(p.Layout.Shell(c.N), portOutbound), DNS: at(p.Layout.Shell(c.N), portDNS),
			ControlPlane: at(p.Layout.ControlPlane(c.N), portControl), Gateway: at(p.Layout.Gateway(c.N), portGateway),
		}
		if c.Ingress {
			cs.Ingress = p.Layout.Ingress(c.N)
		}
		for _, i := range c.Instances {
			cs.Instances = append(cs.Instances, InstanceSummary{Namespace: i.Workload.Namespace, Name: i.Name(), Zone: i.Zone,
				App: at(p.Layout.App(c.N, i.N), i.Workload.Port), Sidecar: p.Layout.Sidecar(c.N, i.N)})
		}
		s.Clusters = append(s.Clusters, cs)
		for _, w := range c.Workloads {
			name := mesh.ServiceName{Namespace: w.Namespace, Name: w.Name}
			k, known := seen[name]
			if !known {
				k = len(s.Services)
				seen[name] = k
				s.Services = append(s.Services, ServiceSummary{Namespace: w.Namespace, Name: w.Name, Port: w.ServicePort, Exported: w.Export})
			}
			s.Services[k].Clusters = append(s.Services[k].Clusters, c.Name)
		}
	}
	for _, l := range p.Links {
		s.Links = append(s.Links, LinkSummary{l.Name(), l.Shape.RTT.String()})
		s.Sockets[l.Name()] = p.linkSocket(l)
	}
	return s
}

// Print writes the summary for people.
func (s Summary) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	var faults []error
	say := func(format string, args ...any) {
		_, err := fmt.Fprintf(tw, format, args...)
		faults = append(faults, err)
	}
	if s.ReadyAfter > 0 {
		say("The mesh is ready after %.1f s.\n\n", s.ReadyAfter.Seconds())
	}
	for _, line := range s.pruned() {
		say("%s\n", line)
	}
	if len(s.Removed)+len(s.Moved) > 0 {
		say("\n")
	}
	say("CLUSTER\tROLE\tREGION\tJURISDICTION\tPROXY FOR YOUR SHELL\tAPI\n")
	for _, c := range s.Clusters {
		say("%s\t%s\t%s\t%s\thttp://%s\t%s\n", c.Name, strings.ToLower(string(c.Role)), c.Region, c.Jurisdiction, c.Shell, c.API)
	}
	var links []string
	for _, l := range s.Links {
		links = append(links, l.Name+" "+l.RTT)
	}
	if len(links) > 0 {
		say("\nLinks (round trip): %s\n", strings.Join(links, ", "))
	}
	var doors []string
	for _, c := range s.Clusters {
		if c.Ingress.IsValid() {
			doors = append(doors, string(c.Name)+" "+c.Ingress.String())
		}
	}
	if len(doors) > 0 {
		say("Ingress gateways (port 80 of a Gateway is 8080, 443 is 8443): %s\n", strings.Join(doors, ", "))
	}
	say("Console: %s\n", s.Console)
	if commands := s.commands(); len(commands) > 0 {
		say("\nTry:\n")
		for _, c := range commands {
			say("  %s\n", c)
		}
	}
	return errors.Join(append(faults, tw.Flush())...)
}

// commands are three worth trying.
func (s Summary) commands() []string {
	if len(s.Clusters) == 0 {
		return nil
	}
	first := s.Clusters[0]
	var service *ServiceSummary
	for i := range s.Services {
		if v := &s.Services[i]; len(v.Clusters) > 1 && v.Exported && (service == nil || v.Name == "catalog") {
			service = v
		}
	}
	if service == nil {
		return []string{"isthmus status", "isthmus get services --all-clusters", "isthmus down"}
	}
	port := ""
	if service.Port != 80 {
		port = fmt.Sprintf(":%d", service.Port)
	}
	return []string{
		fmt.Sprintf("curl -x http://%s http://%s.%s.%s%s/", first.Shell, service.Name, service.Namespace, mesh.ClustersetDomain, port),
		fmt.Sprintf("isthmus drill kill %s.%s@%s   # then the curl again: another cluster answers", service.Name, service.Namespace, service.Clusters[0]),
		"isthmus status",
	}
}

func stateFile(stateDir string) string { return filepath.Join(stateDir, "mesh.json") }

// write keeps the summary for the command line.
func (s Summary) write() error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = writeFile(stateFile(s.StateDir), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write what runs: %w", err)
	}
	return nil
}

// ReadSummary reads what a mesh in stateDir wrote of itself; fs.ErrNotExist says that none
// runs. The mesh may have been killed since: only its API tells.
func ReadSummary(stateDir string) (Summary, error) {
	text, err := readSmall(stateFile(stateDir), 64<<20)
	var s Summary
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return Summary{}, fmt.Errorf("read the mesh in %s: %w", stateDir, err)
	}
	return s, nil
}

// ReadToken reads the token that every call of the APIs of a mesh carries.
func ReadToken(stateDir string) (string, error) {
	text, err := readSmall(filepath.Join(stateDir, "token"), 4<<10)
	if err != nil {
		return "", fmt.Errorf("read the token of the mesh in %s: %w", stateDir, err)
	}
	return strings.TrimSpace(string(text)), nil
}

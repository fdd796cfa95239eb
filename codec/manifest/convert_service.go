package manifest

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func (s *scope) namespaceObject(*namespace) *mesh.NamespaceObject {
	n := &mesh.NamespaceObject{Name: s.name}
	if l := s.root.get("metadata").get("labels"); l != nil && len(l.fields) > 0 {
		n.Labels = make(map[string]string, len(l.fields))
		for _, f := range l.fields {
			n.Labels[f.key] = f.value.text
		}
	}
	return n
}

func (s *scope) service(in *service) *mesh.Service {
	spec := spec()
	out := &mesh.Service{ServiceName: s.serviceName(), Selector: in.Spec.Selector}
	if in.Spec.Type == "ExternalName" {
		if !isPreciseHostname(strings.TrimSuffix(in.Spec.ExternalName, ".")) {
			s.fault(spec.field("externalName"), quote(in.Spec.ExternalName)+" is not a host name", "write the DNS name the service stands for")
		}
		s.warn(spec.field("type"), "kept, the mesh does not route to external names yet", "")
		out.Selector = nil
	}
	s.servicePorts(in, spec, out)
	s.clusterIPs(in, spec, out)
	return out
}

func (s *scope) servicePorts(in *service, spec *path, out *mesh.Service) {
	if len(in.Spec.Ports) == 0 && in.Spec.Type != "ExternalName" && in.Spec.ClusterIP != "None" {
		s.fault(spec.field("ports"), "missing", "write at least one port")
	}
	names, numbers := map[string]bool{}, map[mesh.ServicePort]int{}
	for i, p := range in.Spec.Ports {
		at := spec.field("ports").item(i)
		if p.Name == "" && len(in.Spec.Ports) > 1 {
			s.fault(at.field("name"), "missing", "name each port where there are several")
		}
		if p.Name != "" && names[p.Name] {
			s.fault(at.field("name"), quote(p.Name)+" is a duplicate", "write a name no other port has")
		}
		names[p.Name] = true
		number := mesh.ServicePort{Port: uint16(p.Port), Name: cmp.Or(p.Protocol, "TCP")}
		if first, twice := numbers[number]; twice && p.Port != 0 {
			s.fault(at, fmt.Sprintf("port %d is a duplicate of ports[%d]", p.Port, first), "remove one of the two")
		}
		numbers[number] = i
		out.Ports = append(out.Ports, s.servicePort(p, at))
		if p.Protocol == "SCTP" {
			out.Ports = out.Ports[:len(out.Ports)-1]
			s.warn(at.field("protocol"), "the mesh does not carry SCTP, the port is left out", "")
		}
	}
}

func (s *scope) servicePort(p servicePort, at *path) mesh.ServicePort {
	out := mesh.ServicePort{Name: p.Name, Port: uint16(p.Port), Protocol: protocolOf(p)}
	switch t := p.TargetPort; {
	case t.text != "":
		if out.TargetName = t.text; !isPortName(t.text) {
			remedy := "write 1 to 15 of a-z, 0-9 and -, with a letter, or a number"
			if kind, _ := resolvePlain(t.text); kind == kindInt {
				remedy = "write " + t.text + " without quotes"
			}
			s.fault(at.field("targetPort"), quote(t.text)+" is not a port name", remedy)
		}
	case t.number < 0 || t.number > 65535:
		s.fault(at.field("targetPort"), strconv.FormatInt(t.number, 10)+" is out of range", "write a number from 1 to 65535, or a name")
	default: // 0 is unset, as in Kubernetes
		out.TargetPort = cmp.Or(uint16(t.number), out.Port)
	}
	return out
}

// protocolOf reads what a port speaks: appProtocol first, then the beginning of the
// port's name up to a "-", as meshes before us do. Of what is declared neither way each connection
// is looked at, unless it is a port where servers speak first.
func protocolOf(p servicePort) mesh.Protocol {
	if p.Protocol == "UDP" {
		return mesh.ProtocolUDP
	}
	declared := p.Name
	if p.AppProtocol != nil {
		declared = strings.ToLower(*p.AppProtocol)
		declared = strings.TrimPrefix(declared, "kubernetes.io/")
	} else if strings.HasPrefix(declared, "grpc-web") {
		return mesh.ProtocolHTTP
	} else {
		declared, _, _ = strings.Cut(declared, "-")
	}
	switch declared {
	case "http", "ws", "grpc-web":
		return mesh.ProtocolHTTP
	case "http2", "h2c":
		return mesh.ProtocolHTTP2
	case "grpc":
		return mesh.ProtocolGRPC
	case "tcp", "tls", "https", "wss", "mysql", "postgres", "postgresql", "mongo", "redis", "amqp", "kafka", "smtp", "ssh", "ftp", "ldap", "imap", "pop3", "nats", "mqtt":
		return mesh.ProtocolTCP
	}
	if p.AppProtocol != nil || speaksFirst(p.Port) {
		return mesh.ProtocolTCP
	}
	return mesh.ProtocolAuto
}

// speaksFirst reports whether the server of a well-known port speaks first (IANA Service Name and Port Number Registry: ftp,
// ssh, smtp, pop3, imap, submission, mysql): to wait for its clients would only hold them up.
func speaksFirst(port int32) bool {
	switch port {
	case 21, 22, 25, 110, 143, 587, 3306:
		return true
	}
	return false
}

func (s *scope) clusterIPs(in *service, spec *path, out *mesh.Service) {
	ips, at := in.Spec.ClusterIPs, func(i int) *path { return spec.field("clusterIPs").item(i) }
	if len(ips) == 0 && in.Spec.ClusterIP != "" {
		ips, at = []string{in.Spec.ClusterIP}, func(int) *path { return spec.field("clusterIP") }
	}
	for i, ip := range ips {
		a, err := netip.ParseAddr(ip)
		switch {
		case ip == "None":
			out.Headless = true
		case ip == "": // none yet
		case err != nil || a.Zone() != "":
			s.fault(at(i), quote(ip)+" is not an IP address", "write an address, None, or nothing")
		default:
			out.Addresses = append(out.Addresses, a)
		}
	}
}

// serviceNameLabel names the service an EndpointSlice belongs to.
const serviceNameLabel = "kubernetes.io/service-name"

func (s *scope) endpointSlice(in *endpointSlice) *mesh.EndpointSlice {
	out := &mesh.EndpointSlice{Namespace: s.namespace, Name: s.name}
	label := s.root.get("metadata").get("labels").str(serviceNameLabel)
	if out.Service = (mesh.ServiceName{Namespace: s.namespace, Name: label}); !mesh.IsLabel(label) {
		out.Service = mesh.ServiceName{}
		s.warn((*path)(nil).field("metadata", "labels", serviceNameLabel), "no service is named, the slice serves none", "name its service")
	}
	for _, p := range in.Ports {
		if p.Port != nil && text(p.Protocol, "TCP") != "SCTP" {
			out.Ports = append(out.Ports, mesh.EndpointPort{Name: text(p.Name, ""), Port: uint16(*p.Port)})
		}
	}
	if in.AddressType == "FQDN" {
		s.warn((*path)(nil).field("addressType"), "the mesh does not route to names, the slice serves none", "")
		return out
	}
	for i, e := range in.Endpoints {
		ep := mesh.SliceEndpoint{Ready: e.Conditions.Ready == nil || *e.Conditions.Ready, Zone: mesh.Zone(text(e.Zone, ""))}
		if e.TargetRef != nil && (e.TargetRef.Kind == "Pod" || e.TargetRef.Kind == "Workload") {
			ep.Workload = e.TargetRef.Name
		}
		for j, t := range e.Addresses {
			a, err := netip.ParseAddr(t)
			if err != nil || a.Zone() != "" || a.Is4() != (in.AddressType == "IPv4") {
				s.fault((*path)(nil).field("endpoints").item(i).field("addresses").item(j),
					quote(t)+" is not an address of type "+in.AddressType, "write an "+in.AddressType+" address")
				continue
			}
			ep.Addresses = append(ep.Addresses, a)
		}
		out.Endpoints = append(out.Endpoints, ep)
	}
	return out
}

// consumersAnnotation limits who may import a service: cluster names parted by commas.
const consumersAnnotation = "isthmus.dev/consumers"

func (s *scope) serviceExport(*serviceExport) *mesh.ServiceExport {
	out := &mesh.ServiceExport{ServiceName: s.serviceName()}
	list := s.root.get("metadata").get("annotations").get(consumersAnnotation)
	if list == nil {
		return out
	}
	for c := range strings.SplitSeq(list.text, ",") {
		if c = strings.TrimSpace(c); !mesh.IsLabel(c) {
			// An empty list would export to everybody, the opposite of what was meant.
			s.fault((*path)(nil).field("metadata", "annotations", consumersAnnotation), quote(c)+" is not a cluster's name",
				"write names parted by commas, or remove the annotation to export to everybody")
			continue
		}
		out.Consumers = append(out.Consumers, mesh.ClusterName(c))
	}
	return out
}

// serviceImport reads which address is asked for: the first of IPv4, the family that the mesh gives.
func (s *scope) serviceImport(in *serviceImport) *mesh.ServiceImport {
	out := &mesh.ServiceImport{ServiceName: s.serviceName(), TakesAddress: mesh.TakesAddress(in.Metadata.Annotations)}
	for i, text := range in.Spec.IPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue // reported
		}
		if a = a.Unmap(); a.Is4() && !out.Address.IsValid() {
			out.Address = a
			continue
		}
		s.warn(spec("ips").item(i), "kept, the mesh gives a service one address, of IPv4", "")
	}
	return out
}

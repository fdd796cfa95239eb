package localmesh

import (
	"fmt"
	"net/netip"
)

// DefaultBase is the address base of a mesh unless another is given: its clusters have
// 127.11.0.0/16, 127.12.0.0/16, and so on.
const DefaultBase = 10

// Ports of every cluster.
const (
	portOutbound   = 15001
	portInbound    = 15008
	portControl    = 15010
	portFederation = 15012
	portMetrics    = 15014
	portAdmin      = 15020
	portDNS        = 15053
	portAPI        = 15080
	portStore      = 2379 // of members, for clients
	portRaft       = 2380 // and for each other
	// ingressOffset is added to ports of listeners below 1024, which need privilege to be opened: 80 is 8080.
	ingressOffset = 8000
	// portReplica is between the ports at which a link leads to the replicas of one control plane.
	portReplica = 100
	portGateway = 15443
	// portEndpoints and the number of an instance is where it is reached at the end of a link,
	// between clusters of one network. Below the ports that the system gives away.
	portEndpoints = 20000
)

// Octets of a cluster's network: 127.B.zone.host.
const (
	systemNet    = 0   // shell, control plane, gateways and the services' own addresses
	linkNet      = 255 // the ends of links
	hostSidecar  = 1
	hostApp      = 2
	hostPlane    = 2 // in systemNet
	hostGateway  = 3 // in systemNet
	hostReplica  = 4 // in systemNet: the second control plane; the third follows
	hostMember   = 6 // in systemNet: the first of three members of a shared store
	hostIngress  = 9 // in systemNet
	hostServices = 10

	membersOfStore = 3

	instancesMax = 254
	servicesMax  = 254 - hostServices + 1
)

// Layout gives addresses. It is the base: cluster n, from 1, has 127.B.0.0/16 with B the
// base and n.
type Layout int

// Validate reports whether clusters fit above the base.
func (l Layout) Validate(clusters int) error {
	// 127.0 and 127.1 are where other programs of this machine listen.
	if l < 1 || int(l)+clusters > 255 {
		return fmt.Errorf("address base %d: want 1 to %d for %d clusters", l, 255-clusters, clusters)
	}
	return nil
}

// Addr is 127.B.net.host in cluster n.
func (l Layout) Addr(n, net, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(int(l) + n), byte(net), byte(host)})
}

// Shell is the sidecar for a person's shell.
func (l Layout) Shell(n int) netip.Addr { return l.Addr(n, systemNet, hostSidecar) }

// ControlPlane is the control plane, the first where there are several.
func (l Layout) ControlPlane(n int) netip.Addr { return l.Addr(n, systemNet, hostPlane) }

// Replica is control plane i, from 0.
func (l Layout) Replica(n, i int) netip.Addr {
	if i == 0 {
		return l.ControlPlane(n)
	}
	return l.Addr(n, systemNet, hostReplica+i-1)
}

// Member is member i, from 0, of the store that control planes share.
func (l Layout) Member(n, i int) netip.Addr { return l.Addr(n, systemNet, hostMember+i) }

// Federation is where cluster n reaches control plane i of cluster m.
func (l Layout) Federation(n, m, i int) netip.AddrPort {
	return netip.AddrPortFrom(l.LinkEnd(n, m), uint16(portFederation+portReplica*i))
}

// Gateway is the east-west gateway.
func (l Layout) Gateway(n int) netip.Addr { return l.Addr(n, systemNet, hostGateway) }

// Ingress is the ingress gateway.
func (l Layout) Ingress(n int) netip.Addr { return l.Addr(n, systemNet, hostIngress) }

// LinkEnd is cluster n's end of its link to cluster m: at it, n reaches m.
func (l Layout) LinkEnd(n, m int) netip.Addr { return l.Addr(n, linkNet, m) }

// Endpoint is where cluster n reaches the sidecar of instance i of cluster m, on the same network.
func (l Layout) Endpoint(n, m, i int) netip.AddrPort {
	return netip.AddrPortFrom(l.LinkEnd(n, m), uint16(portEndpoints+i))
}

// Cluster is all of cluster n.
func (l Layout) Cluster(n int) netip.Prefix { return netip.PrefixFrom(l.Addr(n, 0, 0), 16) }

// Sidecar and App are the two processes of instance i, from 1.
func (l Layout) Sidecar(n, i int) netip.Addr { return l.Addr(n, i, hostSidecar) }

// App is the application of instance i.
func (l Layout) App(n, i int) netip.Addr { return l.Addr(n, i, hostApp) }

// Service is the address of service k, from 0, in cluster n; ServiceFor is the one that
// instance i sees it at.
func (l Layout) Service(n, k int) netip.Addr { return l.Addr(n, systemNet, hostServices+k) }

// ServiceFor is the address at which instance i of cluster n sees service k.
func (l Layout) ServiceFor(n, i, k int) netip.Addr { return l.Addr(n, i, hostServices+k) }

// Net is the /24 of instance i, and of the shell for 0.
func (l Layout) Net(n, i int) netip.Prefix { return netip.PrefixFrom(l.Addr(n, i, 0), 24) }

// Console is where the mesh's own API and console are: at the address that people try
// first for the default base, inside the mesh for another.
func (l Layout) Console() netip.AddrPort {
	if l == DefaultBase {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), portAPI)
	}
	return netip.AddrPortFrom(l.Shell(1), portAPI)
}

//house:exempt a table: the fields of a configuration, and what is wrong with each

// Package agent runs one proxy: it follows the control plane, keeps what it was told in a
// sealed snapshot, builds the one State that requests are decided by, and owns the proxy's
// listeners. Its one idea is that configuration becomes visible whole: a service is shown to
// requests when everything it refers to has arrived, and stays as it was until then.
//
// It routes no request (dataplane/proxy), speaks no protocol (the engines) and issues no
// certificate. Read Config and Agent.Run first, then store.
package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Config is what a proxy is started with, as JSON. Fields left out have the zero value.
type Config struct {
	// ID is "namespace/workload".
	ID string `json:"id"`
	// Mode is "sidecar", "gateway" (east-west) or "ingress" (north-south).
	Mode    string           `json:"mode"`
	Cluster mesh.ClusterName `json:"cluster"`
	Zone    mesh.Zone        `json:"zone,omitempty"`
	// TrustDomain of the cluster, and the identity that the proxy shall have in it.
	TrustDomain    mesh.TrustDomain `json:"trustDomain"`
	ServiceAccount string           `json:"serviceAccount"`
	// ControlPlanes are addresses of the control-plane stream (port 15010).
	ControlPlanes []netip.AddrPort `json:"controlPlanes"`
	// Join is the join token for first contact; it is not needed when a snapshot is.
	Join string `json:"join,omitempty"`
	// JoinFD is a descriptor that answers each first contact with a fresh token: a line is
	// written to it and a token is read back. 0 is none.
	JoinFD int `json:"joinFD,omitempty"`
	// SealFD is the inherited descriptor of the seal key; 0: no snapshot is kept.
	SealFD   int    `json:"sealFD,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
	// SnapshotMaxAge bounds how old a snapshot may be at boot; 0 is 24 h.
	SnapshotMaxAge time.Duration `json:"snapshotMaxAge,omitempty"`

	// Local binds every outgoing connection; invalid is any.
	Local netip.Addr `json:"local,omitzero"`
	// Translate and Unreachable are tunnel.Paths, for hosts without a router between clusters.
	Translate   map[netip.AddrPort]netip.AddrPort `json:"translate,omitempty"`
	Unreachable []netip.Prefix                    `json:"unreachable,omitempty"`
	// Outbound is the explicit proxy (15001); Inbound the inter-proxy port (15008); Gateway
	// the east-west gateway's (15443); Admin is 15020; DNS is 15053. Those that are not set are
	// not served.
	Outbound netip.AddrPort `json:"outbound,omitzero"`
	Inbound  netip.AddrPort `json:"inbound,omitzero"`
	Gateway  netip.AddrPort `json:"gateway,omitzero"`
	Admin    netip.AddrPort `json:"admin,omitzero"`
	DNS      netip.AddrPort `json:"dns,omitzero"`
	// Ingress is the address at which the listeners of Gateways are served, for mode ingress; the unspecified one is every
	// address. Ports of listeners below 1024 are opened IngressOffset higher.
	Ingress       netip.Addr `json:"ingress,omitzero"`
	IngressOffset uint16     `json:"ingressOffset,omitempty"`
	// Regions is a file that tells the regions of clients (docs/guides/ingress.md): answers for hosts of Gateways go by it.
	Regions string `json:"regions,omitempty"`
	// Capture says that Outbound also takes connections that nftables redirects to it; package capture
	// makes the rules. Then only this host may use it.
	Capture bool `json:"capture,omitempty"`
	// Captured (15006) takes connections to the workload that nftables redirects. What is plaintext to a
	// port of a service is refused.
	Captured netip.AddrPort `json:"captured,omitzero"`
	// ServiceNet, a /24, is where services have addresses of their own for this workload: the
	// last octet is that of the service's address. Invalid: they have none.
	ServiceNet netip.Prefix `json:"serviceNet,omitzero"`
	// Prefetch is how many services are fetched before their first use, so that a first use
	// does not depend on a control plane being there; 0 is 256.
	Prefetch int `json:"prefetch,omitempty"`

	// Handover is the Unix socket at which a successor is given the open ports (docs/guides/proxy.md);
	// empty: the proxy cannot be replaced without closing them.
	Handover string `json:"handover,omitempty"`
	// DrainDelay is how long a proxy that is told to end still accepts, unready, so that those who
	// choose endpoints by readiness learn of it; DrainTime is how long what is in progress may then
	// take to end, 0 being 30 s. In nanoseconds.
	DrainDelay time.Duration `json:"drainDelay,omitempty"`
	DrainTime  time.Duration `json:"drainTime,omitempty"`
}

func (c *Config) drainTime() time.Duration {
	if c.DrainTime == 0 {
		return drainTime
	}
	return c.DrainTime
}

// Modes of a proxy.
const (
	ModeSidecar = "sidecar"
	ModeGateway = "gateway"
	ModeIngress = "ingress"
)

// ReadConfig reads a configuration; a field that does not exist is a fault.
func ReadConfig(r io.Reader) (Config, error) {
	var c Config
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("read the proxy's configuration: %w", err)
	}
	return c, c.Validate()
}

// Identity is whom the proxy is to be.
func (c *Config) Identity() mesh.Identity {
	n, _ := mesh.ParseServiceName(c.ID)
	return mesh.Identity{TrustDomain: c.TrustDomain, Namespace: n.Namespace, ServiceAccount: c.ServiceAccount}
}

// ServiceAddress is where this workload reaches a service by an address of its own: in
// ServiceNet, the last octet being that of the service's address in the cluster. Listeners and
// names both go by it. False if there is none: octets below 10 are the workload's own.
func (c *Config) ServiceAddress(service netip.Addr) (netip.Addr, bool) {
	if !c.ServiceNet.IsValid() || !service.Is4() {
		return netip.Addr{}, false
	}
	own, theirs := c.ServiceNet.Addr().As4(), service.As4()
	own[3] = theirs[3]
	return netip.AddrFrom4(own), theirs[3] >= 10
}

// owns reports whether a port is this proxy's own: what was carried to it would be taken for this host's.
func (c *Config) owns(p ir.InboundPort) bool {
	at := p.Target
	return slices.ContainsFunc([]netip.AddrPort{c.Outbound, c.Inbound, c.Captured, c.Gateway, c.Admin, c.DNS}, func(o netip.AddrPort) bool {
		return o.Port() != 0 && o.Port() == at.Port() && (o.Addr() == at.Addr() || o.Addr().IsUnspecified())
	})
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("proxy configuration: "+format, args...))
	}
	if _, err := mesh.ParseServiceName(c.ID); err != nil {
		fault("id: %w", err)
	}
	if c.Mode != ModeSidecar && c.Mode != ModeGateway && c.Mode != ModeIngress {
		fault("mode: %q: want %q, %q or %q", c.Mode, ModeSidecar, ModeGateway, ModeIngress)
	}
	if (c.Mode == ModeIngress) != c.Ingress.IsValid() {
		fault("ingress: an address belongs to mode %q, and that to it", ModeIngress)
	}
	if !mesh.IsLabel(string(c.Cluster)) {
		fault("cluster: %q: want a DNS label", c.Cluster)
	}
	if !mesh.IsSubdomain(string(c.TrustDomain)) {
		fault("trustDomain: %q: want a DNS subdomain", c.TrustDomain)
	}
	if !mesh.IsSubdomain(c.ServiceAccount) {
		fault("serviceAccount: %q: want a DNS subdomain", c.ServiceAccount)
	}
	if len(c.ControlPlanes) == 0 {
		fault("controlPlanes: none: want at least one address")
	}
	if c.SealFD != 0 && c.Snapshot == "" {
		fault("snapshot: missing: sealFD is given")
	}
	if c.Mode == ModeGateway && !c.Gateway.IsValid() {
		fault("gateway: missing: mode is gateway")
	}
	if c.Capture && !c.Outbound.IsValid() {
		fault("outbound: missing: capture is set")
	}
	if c.ServiceNet.IsValid() && (c.ServiceNet.Bits() != 24 || !c.ServiceNet.Addr().Is4()) {
		fault("serviceNet: %s: want an IPv4 /24", c.ServiceNet)
	}
	if len(c.Handover) > handoverMax {
		fault("handover: %s: want at most %d bytes: it is the path of a Unix socket", c.Handover, handoverMax)
	}
	if c.DrainDelay < 0 || c.DrainTime < 0 {
		fault("drainDelay and drainTime: %s and %s: want no less than zero", c.DrainDelay, c.DrainTime)
	}
	return errors.Join(errs...)
}

// handoverMax is what a Unix socket's path may have on the smallest system, less its final zero.
const handoverMax = 103

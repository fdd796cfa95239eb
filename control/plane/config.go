// Package plane puts a cluster's control plane together: store, authority, loop,
// discovery, peers. Its one idea is that this is the only place that knows all of them: each part
// takes what it needs as values and functions, and here they meet.
//
// It decides nothing and serves no people: commands and console come in by package api,
// which the binary puts beside it. Read Config, then Plane.Run.
package plane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Config is what a control plane is started with, as JSON.
type Config struct {
	Cluster mesh.ClusterName `json:"cluster"`
	// Domain is the mesh domain; "" is mesh.DefaultDomain.
	Domain  string       `json:"domain,omitempty"`
	Network mesh.Network `json:"network,omitempty"`
	// StateDir holds the store, the sealed authority and the caches of peers; mode 0700.
	StateDir string `json:"stateDir"`
	// SealFD is the inherited descriptor of the seal key.
	SealFD int `json:"sealFD"`
	// Local binds outgoing connections; invalid is any.
	Local netip.Addr `json:"local,omitzero"`
	// Control is port 15010, Federation 15012, API 15080, Metrics 15014, which asks nobody for a token and changes nothing.
	Control    netip.AddrPort `json:"control"`
	Federation netip.AddrPort `json:"federation"`
	API        netip.AddrPort `json:"api,omitzero"`
	Metrics    netip.AddrPort `json:"metrics,omitzero"`
	// TokenFile holds the bearer token of the API.
	TokenFile string `json:"tokenFile,omitempty"`
	// ServiceRange is where services get addresses of their own, also those that only other clusters have:
	// a /24, since sidecars of a local mesh tell services by the last octet.
	ServiceRange netip.Prefix `json:"serviceRange,omitzero"`
	// AddressHold is how long the address of a service that has gone is given to no other; 0 is 24 h, or
	// CertificateTTL if that is longer.
	AddressHold time.Duration `json:"addressHold,omitempty"`
	// StoreEndpoints select an external etcd; none: a child process of this binary.
	StoreEndpoints []string `json:"storeEndpoints,omitempty"`
	// StorePrefix begins every key there, by which clusters share an etcd; "" is store.DefaultPrefix. StoreTLS is for https endpoints.
	StorePrefix string   `json:"storePrefix,omitempty"`
	StoreTLS    StoreTLS `json:"storeTLS,omitzero"`
	// CertificateTTL is the life of certificates; 0 is 24 h.
	CertificateTTL time.Duration `json:"certificateTTL,omitempty"`
	// IgnoreLearntCapacity spreads load by what is declared or reported alone, and believes nothing that proxies learnt.
	IgnoreLearntCapacity bool `json:"ignoreLearntCapacity,omitempty"`
	// Remote makes it the relay of a remote cluster: its objects are in sealed files, it takes no streams from other
	// clusters, and follows one of the primaries that its own Cluster object names. See ReadRelayConfig.
	Remote bool `json:"-"`
	// Build is what this process is built as.
	Build skew.Build `json:"-"`
	// Failpoints is nil in production.
	Failpoints *failpoint.Set `json:"-"`
}

// StoreTLS names PEM files.
type StoreTLS = store.TLSFiles

// ReadConfig reads a configuration; a field that does not exist is a fault.
func ReadConfig(r io.Reader) (Config, error) {
	c, err := decodeConfig(r)
	if err != nil {
		return Config{}, fmt.Errorf("read the control plane's configuration: %w", err)
	}
	return c, c.Validate()
}

func decodeConfig(r io.Reader) (c Config, err error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err = d.Decode(&c)
	if c.Domain == "" {
		c.Domain = mesh.DefaultDomain
	}
	return c, err
}

// ReadRelayConfig reads the configuration of a relay: that of a control plane, without federation and store.
func ReadRelayConfig(r io.Reader) (Config, error) {
	c, err := decodeConfig(r)
	if err != nil {
		return Config{}, fmt.Errorf("read the relay's configuration: %w", err)
	}
	c.Remote = true
	return c, c.Validate()
}

// Validate reports every fault.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("control plane configuration: "+format, args...))
	}
	if !mesh.IsLabel(string(c.Cluster)) {
		fault("cluster: %q: want a DNS label", c.Cluster)
	}
	if !mesh.IsSubdomain(c.Domain) {
		fault("domain: %q: want a DNS subdomain", c.Domain)
	}
	if c.StateDir == "" {
		fault("stateDir: missing")
	}
	if c.SealFD == 0 {
		fault("sealFD: missing: the authority's key is kept sealed, so a key must be inherited")
	}
	if (c.StoreTLS.Certificate == "") != (c.StoreTLS.Key == "") {
		fault("storeTLS: certificate and key go together")
	}
	if (c.StoreTLS != (StoreTLS{}) || c.StorePrefix != "") && len(c.StoreEndpoints) == 0 {
		fault("storeTLS, storePrefix: they are for storeEndpoints, and there are none")
	}
	if s := c.StorePrefix; s != "" && (!strings.HasPrefix(s, "/") || !strings.HasSuffix(s, "/") || len(s) < 3) {
		fault("storePrefix: %q: write a word between slashes, such as /isthmus-%s/", s, c.Cluster)
	}
	if !c.Control.IsValid() {
		fault("control: missing: want the address of port 15010")
	}
	if c.Remote {
		if c.Federation.IsValid() {
			fault("federation: a relay takes no streams of other clusters: leave it out")
		}
		if len(c.StoreEndpoints) > 0 {
			fault("storeEndpoints: a relay keeps its objects in its state directory: leave them out")
		}
	} else if !c.Federation.IsValid() {
		fault("federation: missing: want the address of port 15012")
	}
	if c.ServiceRange.IsValid() && !c.ServiceRange.Addr().Is4() {
		fault("serviceRange: %s: want a prefix of IPv4 addresses", c.ServiceRange)
	}
	if c.AddressHold < 0 {
		fault("addressHold: %v: want a time that is not negative", c.AddressHold)
	}
	return errors.Join(errs...)
}

// TrustDomain is the cluster's.
func (c *Config) TrustDomain() mesh.TrustDomain { return mesh.TrustDomainOf(c.Cluster, c.Domain) }

// shared reports whether the store is one that other replicas use too.
func (c *Config) shared() bool { return len(c.StoreEndpoints) > 0 }

func (c *Config) path(parts ...string) string {
	return filepath.Join(append([]string{c.StateDir}, parts...)...)
}

// StoreSocket is where the store's child process listens.
func (c *Config) StoreSocket() string { return c.path("store.sock") }

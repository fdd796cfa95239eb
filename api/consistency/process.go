package consistency

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Process is what a control plane says of itself in numbers, beside what it says of proxies and peers.
type Process struct {
	Cluster mesh.ClusterName
	// Ready says that the store has been read.
	Ready bool
	// Facts is how many the world holds, of all clusters.
	Facts     int
	Discovery xds.Counters
	// Roots are those of the own authority, in DER.
	Roots [][]byte
}

// Text is Prometheus' text format (version 0.0.4). There are as many series as types of resources.
func (p Process) Text() string {
	var b strings.Builder
	one := func(name, kind, help string, value float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s{cluster=%q} %.0f\n", name, help, name, kind, name, string(p.Cluster), value)
	}
	one("isthmus_control_plane_ready", "gauge", "Whether the store has been read, and proxies are answered.", float64(index(p.Ready)))
	one("isthmus_world_facts", "gauge", "Facts of all clusters that are known here.", float64(p.Facts))
	one("isthmus_ca_roots", "gauge", "Roots of the cluster's authority: one, and two while it is rotated.", float64(len(p.Roots)))
	if first, ok := firstExpiry(p.Roots); ok {
		one("isthmus_ca_root_expiry_timestamp_seconds", "gauge", "When the first of the roots expires, in seconds since 1970.", first)
	}
	d := &p.Discovery
	one("isthmus_xds_streams_total", "counter", "Streams that proxies opened.", float64(d.Streams))
	one("isthmus_xds_requests_total", "counter", "Messages of proxies.", float64(d.Requests))
	one("isthmus_xds_responses_total", "counter", "Messages to proxies.", float64(d.Responses))
	one("isthmus_xds_refused_total", "counter", "Refusals of one resource by one proxy.", float64(d.Refused))
	one("isthmus_xds_too_large_total", "counter", "Resources that fit no message; the version before stays in force.", float64(d.TooLarge))
	one("isthmus_xds_panics_total", "counter", "Panics that were caught and cost one stream each.", float64(d.Panics))
	fmt.Fprint(&b, "# HELP isthmus_xds_resources_total Resources that were sent or removed, by type.\n# TYPE isthmus_xds_resources_total counter\n")
	for _, typ := range slices.Sorted(maps.Keys(d.Resources)) {
		fmt.Fprintf(&b, "isthmus_xds_resources_total{cluster=%q,type=%q} %d\n", string(p.Cluster), typ[strings.LastIndexByte(typ, '/')+1:], d.Resources[typ])
	}
	return b.String()
}

// firstExpiry is when the first of some certificates expires; false if none can be read.
func firstExpiry(roots [][]byte) (first float64, ok bool) {
	for _, der := range roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if at := float64(c.NotAfter.Unix()); !ok || at < first {
			first, ok = at, true
		}
	}
	return first, ok
}

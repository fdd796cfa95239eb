package consistency

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// PeerStatus is how another cluster stands, as this one sees it.
type PeerStatus struct {
	Cluster mesh.ClusterName
	// State is the reachability, in words, and StateAge since when it is that.
	State    string
	StateAge time.Duration
	// Loss is the share of the last minute's questions that its gateways did not answer in time.
	Loss float64
	// InSync says that all it told is known here; Stale that what is known is frozen, its lease having lapsed: then it is shown as out of sync.
	InSync, Stale bool
	Position      mesh.Position
	// Age is how long nothing was heard.
	Age, RTT time.Duration
	// Version is the peer's, Protocol what is spoken with it; Problem is why it is not followed, for people.
	Version  string
	Protocol int
	Problem  string
	Gateways []netip.AddrPort
	// Via is the cluster by whose gateways it is reached while its own do not answer, with the round trip of that way; "" is none.
	Via    mesh.ClusterName
	ViaRTT time.Duration
	// Received and Sent are octets over the connections that this control plane made to the peer's.
	Received, Sent int64
}

// Up reports whether a gateway of it answers.
func (p *PeerStatus) Up() bool { return p.State != mesh.Unreachable.String() }

// Metrics are, in Prometheus' text format (version 0.0.4), what status says in numbers: of this control plane, and of the path to
// and the link with each other cluster. There are as many series as clusters.
func Metrics(cluster mesh.ClusterName, version string, proxies []xds.ClientStatus, peers []PeerStatus, verdicts []Verdict) string {
	var b strings.Builder
	family := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	self := string(cluster)
	family("isthmus_control_plane_info", "gauge", "1, with the version of the control plane.")
	fmt.Fprintf(&b, "isthmus_control_plane_info{cluster=%q,version=%q} 1\n", self, version)
	family("isthmus_xds_clients", "gauge", "Proxies that follow this control plane, by whether they have accepted all that they asked for.")
	var clients [2]int
	for _, c := range proxies {
		clients[index(c.InSync())]++
	}
	fmt.Fprintf(&b, "isthmus_xds_clients{cluster=%q,in_sync=\"true\"} %d\nisthmus_xds_clients{cluster=%q,in_sync=\"false\"} %d\n", self, clients[1], self, clients[0])
	each := func(name, help string, value func(PeerStatus) float64) {
		family(name, "gauge", help)
		for _, p := range peers {
			fmt.Fprintf(&b, "%s{cluster=%q,peer=%q} %g\n", name, self, string(p.Cluster), value(p))
		}
	}
	each("isthmus_peer_up", "Whether the path to a gateway of the cluster is up.", func(p PeerStatus) float64 { return float64(index(p.Up())) })
	each("isthmus_peer_state_age_seconds", "For how long isthmus_peer_state has been what it is.", func(p PeerStatus) float64 { return p.StateAge.Seconds() })
	each("isthmus_peer_rtt_seconds", "Smoothed round-trip time to the cluster's gateways; 0 until measured.", func(p PeerStatus) float64 { return p.RTT.Seconds() })
	each("isthmus_peer_loss_ratio", "Share of the questions of the last minute that its gateways did not answer in time.", func(p PeerStatus) float64 { return p.Loss })
	family("isthmus_peer_detour_rtt_seconds", "gauge", "Smoothed round-trip time by the gateways of a third cluster, via, while the cluster's own do not answer.")
	for _, p := range peers {
		if p.Via != "" {
			fmt.Fprintf(&b, "isthmus_peer_detour_rtt_seconds{cluster=%q,peer=%q,via=%q} %g\n", self, string(p.Cluster), string(p.Via), p.ViaRTT.Seconds())
		}
	}
	each("isthmus_peer_in_sync", "Whether all that the cluster states is known here, and its lease holds.", func(p PeerStatus) float64 { return float64(index(p.InSync && !p.Stale)) })
	each("isthmus_peer_age_seconds", "How long ago the cluster was last heard; how old what is known of it may be.", func(p PeerStatus) float64 { return p.Age.Seconds() })
	family("isthmus_peer_received_bytes_total", "counter", "Octets received over the connections that this control plane made to the cluster's: what it told.")
	for _, p := range peers {
		fmt.Fprintf(&b, "isthmus_peer_received_bytes_total{cluster=%q,peer=%q} %d\n", self, string(p.Cluster), p.Received)
	}
	family("isthmus_peer_sent_bytes_total", "counter", "Octets sent over the same connections: acknowledgements.")
	for _, p := range peers {
		fmt.Fprintf(&b, "isthmus_peer_sent_bytes_total{cluster=%q,peer=%q} %d\n", self, string(p.Cluster), p.Sent)
	}
	family("isthmus_peer_state", "gauge", "1 for the reachability that the cluster has, 0 for the others.")
	for _, p := range peers {
		for _, state := range []mesh.Reachability{mesh.Alive, mesh.StaleServing, mesh.Unreachable} {
			fmt.Fprintf(&b, "isthmus_peer_state{cluster=%q,peer=%q,state=%q} %d\n", self, string(p.Cluster), state.String(), index(p.State == state.String()))
		}
	}
	family("isthmus_peer_verdict", "gauge", "1 for what the mesh says of the cluster (the own one: what others see of it), 0 for the other verdicts.")
	for _, v := range verdicts {
		for _, state := range []mesh.Reachability{mesh.Alive, mesh.StaleServing, mesh.Unreachable, mesh.Dead} {
			fmt.Fprintf(&b, "isthmus_peer_verdict{cluster=%q,peer=%q,verdict=%q} %d\n", self, string(v.Cluster), state.String(), index(v.State == state.String()))
		}
	}
	judged := func(name, kind, help string, value func(Verdict) float64) {
		family(name, kind, help)
		for _, v := range verdicts {
			fmt.Fprintf(&b, "%s{cluster=%q,peer=%q} %g\n", name, self, string(v.Cluster), value(v))
		}
	}
	judged("isthmus_peer_verdict_age_seconds", "gauge", "For how long isthmus_peer_verdict has been what it is.", func(v Verdict) float64 { return v.AgeSeconds })
	judged("isthmus_peer_verdict_evidence_age_seconds", "gauge", "How long ago anybody who has a say last said anything of the cluster.", func(v Verdict) float64 { return v.EvidenceAgeSeconds })
	judged("isthmus_peer_verdict_observers", "gauge", "How many clusters have a say.", func(v Verdict) float64 { return float64(len(v.Observers)) })
	judged("isthmus_peer_verdict_changes_total", "counter", "How often the verdict changed.", func(v Verdict) float64 { return float64(v.Changes) })
	return b.String()
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

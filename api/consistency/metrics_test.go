package consistency

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/xds"
)

// TestMetricsSayWhatStatusSays: one series a peer and family, by the names that are promised.
func TestMetricsSayWhatStatusSays(t *testing.T) {
	got := Metrics("eu-west", "v0.1.0", []xds.ClientStatus{{}, {Behind: true}}, []PeerStatus{
		{Cluster: "us-east", State: "Alive", StateAge: time.Minute, InSync: true, RTT: 80 * time.Millisecond, Loss: 0.05, Age: time.Second, Received: 4096, Sent: 512},
		{Cluster: "ap-south", State: "Unreachable", Via: "us-east", ViaRTT: 200 * time.Millisecond, InSync: true, Stale: true}}, []Verdict{
		{Cluster: "ap-south", State: "Dead", AgeSeconds: 9, Changes: 2, Observers: make([]Observer, 2)}})
	for _, want := range []string{"isthmus_control_plane_info{cluster=\"eu-west\",version=\"v0.1.0\"} 1\n", "isthmus_xds_clients{cluster=\"eu-west\",in_sync=\"false\"} 1\n",
		"# TYPE isthmus_peer_up gauge\n", "isthmus_peer_up{cluster=\"eu-west\",peer=\"us-east\"} 1\n", "isthmus_peer_up{cluster=\"eu-west\",peer=\"ap-south\"} 0\n",
		"isthmus_peer_rtt_seconds{cluster=\"eu-west\",peer=\"us-east\"} 0.08\n", "isthmus_peer_loss_ratio{cluster=\"eu-west\",peer=\"us-east\"} 0.05\n",
		"isthmus_peer_state{cluster=\"eu-west\",peer=\"us-east\",state=\"Alive\"} 1\n", "isthmus_peer_state{cluster=\"eu-west\",peer=\"ap-south\",state=\"Alive\"} 0\n",
		"isthmus_peer_state_age_seconds{cluster=\"eu-west\",peer=\"us-east\"} 60\n", "isthmus_peer_in_sync{cluster=\"eu-west\",peer=\"ap-south\"} 0\n",
		"isthmus_peer_verdict{cluster=\"eu-west\",peer=\"ap-south\",verdict=\"Dead\"} 1\n", "isthmus_peer_verdict{cluster=\"eu-west\",peer=\"ap-south\",verdict=\"Alive\"} 0\n",
		"isthmus_peer_verdict_age_seconds{cluster=\"eu-west\",peer=\"ap-south\"} 9\n", "isthmus_peer_verdict_observers{cluster=\"eu-west\",peer=\"ap-south\"} 2\n",
		"isthmus_peer_detour_rtt_seconds{cluster=\"eu-west\",peer=\"ap-south\",via=\"us-east\"} 0.2\n",
		"# TYPE isthmus_peer_received_bytes_total counter\nisthmus_peer_received_bytes_total{cluster=\"eu-west\",peer=\"us-east\"} 4096\n", "isthmus_peer_sent_bytes_total{cluster=\"eu-west\",peer=\"us-east\"} 512\n",
		"# TYPE isthmus_peer_verdict_changes_total counter\nisthmus_peer_verdict_changes_total{cluster=\"eu-west\",peer=\"ap-south\"} 2\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

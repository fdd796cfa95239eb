package load

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// place is a cluster, for one service.
type place struct {
	service mesh.ServiceName
	cluster mesh.ClusterName
}

// voicesMax bounds the places of which one proxy has a say.
const voicesMax = 4096

// saw takes how a proxy's newest tries at a place ended.
func (n *node) saw(at place, r split.Result) {
	v, known := n.voices[at]
	if v.Saw(r, n.at); v.Silent(n.at) {
		delete(n.voices, at)
	} else if known || n.room() {
		n.voices[at] = v
	}
}

// room reports whether a proxy may have a say of another place; once a report it drops what does not count any more.
func (n *node) room() bool {
	if len(n.voices) < voicesMax || n.swept.Equal(n.at) {
		return len(n.voices) < voicesMax
	}
	n.swept = n.at
	for at, v := range n.voices {
		if v.Silent(n.at) {
			delete(n.voices, at)
		}
	}
	return len(n.voices) < voicesMax
}

// LeftOut takes what a proxy that was sampled leaves out by itself; it replaces what it said before. Only whole clusters count, and
// only while the proxy sends nothing there: one that would try it with its next request waits for what it is let have.
func (b *Balancer) LeftOut(id string, r outage.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[id]
	if n == nil {
		return
	}
	for _, at := range n.trips {
		n.tripped(at, false)
	}
	n.trips = n.trips[:0]
	for _, o := range r.Outages {
		if o.Cluster != "" && o.Endpoint == "" && o.State == outage.Out {
			at := place{o.Service, o.Cluster}
			n.trips = append(n.trips, at)
			n.tripped(at, true)
		}
	}
}

func (n *node) tripped(at place, ill bool) {
	v, known := n.voices[at]
	if v.Tripped(ill); v.Silent(n.at) {
		delete(n.voices, at)
	} else if known || n.room() {
		n.voices[at] = v
	}
}

// tripped are the clusters, by service, that this cluster's proxies left out (failback.Poll). While none does it costs a look at each proxy.
func (b *Balancer) tripped(now time.Time) map[mesh.ServiceName]map[mesh.ClusterName]bool {
	var polls map[place]*failback.Poll
	for _, n := range b.nodes {
		for _, at := range n.trips {
			if polls == nil {
				polls = map[place]*failback.Poll{}
			}
			if polls[at] == nil {
				polls[at] = &failback.Poll{}
			}
		}
	}
	if polls == nil {
		return nil
	}
	for _, n := range b.nodes {
		for at, v := range n.voices {
			if p := polls[at]; p != nil {
				p.Count(v, n.asks(at.service, now), now)
			}
		}
	}
	out := map[mesh.ServiceName]map[mesh.ClusterName]bool{}
	for at, p := range polls {
		if p.Lost() {
			if out[at.service] == nil {
				out[at.service] = map[mesh.ClusterName]bool{}
			}
			out[at.service][at.cluster] = true
		}
	}
	return out
}

// asks is what a proxy asks of a service, in requests a second.
func (n *node) asks(s mesh.ServiceName, now time.Time) float64 {
	if now.Sub(n.at) > rateLasts {
		return 0
	}
	for i := range n.samples {
		if n.samples[i].Service == s {
			return n.samples[i].Asked
		}
	}
	return 0
}

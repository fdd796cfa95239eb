// Package consistency is what a control plane says of itself so that meshes can be compared: digests of what it tells and holds,
// the objects behind a digest that differs, and how its proxies follow. Its one idea is that digests go first: a mesh in which
// nothing differs costs one small answer a cluster.
//
// It compares nothing (core/drift does) and serves nothing (package api does). Read Source, then Said.
package consistency

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/drift"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Source is a control plane.
type Source interface {
	// Tells is what each cluster that has joined is told, Holds what is known of each.
	Tells() map[mesh.ClusterName]*replica.Partition
	Holds() map[mesh.ClusterName]peer.Holding
}

// lagsMax bounds what is said of proxies that lag.
const lagsMax = 64

// Said sums up a control plane and its proxies.
func Said(self mesh.ClusterName, s Source, proxies []xds.ClientStatus, now time.Time) *drift.Said {
	out := &drift.Said{Cluster: string(self), Tells: map[string]drift.Summary{}, Holds: map[string]drift.Summary{}, Proxies: len(proxies)}
	for n, p := range s.Tells() {
		out.Tells[string(n)] = summary(p)
	}
	for n, h := range s.Holds() {
		sum := summary(h.Stated)
		sum.Stale, sum.Problem, sum.NotInForce, sum.AgeSeconds = h.Status.Stale, h.Problem(), len(h.NotInForce()), -1
		if !h.Status.LastFresh.IsZero() {
			sum.AgeSeconds = max(0, now.Sub(h.Status.LastFresh).Seconds())
		}
		out.Holds[string(n)] = sum
	}
	for i := range proxies {
		if proxies[i].InSync() {
			out.Acknowledged++
			continue
		}
		out.Lags = append(out.Lags, lags(&proxies[i])...)
	}
	out.Lags = out.Lags[:min(len(out.Lags), lagsMax)]
	return out
}

func summary(p *replica.Partition) drift.Summary {
	root := p.Root()
	s := drift.Summary{Digest: fmt.Sprintf("%x", root[:]), Objects: p.Len()}
	if p.Position != (mesh.Position{}) {
		s.Position = fmt.Sprintf("%s:%d", p.Position.Epoch, p.Position.Revision)
	}
	return s
}

// lags are what a proxy has not acknowledged: what it refuses, by name, and what is on its way, by type.
func lags(c *xds.ClientStatus) (out []drift.Lag) {
	switch {
	case c.Behind:
		return []drift.Lag{{Proxy: c.Node.ID, Reason: "it knows more than this control plane, which is catching up"}}
	case c.Queued:
		return []drift.Lag{{Proxy: c.Node.ID, Reason: "it waits for its turn to be configured"}}
	}
	for _, t := range c.Types {
		_, short, ok := strings.Cut(t.Type, "/v1/")
		if !ok {
			short = t.Type
		}
		for _, r := range t.Refused {
			out = append(out, drift.Lag{Proxy: c.Node.ID, Type: short, Name: r.Name, Reason: "refused: " + r.Message})
		}
		if !t.InSync && len(t.Refused) == 0 {
			out = append(out, drift.Lag{Proxy: c.Node.ID, Type: short, Reason: fmt.Sprintf("%d resources are to be sent, and a response is unanswered: %v", t.Queued, t.Pending)})
		}
	}
	return out
}

// Objects are what is behind a digest.
type Objects struct {
	// Buckets are the digests of the parts of a partition, of 16 octets each, in base64; only where none were asked for.
	Buckets []byte         `json:"buckets,omitempty"`
	Objects []drift.Object `json:"objects,omitempty"`
}

// Look answers with the digests of the buckets of what a cluster is told (side "tells") or of what is held of it
// ("holds"), and with the objects of the buckets asked for ("1,7,255"). Those that are held and not in force always come.
func Look(s Source, side, cluster, buckets string) (*Objects, error) {
	var p *replica.Partition
	var odd map[replica.Name]string
	switch side {
	case "tells":
		p = s.Tells()[mesh.ClusterName(cluster)]
	case "holds":
		if h, ok := s.Holds()[mesh.ClusterName(cluster)]; ok {
			p, odd = h.Stated, h.NotInForce()
		}
	}
	if p == nil {
		return nil, fmt.Errorf("it %s nothing of %q", side, cluster)
	}
	out := &Objects{}
	if buckets == "" {
		for _, d := range p.Digests() {
			out.Buckets = append(out.Buckets, d[:]...)
		}
	}
	listed := map[replica.Name]bool{}
	for word := range strings.SplitSeq(buckets, ",") {
		b, err := strconv.ParseUint(word, 10, 8)
		if err != nil {
			continue
		}
		for _, h := range p.Bucket(uint8(b)) {
			out.Objects = append(out.Objects, object(h, odd[h.Name]))
			listed[h.Name] = true
		}
	}
	for n, why := range odd {
		if listed[n] {
			continue
		}
		h := replica.Held{Name: n}
		if r := p.Get(n); r != nil {
			h.Version = r.Version
		}
		out.Objects = append(out.Objects, object(h, why))
	}
	return out, nil
}

func object(h replica.Held, odd string) drift.Object {
	o := drift.Object{Kind: string(h.Kind), Namespace: h.Namespace, Name: h.Name.Name, NotInForce: odd}
	if h.Version != (replica.Digest{}) {
		o.Version = base64.RawURLEncoding.EncodeToString(h.Version[:9])
	}
	return o
}

// Differ are the buckets that differ between two answers without any, as Look takes them; "" for none.
func Differ(a, b *Objects) string {
	const size = len(replica.Digest{})
	var out []string
	for i := range replica.Buckets {
		at := func(o *Objects) []byte { return o.Buckets[min(i*size, len(o.Buckets)):min((i+1)*size, len(o.Buckets))] }
		if !slices.Equal(at(a), at(b)) {
			out = append(out, strconv.Itoa(i))
		}
	}
	return strings.Join(out, ",")
}

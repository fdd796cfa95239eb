package wire

import (
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// FromOutages translates what a proxy leaves out.
func FromOutages(out []outage.Outage) []*wirepb.Outage {
	return each(out, func(o outage.Outage) *wirepb.Outage {
		return &wirepb.Outage{Service: fromService(o.Service), Cluster: string(o.Cluster), Endpoint: o.Endpoint, Why: uint32(o.Why), State: uint32(o.State)}
	})
}

// ToOutages is the way back of FromOutages. A report of load counts without them, so it has no error: what cannot be read, is of
// a state that a later version has, or is beyond outage.Most, is counted in More. A class of a later version is outage.Unknown.
func ToOutages(m []*wirepb.Outage, more uint32) outage.Report {
	r := outage.Report{More: int(min(more, rateMax))}
	for _, o := range m {
		d := &decoder{}
		v := outage.Outage{Place: outage.Place{Service: d.service(o.Service), Cluster: mesh.ClusterName(o.Cluster), Endpoint: o.Endpoint}, State: outage.State(min(o.State, 255))}
		if o.Why <= uint32(outage.Relieved) {
			v.Why = outage.Why(o.Why)
		}
		if d.err != nil || !(mesh.IsLabel(o.Cluster) && v.Why != outage.Relieved || o.Cluster == "" && o.Endpoint == "" && v.Why == outage.Relieved) || !plain(o.Endpoint) || o.State > uint32(outage.Over) || len(r.Outages) == outage.Most {
			r.More++
			continue
		}
		r.Outages = append(r.Outages, v)
	}
	return r
}

// plain reports whether a name may be shown to people as it is.
func plain(s string) bool {
	return len(s) <= outage.TextMax && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

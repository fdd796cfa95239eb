package wire

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// What a report may say at most: beyond, it is no measurement.
const (
	rateMax  = 1e9
	lanesMax = 1e9
	bytesMax = 1e15
	timeMax  = time.Hour
)

func fromShares(in []mesh.Share) []*wirepb.Share {
	return each(in, func(s mesh.Share) *wirepb.Share { return &wirepb.Share{Cluster: string(s.Cluster), Parts: s.Parts} })
}

func toShares(in []*wirepb.Share) []mesh.Share {
	return each(in, func(s *wirepb.Share) mesh.Share {
		return mesh.Share{Cluster: mesh.ClusterName(s.Cluster), Parts: s.Parts}
	})
}

func fromSplit(v *mesh.Split) *wirepb.Split {
	return &wirepb.Split{Service: fromService(v.Service), Beat: v.Beat, Spend: v.Spend, Shares: fromShares(v.Shares), Returning: each(v.Returning, func(r mesh.Return) *wirepb.Return {
		return &wirepb.Return{Cluster: string(r.Cluster), Parts: r.Parts, Ended: r.Ended, Failed: r.Failed, SinceMillis: r.SinceMillis, Hold: int64(r.Hold)}
	}), Capacities: each(v.Capacities, func(c mesh.Capacity) *wirepb.Capacity {
		return &wirepb.Capacity{Cluster: string(c.Cluster), Rate: c.Rate, Lanes: c.Lanes, Source: uint32(c.Source)}
	})}
}

func (d *decoder) split(m *wirepb.Split) *mesh.Split {
	return &mesh.Split{Service: d.service(m.Service), Beat: m.Beat, Spend: m.Spend, Shares: toShares(m.Shares), Returning: each(m.Returning, func(r *wirepb.Return) mesh.Return {
		return mesh.Return{Cluster: mesh.ClusterName(r.Cluster), Parts: r.Parts, Ended: r.Ended, Failed: r.Failed, SinceMillis: r.SinceMillis, Hold: time.Duration(r.Hold)}
	}), Capacities: each(m.Capacities, func(c *wirepb.Capacity) mesh.Capacity {
		return mesh.Capacity{Cluster: mesh.ClusterName(c.Cluster), Rate: c.Rate, Lanes: c.Lanes, Source: mesh.CapacitySource(c.Source)}
	})}
}

// toCapacitySource takes what a later version may say for the least sure there is here.
func toCapacitySource(s uint32) mesh.CapacitySource {
	return mesh.CapacitySource(min(s, uint32(mesh.CapacityAssumed)))
}

// FromSamples and ToSamples translate what a proxy measured. The error of ToSamples names the first sample that
// is no measurement; nothing of it counts then.
func FromSamples(samples []split.Sample) []*wirepb.Sample {
	return each(samples, func(s split.Sample) *wirepb.Sample {
		return &wirepb.Sample{Service: fromService(s.Service), Asked: s.Asked, Served: s.Served, Lanes: s.Lanes, Time: int64(s.Time), Wait: int64(s.Wait),
			Bears: s.Bears, Sure: s.Sure, Source: uint32(s.Source),
			Sent: s.Sent, Received: s.Received, Calling: s.Calling, Results: each(s.Results, func(r split.Result) *wirepb.Result {
				return &wirepb.Result{Cluster: string(r.Cluster), Ended: r.Ended, Failed: r.Failed}
			})}
	})
}

// ToSamples is the way back of FromSamples.
func ToSamples(m []*wirepb.Sample) ([]split.Sample, error) {
	d := &decoder{}
	out := each(m, func(s *wirepb.Sample) split.Sample {
		v := split.Sample{Service: d.service(s.Service), Asked: s.Asked, Served: s.Served, Lanes: s.Lanes, Time: time.Duration(s.Time), Wait: time.Duration(s.Wait),
			Bears: s.Bears, Sure: s.Sure, Source: toCapacitySource(s.Source),
			Sent: s.Sent, Received: s.Received, Calling: s.Calling, Results: each(s.Results, func(r *wirepb.Result) split.Result {
				d.within("ended", float64(r.Ended), 0, rateMax)
				d.within("failed", float64(r.Failed), 0, float64(r.Ended))
				return split.Result{Cluster: mesh.ClusterName(r.Cluster), Ended: r.Ended, Failed: r.Failed}
			})}
		d.within("asked", v.Asked, 0, rateMax)
		d.within("served", v.Served, 0, rateMax)
		d.within("bears", v.Bears, 0, rateMax)
		d.within("sure", v.Sure, 0, 1)
		d.within("sent", v.Sent, 0, bytesMax)
		d.within("received", v.Received, 0, bytesMax)
		d.within("calling", v.Calling, 0, rateMax)
		d.within("time", float64(v.Time), 0, float64(timeMax))
		d.within("wait", float64(v.Wait), -float64(timeMax), float64(timeMax))
		return v
	})
	if d.err != nil {
		return nil, fmt.Errorf("decode what a proxy measured: %w", d.err)
	}
	return out, nil
}

func (d *decoder) within(what string, v, least, most float64) {
	if math.IsNaN(v) || v < least || v > most {
		d.fault("%s %g is not between %g and %g", what, v, least, most)
	}
}

func (d *decoder) hop(what string, v []float64, h int) float64 {
	if len(v) == 0 {
		return 0
	}
	d.within(what, v[min(h, len(v)-1)], 0, math.Inf(1))
	return min(v[min(h, len(v)-1)], split.PriceMost)
}

// fromBelow leaves out what is nothing, as most services call none.
func fromBelow(b split.Price) (deep, grows []float64) {
	if b == (split.Price{}) {
		return nil, nil
	}
	return b.Deep[:], b.Grows[:]
}

// below reads as many hops as are known here; who counts fewer has the last of them counted on. A cost beyond the most that there is
// is that: it is no reason to refuse what else a cluster says.
func (d *decoder) below(deep, grows []float64) (b split.Price) {
	for h := range b.Deep {
		b.Deep[h] = d.hop("cost of calls", deep, h)
		b.Grows[h] = d.hop("growth of that cost", grows, h)
	}
	return b
}

// EncodeReport returns the bytes of a cluster's report, which replication carries beside its log.
func EncodeReport(r *split.ClusterReport) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&wirepb.ClusterLoad{
		Paths: each(r.Paths, func(p split.Path) *wirepb.Path {
			return &wirepb.Path{Cluster: string(p.Cluster), Rtt: int64(p.RTT), Dead: p.Dead, Lease: wirepb.Lease(p.Lease), Loss: p.Loss, Via: string(p.Via)}
		}),
		Services: each(r.Services, func(s split.ServiceReport) *wirepb.ServiceLoad {
			deep, grows := fromBelow(s.Below)
			return &wirepb.ServiceLoad{Service: fromService(s.Service), Demand: s.Demand, Rate: s.Rate, Lanes: s.Lanes, Time: s.Time, Wait: s.Wait,
				Bears: s.Bears, Source: uint32(s.Source), Endpoints: s.Endpoints,
				Forbidden: texts(s.Forbidden), Sent: s.Sent, Received: s.Received, Below: deep, Grows: grows, Within: s.Within,
				Row: fromShares(s.Row)}
		}),
		Beliefs: each(r.Beliefs, func(b split.Belief) *wirepb.Belief {
			return &wirepb.Belief{TrustDomain: string(b.TrustDomain), Generation: b.Generation, Missing: b.Missing}
		}), Unserved: r.Unserved})
	if err != nil {
		panic("wire: encode a report: " + err.Error()) // names are valid UTF-8 by parsing
	}
	return b
}

// toLease takes what a later version may say for unknown.
func toLease(l wirepb.Lease) liveness.Lease {
	switch l {
	case wirepb.Lease_LEASE_FRESH:
		return liveness.LeaseFresh
	case wirepb.Lease_LEASE_LOST:
		return liveness.LeaseLost
	}
	return liveness.LeaseUnknown
}

// toUnserved takes names that can be ones, sorted, and no more than a report holds: no split follows from them.
func toUnserved(names []string) []string {
	out := slices.DeleteFunc(slices.Clone(names), func(s string) bool {
		return len(s) > split.ListenerMax || strings.Count(s, "/") != 2 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
	})
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), split.UnservedMost)]
}

// DecodeReport is the way back of EncodeReport; a report of which anything is no measurement is refused whole.
func DecodeReport(b []byte) (*split.ClusterReport, error) {
	m := &wirepb.ClusterLoad{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode a cluster's report: %w", err)
	}
	d := &decoder{}
	out := &split.ClusterReport{
		Paths: each(m.Paths, func(p *wirepb.Path) split.Path {
			d.within("round trip", float64(p.Rtt), 0, float64(timeMax))
			d.within("loss", p.Loss, 0, 1)
			return split.Path{Cluster: mesh.ClusterName(p.Cluster), RTT: time.Duration(p.Rtt), Dead: p.Dead, Lease: toLease(p.Lease), Loss: p.Loss, Via: mesh.ClusterName(p.Via)}
		}),
		Services: each(m.Services, func(s *wirepb.ServiceLoad) split.ServiceReport {
			d.within("demand", s.Demand, 0, rateMax)
			d.within("rate", s.Rate, 0, rateMax)
			d.within("lanes", s.Lanes, 0, lanesMax)
			d.within("bears", s.Bears, 0, rateMax)
			d.within("endpoints", s.Endpoints, 0, lanesMax)
			d.within("sent", s.Sent, 0, bytesMax)
			d.within("received", s.Received, 0, bytesMax)
			d.within("time", s.Time, 0, timeMax.Seconds())
			d.within("time within", s.Within, 0, timeMax.Seconds())
			d.within("wait", s.Wait, -timeMax.Seconds(), timeMax.Seconds())
			for _, share := range s.Row {
				d.within("part of a split", float64(share.Parts), 0, mesh.AllParts)
			}
			return split.ServiceReport{Service: d.service(s.Service), Demand: s.Demand, Rate: s.Rate, Lanes: s.Lanes, Time: s.Time, Wait: s.Wait,
				Bears: s.Bears, Source: toCapacitySource(s.Source), Endpoints: s.Endpoints,
				Forbidden: typed[mesh.ClusterName](s.Forbidden), Sent: s.Sent, Received: s.Received, Below: d.below(s.Below, s.Grows), Within: s.Within,
				Row: toShares(s.Row)}
		}),
		Beliefs: each(m.Beliefs, func(b *wirepb.Belief) split.Belief {
			return split.Belief{TrustDomain: mesh.TrustDomain(b.TrustDomain), Generation: b.Generation, Missing: b.Missing}
		}), Unserved: toUnserved(m.Unserved)}
	if d.err != nil {
		return nil, fmt.Errorf("decode a cluster's report: %w", d.err)
	}
	return out, nil
}

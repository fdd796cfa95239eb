// Package load tells a proxy's control plane what its applications ask for, what its own application can serve, and which places
// it leaves out by itself: a report each half second, or sooner where far more is asked for than by the last (split.Jumped), of which the
// newest replaces all before. It decides nothing; control/load does.
package load

import (
	"context"
	"github.com/isthmus-mesh/isthmus/core/meter"
	"log/slog"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/capacity"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/dataplane/orca"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc"
)

// Reporter reports for one proxy. All fields are required.
type Reporter struct {
	// Node is the proxy: NAMESPACE/WORKLOAD.
	Node  string
	State func() *proxy.State
	Meter *meter.Meter
	// Said is what its application says of its load.
	Said *orca.Gatherer
	// Bytes are those of requests that ended.
	Bytes *Bytes
	// Conn is the connection to the control plane that is in use; nil is none.
	Conn  func() *grpc.ClientConn
	Clock clock.Clock
	Log   *slog.Logger
}

// How often: each period or as the control plane asks, and where nothing is new each idlePeriod, so that what
// it can serve stays known. A control plane that does not answer in time gets the next report.
const (
	loadPeriod  = 500 * time.Millisecond
	loadLeast   = 100 * time.Millisecond
	loadMost    = 30 * time.Second
	idlePeriod  = 4 * time.Second
	loadTimeout = 2 * time.Second
)

// sampler is what a Reporter remembers.
type sampler struct {
	gauge meter.Gauge
	// learner learns what the application bears, and refused is how many were turned away until the last report.
	learner capacity.Learner
	refused int64
	// reported is what it bears by its own word.
	reported capacity.Reported
	asked    map[mesh.ServiceName]count
	ended    map[place]split.Result
	last     time.Time
	said     time.Time // when something was last reported
	busy     bool      // what was last reported was not nothing
}

// place is a cluster, for one service.
type place struct {
	service mesh.ServiceName
	cluster mesh.ClusterName
}

// count is what was asked of a service, carried, and waited for, until the last report.
type count struct {
	asked, sent, received, took int64
	rate                        float64 // of asked, a second
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	var o outages
	m := &sampler{asked: map[mesh.ServiceName]count{}, ended: map[place]split.Result{}, last: r.Clock.Now()}
	period := loadPeriod
	timer := r.Clock.NewTimer(period)
	defer timer.Stop()
	for {
		select {
		case <-timer.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		now := r.Clock.Now()
		if left := period - now.Sub(m.last); left > 0 && !m.jumped(r.State(), now) {
			timer.Reset(min(left, split.NewsAfter))
			continue
		}
		samples, busy := m.samples(r.State(), r.Meter, r.Said, r.Bytes, now)
		left, told, news := o.look(r.State(), now.UnixNano())
		if due := busy || m.busy || now.Sub(m.said) >= idlePeriod; news || due && (len(samples) > 0 || o.busy()) {
			if next, ok := r.send(ctx, samples, left); ok {
				m.said, m.busy, o.told = now, busy, told
				period = next
			}
		} else {
			o.told = told
		}
		timer.Reset(m.look(period))
	}
}

// look is when to look again: an idle proxy does not look for news between reports.
func (m *sampler) look(period time.Duration) time.Duration {
	if !m.busy || period > loadPeriod {
		return period
	}
	return split.NewsAfter
}

// jumped reports whether far more is asked for than by the last report, which then waits no longer: in half a second a burst fills
// queues that take as long to empty.
func (m *sampler) jumped(s *proxy.State, now time.Time) bool {
	over := now.Sub(m.last)
	if over < split.NewsAfter {
		return false
	}
	for n, svc := range s.Services {
		if m.asked[n].jumped(svc.Live.Asked(), over) {
			return true
		}
	}
	return false
}

// jumped reports whether asked, after so long, is far more than the rate until the last report explains.
func (c count) jumped(asked int64, over time.Duration) bool {
	return split.Jumped(c.rate, float64(asked-c.asked), over)
}

// send makes one report; false says that it was not taken.
func (r *Reporter) send(ctx context.Context, samples []split.Sample, left outage.Report) (time.Duration, bool) {
	conn := r.Conn()
	if conn == nil {
		return 0, false
	}
	ctx, stop := context.WithTimeout(ctx, loadTimeout)
	defer stop()
	answer, err := wirepb.NewLoadClient(conn).Report(ctx, &wirepb.LoadRequest{Node: r.Node, Samples: wire.FromSamples(samples),
		Outages: wire.FromOutages(left.Outages), MoreOutages: uint32(left.More)})
	if err != nil {
		r.Log.Debug("a load report was not taken", "error", err)
		return 0, false
	}
	if answer.Period <= 0 {
		return loadPeriod, true
	}
	return min(max(time.Duration(answer.Period), loadLeast), loadMost), true
}

// samples is what was measured since the last call; busy says that there was something.
func (m *sampler) samples(s *proxy.State, of *meter.Meter, said *orca.Gatherer, bytes *Bytes, now time.Time) (out []split.Sample, busy bool) {
	over := now.Sub(m.last)
	if over <= 0 {
		return nil, false
	}
	m.last = now
	for n, svc := range s.Services {
		was, is := m.asked[n], count{asked: svc.Live.Asked()}
		is.rate = float64(is.asked-was.asked) / over.Seconds()
		is.sent, is.received, is.took = bytes.read(n)
		results := m.results(n, svc.View)
		if d := is.asked - was.asked; d > 0 || is.sent+is.received > was.sent+was.received || len(results) > 0 {
			out, busy = append(out, split.Sample{Service: n, Asked: float64(d) / over.Seconds(), Wait: -1, Results: results,
				Sent: float64(is.sent-was.sent) / over.Seconds(), Received: float64(is.received-was.received) / over.Seconds(),
				Calling: float64(is.took-was.took) / float64(over)}), true
		}
		m.asked[n] = is
	}
	for n := range m.asked { // one that comes again begins anew
		if s.Services[n] == nil {
			delete(m.asked, n)
		}
	}
	for p := range m.ended {
		if s.Services[p.service] == nil {
			delete(m.ended, p)
		}
	}
	if s.Self == nil || len(s.Self.Inbound) == 0 {
		return out, busy
	}
	done := m.serves(s, of, said, over, now)
	busy = busy || done.Served > 0
	for _, in := range s.Self.Inbound {
		out = served(out, in.Service, &done)
	}
	return out, busy
}

// serves is what the application did and can do, for any of its services.
func (m *sampler) serves(s *proxy.State, of *meter.Meter, said *orca.Gatherer, over time.Duration, now time.Time) split.Sample {
	d := m.gauge.Measure(of, int(s.Self.Lanes), over, now.UnixNano())
	refused := int64(0)
	for _, in := range s.Inbound {
		refused += in.Gate.Refused()
	}
	w := capacity.Window{Over: over, Answered: d.Rate * over.Seconds(), Took: d.Took, There: float64(of.InFlight()), Refused: refused > m.refused}
	m.refused = refused
	e, bears := m.learner.Look(w), m.reported.Look(w, capacity.Load(said.Take()))
	if d.Lanes > 0 {
		return split.Sample{Served: d.Rate, Lanes: uint32(d.Lanes), Time: d.Time, Wait: d.Wait}
	}
	out := split.Sample{Served: d.Rate, Bears: e.Rate, Sure: e.Sure, Source: mesh.CapacityLearnt, Time: e.Time, Wait: e.Wait}
	if bears > 0 {
		out.Bears, out.Sure, out.Source = bears, 1, mesh.CapacityReported
	}
	return out
}

// results are how tries of a service ended since the last call. A report that is not taken takes them with it: what is missing
// are some of many.
func (m *sampler) results(n mesh.ServiceName, v *balance.View) (out []split.Result) {
	if v == nil {
		return nil
	}
	v.Results(func(c mesh.ClusterName, ended, failed uint64) {
		at := place{n, c}
		was, is := m.ended[at], split.Result{Cluster: c, Ended: ended, Failed: failed}
		if ended == was.Ended {
			return
		}
		if m.ended[at] = is; ended < was.Ended || failed < was.Failed { // it was gone, and begins anew
			was = split.Result{}
		}
		out = append(out, split.Result{Cluster: c, Ended: ended - was.Ended, Failed: min(failed-was.Failed, ended-was.Ended)})
	})
	return out
}

// served adds what the application can do for a service to its sample. All services of one application are said to have all of
// it: each is balanced as if it were alone.
func served(out []split.Sample, n mesh.ServiceName, d *split.Sample) []split.Sample {
	i := slices.IndexFunc(out, func(s split.Sample) bool { return s.Service == n })
	if i < 0 {
		i = len(out)
		out = append(out, split.Sample{Service: n})
	}
	s := &out[i]
	s.Served, s.Lanes, s.Bears, s.Sure, s.Source, s.Time, s.Wait = d.Served, d.Lanes, d.Bears, d.Sure, d.Source, d.Time, d.Wait
	return out
}

// Package telemetry counts requests and shows the counts as Prometheus scrapes them. Its
// one idea is the interned edge: who called whom and how it ended is a small comparable value,
// the first request of an edge makes its series, and every other finds it by one lock-free
// look-up and adds to atomics. Counting allocates nothing.
//
// It keeps no time series, samples nothing, knows no proxy and opens no port: its owner feeds
// it and serves what Expose says. Read Requests first.
package telemetry

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Edge is who called whom and how it ended: the labels of a series.
type Edge struct {
	// Reporter is "source" on the client proxy's side and "destination" on the server's: a
	// request inside the mesh is counted once on each.
	Reporter             string
	SourceWorkload       string
	SourceNamespace      string
	SourceCluster        mesh.ClusterName
	DestinationService   string
	DestinationNamespace string
	DestinationCluster   mesh.ClusterName
	Protocol             mesh.Protocol
	// Code is the status; 0 when the client left before an answer.
	Code   int
	Reason mesh.Reason
}

// Request is what is counted of one request.
type Request struct {
	Duration                    time.Duration
	RequestBytes, ResponseBytes int64
}

// seconds are the upper bounds of the histogram's buckets: from a local call to the
// default request timeout and beyond.
var seconds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// SeriesMax bounds the edges of one Requests unless another bound is given. A series is
// about 600 bytes here, 64 more for each power of two that its durations fall into, and sixteen
// lines in an exposition.
const SeriesMax = 2000

// overflow is where requests of edges beyond the bound are counted: they are not lost,
// only not told apart.
const overflow = "_overflow"

// Requests counts requests by edge. Its methods are safe for concurrent use. The zero
// Requests holds SeriesMax series.
type Requests struct {
	// Max bounds the series; 0 is SeriesMax. To be set before the first use.
	Max int

	series atomic.Pointer[map[Edge]*series]
	mu     sync.Mutex // serialises new series
	rest   [2]series  // of edges beyond the bound, by reporter
	over   [2]atomic.Bool
}

// series is one edge's counters.
type series struct {
	count       atomic.Uint64
	nanoseconds atomic.Uint64
	in, out     atomic.Uint64
	buckets     [len(seconds)]atomic.Uint64
	native      native
	opened      atomic.Uint64
	closed      atomic.Uint64
}

// Observe counts a request that ended.
func (r *Requests) Observe(e *Edge, q *Request) {
	s := r.of(e)
	s.count.Add(1)
	s.nanoseconds.Add(uint64(max(q.Duration, 0)))
	s.in.Add(uint64(q.RequestBytes))
	s.out.Add(uint64(q.ResponseBytes))
	at := q.Duration.Seconds()
	for i := range seconds {
		if at <= seconds[i] {
			s.buckets[i].Add(1) // made cumulative when shown
			break
		}
	}
	s.native.observe(at)
}

// Opened counts a connection or upgrade that began to carry bytes.
func (r *Requests) Opened(e *Edge) { r.of(e).opened.Add(1) }

// Closed counts one that ended, with what it carried.
func (r *Requests) Closed(e *Edge, q *Request) {
	s := r.of(e)
	s.closed.Add(1)
	s.in.Add(uint64(q.RequestBytes))
	s.out.Add(uint64(q.ResponseBytes))
}

func (r *Requests) of(e *Edge) *series {
	if known := r.series.Load(); known != nil {
		if s := (*known)[*e]; s != nil {
			return s
		}
	}
	return r.add(e)
}

// add makes a series. The map is copied: new edges are rare, look-ups are not.
func (r *Requests) add(e *Edge) *series {
	i := side(e)
	if r.over[i].Load() {
		return &r.rest[i]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.Max
	if limit == 0 {
		limit = SeriesMax
	}
	next := map[Edge]*series{}
	if known := r.series.Load(); known != nil {
		if s := (*known)[*e]; s != nil {
			return s
		}
		if len(*known) >= limit {
			r.over[0].Store(true)
			r.over[1].Store(true)
			return &r.rest[i]
		}
		for k, v := range *known {
			next[k] = v
		}
	}
	s := &series{}
	next[*e] = s
	r.series.Store(&next)
	return s
}

func side(e *Edge) int {
	if e.Reporter == "source" {
		return 0
	}
	return 1
}

// Series counts the edges known, for a metric of the metrics.
func (r *Requests) Series() int {
	if known := r.series.Load(); known != nil {
		return len(*known)
	}
	return 0
}

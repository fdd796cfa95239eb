package split

import (
	"math"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Sample is what one proxy measured of one service, for its own cluster's control plane.
type Sample struct {
	Service mesh.ServiceName
	// Asked is how many requests a second its applications began, Served how many of others it answered.
	Asked, Served float64
	// Sent and Received are the bytes of bodies of its applications' requests and of their answers, a second.
	Sent, Received float64
	// Calling is how many of its applications' requests were under way on average.
	Calling float64
	// Lanes is how many requests its application serves at once, as declared; 0 if it is not, or is no endpoint of the service.
	Lanes uint32
	// Bears is how many requests a second its application bears where Lanes is 0, Source who says so, and Sure how sure that
	// is, from 0 to 1: where it is 0 the application bears more than Bears. An endpoint of an older version says nothing.
	Bears, Sure float64
	Source      mesh.CapacitySource
	// Time is that of a request in a lane, 0 if unknown; Wait that before it, negative if unknown.
	Time, Wait time.Duration
	// Results are how tries of its applications' requests ended, by the cluster where they went, since the sample before.
	Results []Result
}

// Result is how tries at one cluster ended. What was shed, or left by its caller, is not counted.
type Result struct {
	Cluster mesh.ClusterName
	Ended   uint64
	// Failed of those were never executed, answered with a failure of the server's, or not answered in time.
	Failed uint64
}

// ClusterReport is what one cluster tells another of itself.
type ClusterReport struct {
	// Paths lead from the cluster to others.
	Paths []Path
	// Services are those that the other one may know of.
	Services []ServiceReport
	// Beliefs are of the trust domains whose root is being replaced; no split follows from them.
	Beliefs []Belief
	// Unserved are listeners of Gateways that its ingress gateways do not serve (mesh.Ingress), UnservedMost at most; of who has more,
	// or says nothing, the others count as served.
	Unserved []string
}

// Bounds of Unserved: how many, and how long each in bytes.
const (
	UnservedMost = 128
	ListenerMax  = 3 * 256
)

// Belief is what a cluster believes of a trust domain.
type Belief struct {
	TrustDomain mesh.TrustDomain
	// Generation is the lowest of the domain's bundle that anybody in the cluster believes; 0 is not known.
	Generation uint64
	// Missing is who is not known to believe a later one, for people; "" is nobody.
	Missing string
}

// Path is what a cluster knows of its way to another.
type Path struct {
	Cluster mesh.ClusterName
	RTT     time.Duration // 0 is not measured
	Loss    float64       // the part of round trips that lost something
	Dead    bool
	// Lease is whether its control plane is heard, for the verdict; no split follows from it.
	Lease liveness.Lease
	// Via is the cluster whose gateways pass on what goes there while Dead, which is of the direct way; RTT and Loss are of
	// the way by it then. "" is none.
	Via mesh.ClusterName
	// StaleSinceMillis is mesh.Reach's; peers are not told.
	StaleSinceMillis int64
}

// ServiceReport is a cluster's part of one service.
type ServiceReport struct {
	Service mesh.ServiceName
	// Demand is what its callers ask for, Rate what it serves, in requests a second.
	Demand, Rate float64
	// Lanes are those of all its endpoints, as declared. Where some are not it is 0, and Bears, in requests a second, by Source,
	// is what counts. Endpoints are those that are ready; 0 is not told. Time of a request in a lane and Wait before it are in seconds; a Time of 0 and a
	// negative Wait are unknown.
	Lanes, Time, Wait float64
	Bears, Endpoints  float64
	Source            mesh.CapacitySource
	// Sent and Received are the bytes of one of its callers' requests and of its answer; 0 is unknown.
	Sent, Received float64
	// Below is what the calls of one request cost there, and Within what they took while Time was measured, in seconds.
	Below  Price
	Within float64
	// Row is the split in force for its own callers, "" is the cluster itself; empty is not known.
	Row []mesh.Share
	// Forbidden are the clusters to which the law lets none of its requests go, sorted.
	Forbidden []mesh.ClusterName
}

// How measurements enter averages: smooth is the part of one that is no news. News, beyond what counting explains
// (newsSigma standard deviations of a Poisson count, or of the times that timeNoise is the error of at one endpoint) or a fifth of a
// capacity, enters whole.
const (
	smooth       = 0.1
	newsSigma    = 4.0
	capacityNews = 0.2
	timeNoise    = 0.18
)

// Demanded folds in the demand of the last tick, which was so long.
func (r *Report) Demanded(rate float64, tick time.Duration) {
	r.Demand = Smoothed(r.Demand, rate, newsSigma*math.Sqrt(max(r.Demand, 1)/tick.Seconds()))
}

// Answered folds in the rate that was served.
func (r *Report) Answered(rate float64) { r.Rate += smooth * (rate - r.Rate) }

// Offers folds in what so many endpoints could serve, in requests a second, with so many lanes.
func (r *Report) Offers(capacity, lanes, endpoints float64) {
	if r.Capacity <= 0 || capacity <= 0 {
		r.Capacity = capacity
	} else {
		r.Capacity = Smoothed(r.Capacity, capacity, min(capacityNews, newsSigma*timeNoise/math.Sqrt(max(endpoints, 1)))*r.Capacity)
	}
	if r.Capacity > 0 {
		r.Service = lanes / r.Capacity
	}
}

// Learns folds in what the endpoints are thought to bear, in requests a second, with so many lanes: by and by, however much it
// differs.
func (r *Report) Learns(capacity, lanes float64) {
	if r.Capacity <= 0 {
		r.Capacity = capacity
	}
	r.Capacity += smooth * (capacity - r.Capacity)
	r.Service = lanes / r.Capacity
}

// NewsAfter is after how long at least a proxy looks whether there is news that cannot wait for its next report. It takes jumpLeast
// requests to be sure, and a change by less than jumpPart of the demand moves little.
const (
	NewsAfter = 100 * time.Millisecond
	jumpLeast = 16
	jumpPart  = 0.2
)

// Jumped reports whether so many requests, in so long, are far more than a rate explains: more than newsSigma standard deviations
// of a Poisson count. That there are fewer can wait.
func Jumped(rate, asked float64, over time.Duration) bool {
	expected := rate * over.Seconds()
	return asked >= jumpLeast && asked-expected > newsSigma*math.Sqrt(max(expected, 1))+jumpPart*expected
}

// Smoothed is an average after a measurement, of which a difference above news is none of chance.
func Smoothed(average, measured, news float64) float64 {
	if math.Abs(measured-average) > news {
		return measured
	}
	return average + smooth*(measured-average)
}

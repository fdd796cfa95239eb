//house:exempt a table: the constants of balancing

package balance

import (
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// The constants of balancing, in one place. They are from short simulations, or from the source
// named beside them; a change needs all scenarios of the traffic simulator no worse.
//
// # Measuring
const (
	// ewmaTau is the time constant of the service-time average.
	ewmaTau = time.Second
	// ewmaDoubts is how often it doubles for an endpoint that, asked again after that time, was found as slow as before: each
	// question costs a request that waits.
	ewmaDoubts = 2
	// reportTau is how fast a server proxy's word on what it has in flight goes stale.
	reportTau = 100 * time.Millisecond
	// penaltyTau is how fast the penalty for a failure fades.
	penaltyTau = 10 * time.Second
	// penaltyStep multiplies an endpoint's score for each failure that it executed.
	penaltyStep = 2.0
	penaltyMax  = 64.0
	// unmeasured is the service time assumed while no endpoint of a cluster has answered yet.
	unmeasured = time.Millisecond
	// floor is the shortest service time that endpoints are compared by.
	floor = time.Millisecond
	// reportFresh is how long a server proxy's word on its service time is better than what was
	// measured from here, which has the way and the queue in it.
	reportFresh = 3 * time.Second
	// typicalShare is the weight of one answer in what is usual for a cluster.
	typicalShare = 1.0 / 16
)

// # Ejecting
const (
	// How many failures eject, for how long, and how many endpoints may be out is a policy's to say:
	// what it leaves out is mesh.DefaultEjectAfter and the constants beside it. A tripped cluster
	// stays out as long as an endpoint by default.
	ejectFirst = mesh.DefaultBaseEjection
	ejectMax   = mesh.DefaultMaxEjection
	// tripAfter never-executed failures in a row, over all endpoints of a cluster, take the
	// whole cluster out: its gateway or its network is gone.
	tripAfter = 10
	// rateWindow is over what success rates are compared, of endpoints with rateRequests in it,
	// where there are rateEndpoints of them: fewer tell noise from illness badly. (As Envoy's
	// outlier detection; mesh.DefaultSuccessRateStdev is how far below the mean is ill.)
	rateWindow    = 10 * time.Second
	rateRequests  = 100
	rateEndpoints = 5
)

// # Spreading over clusters
const (
	// A request overflows when what is predicted for it is later than the cluster's distance and
	// overflowAt service times, or overflowCalm where the cluster is less than overflowBusy utilised: there who waits has met
	// the wrong endpoint, and the split has seen to the cluster. Then one candidate each of overflowLooks other clusters, nearest first
	// and less than overflowBusy utilised, is looked at, and must be below overflowGain of the prediction.
	overflowAt    = 1.5
	overflowCalm  = 2.5
	overflowLooks = 6
	overflowBusy  = 0.9
	// One request in overflowScouts tries a cluster that nothing is known of.
	overflowScouts = 8
	overflowGain   = 0.9
	// splitHolds is how long a split is followed that is not renewed; over splitFades more it gives way
	// to the nearest cluster first.
	splitHolds = time.Minute
	splitFades = time.Minute
)

// # Drawing
const (
	// alike is up to how many times the service time of another an endpoint counts as about as quick: estimates differ by that.
	alike = 1.5
	// redraws is how many draws may meet an endpoint that cannot be had before all are looked
	// at: with half of them out, one pick in 64 looks.
	redraws = 6
	// subsetAbove endpoints of a service, a proxy draws from a subset of about as many: it keeps
	// few connections, and its measurements fresh. A cluster's part is never below subsetLeast.
	// A proxy goes beyond when those drawn have half as many requests as lanes, or as lanesUnknown.
	subsetAbove  = 100
	subsetLeast  = 20
	lanesUnknown = 8
	// warmLeast is the share at which an endpoint that is new, or came back, begins.
	warmLeast = 0.1
	// turnsMax is the longest order of a weighted round robin: what weights need more turns are
	// rounded to it.
	turnsMax = 4096
	// maglevSize is the size of a Maglev table: a prime, and the paper's own choice (§5.3): shares
	// are even within one part in a hundred up to 655 endpoints. It is the same for any number, as
	// another size would move nearly every key.
	maglevSize = 65537
	// ringPoints are an endpoint's places on a ring, at the mean weight: its share varies by
	// 1/√128, about a tenth. ringMax bounds the sum.
	ringPoints = 128
	ringMax    = 1 << 18
)

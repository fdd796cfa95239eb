// Package balance decides where a request goes: which cluster, which endpoint, and
// with what reason each candidate was kept or dropped. Its one idea is that all of it is
// arithmetic on values: time and chance are arguments, so that the proxy, the explanation
// and the simulator run the same code.
//
// It opens no connection, matches no route and knows no policy object: it takes
// what core/compile made of them. Read View and Pick first; SlotTable's keeper is NextSlots.
package balance

import "time"

// The constants of picking, from short simulations; a change needs all scenarios of the
// traffic simulator no worse.
const (
	// ewmaTau is the time constant of the service-time average.
	ewmaTau = time.Second
	// penaltyTau is how fast the penalty for a failure fades.
	penaltyTau = 10 * time.Second
	// penaltyStep multiplies an endpoint's score for each failure that it executed.
	penaltyStep = 2.0
	penaltyMax  = 64.0
	// ejectFirst is the first ejection; each further one doubles it, up to ejectMax.
	ejectFirst = time.Second
	ejectMax   = 30 * time.Second
	// tripAfter never-executed failures in a row, over all endpoints of a cluster, take the
	// whole cluster out: its gateway or its network is gone.
	tripAfter = 10
	// unmeasured is the service time assumed while no endpoint of a cluster has answered yet.
	unmeasured = time.Millisecond
	// floor is the shortest service time that endpoints are compared by.
	floor = time.Millisecond
)

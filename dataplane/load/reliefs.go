package load

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// rests is for how long a fallback must not have answered to be said to rest: the next failure after that is another outage.
const rests = 10 * time.Second

// reliefs are the services in whose place a fallback has answered.
type reliefs map[mesh.ServiceName]relief

type relief struct {
	answered int64 // so often, as of the newest look
	last     int64 // when that look saw that it had grown
	times    uint32
}

// look is whether a fallback stands in for a service, by how often it has answered ever, and how often it began to. false is that it never did.
func (r reliefs) look(n mesh.ServiceName, answered, now int64) (o outage.Outage, times uint32, ok bool) {
	if answered == 0 {
		delete(r, n)
		return o, 0, false
	}
	is := r[n]
	if answered != is.answered {
		if is.times == 0 || now-is.last >= int64(rests) {
			is.times++
		}
		is.answered, is.last = answered, now
		r[n] = is
	}
	o = outage.Outage{Place: outage.Place{Service: n}, Why: outage.Relieved}
	if now-is.last >= int64(rests) {
		o.State = outage.Over
	}
	return o, is.times, true
}

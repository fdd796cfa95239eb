package traffic

import (
	"github.com/isthmus-mesh/isthmus/core/meter"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
)

// resetOutcome is that of a try whose connection broke: it may have been executed.
const resetOutcome = balance.Failed

// freeTries is how many other endpoints a request that was never executed is tried at (dataplane/proxy).
const freeTries = 3

func (w *world) newRequest() int32 {
	if n := len(w.freeReq); n > 0 {
		at := w.freeReq[n-1]
		w.freeReq = w.freeReq[:n-1]
		w.requests[at] = request{}
		return at
	}
	w.requests = append(w.requests, request{})
	return int32(len(w.requests) - 1)
}

func (w *world) newTry() int32 {
	if n := len(w.freeTry); n > 0 {
		at := w.freeTry[n-1]
		w.freeTry = w.freeTry[:n-1]
		epoch := w.tries[at].epoch
		w.tries[at] = try{epoch: epoch}
		return at
	}
	w.tries = append(w.tries, try{})
	return int32(len(w.tries) - 1)
}

// dropTry is called by whoever held the try in the network or at the endpoint; the proxy may still wait.
func (w *world) dropTry(at int32) {
	t := &w.tries[at]
	t.held = false
	w.release(at)
}

// release frees a try, and its request, when nobody holds them.
func (w *world) release(at int32) {
	t := &w.tries[at]
	if t.held || t.waits {
		return
	}
	r := &w.requests[t.request]
	if r.open--; r.open == 0 && r.done {
		w.freeReq = append(w.freeReq, t.request)
	}
	t.epoch++ // timeouts of it are void
	w.freeTry = append(w.freeTry, at)
}

// arrive is a request of a region.
func (w *world) arrive(i int32) {
	at := w.newRequest()
	w.begin(at, i, -1)
	w.nextArrival(i)
	w.attempt(at)
}

// begin is a request of a region, by a proxy of it: one at random for users.
func (w *world) begin(at, i int32, k int) {
	reg, r := &w.regions[i], &w.requests[at]
	reg.arrived++
	r.born, r.region = w.now, i
	r.work = [2]float64{reg.work(), reg.work()}
	if k < 0 {
		k = reg.arrivals.IntN(len(reg.proxies))
	}
	r.proxy = reg.proxies[k]
	r.critical = w.scenario.Requests.Critical > 0 && reg.arrivals.Float64() < w.scenario.Requests.Critical
	r.free, r.leave = freeTries, -1
	reg.budgets[k].Earn(w.retryRate)
	reg.across[k].Earn(w.retryRate.Across())
}

// attempt makes one try of a request.
func (w *world) attempt(req int32) {
	at := w.newTry()
	t, r := &w.tries[at], &w.requests[req]
	t.request, t.sent = req, w.now
	e, ok := w.policy.pick(r, t, at)
	if !ok {
		w.freeTry = append(w.freeTry, at)
		w.fail(req)
		return
	}
	t.endpoint = e
	if n := r.tries; int(n) < len(r.at) {
		r.at[n], r.tried[n] = e, t.pick.Endpoint
	}
	r.tries++
	r.open++
	w.out.Tries++
	to := w.endpoints[e].region
	if !w.mayGo(r.region, to) {
		w.out.Unlawful++
	}
	t.waits = true
	w.timeouts = append(w.timeouts, event{at: w.now + int64(w.scenario.Requests.Try), a: at, b: int32(t.epoch)})
	if d, ok := w.delay(r.region, to); ok {
		t.held = true
		w.events.push(event{at: w.now + d, kind: reach, a: at})
	}
}

// reach is when a try comes to its endpoint.
func (w *world) reach(at int32) {
	t := &w.tries[at]
	e := &w.endpoints[t.endpoint]
	t.came = w.now
	switch e.state {
	case refuses, rejects:
		t.outcome = balance.NeverExecuted
		w.sendBack(at)
		return
	case isBlackHole:
		w.dropTry(at)
		return
	case fails:
		t.outcome = balance.Failed
		w.sendBack(at)
		return
	}
	r := &w.requests[t.request]
	if w.sheds(e, r) {
		t.outcome, e.watched.refused = balance.Shed, true
		t.reported = uint8(copyReport(&e.meter, t.report[:0]))
		w.sendBack(at)
		return
	}
	e.meter.Begin()
	e.meter.Asked(w.now)
	if e.busy < e.lanes {
		w.serve(e, at)
	} else {
		e.enqueue(at)
	}
}

// sheds is the admission that stands at every server: by the wait that a request would have. The critical
// may wait longer, up to the time of a try.
func (w *world) sheds(e *endpoint, r *request) bool {
	service := w.regions[e.region].service * e.slow
	if s := e.meter.Service(); len(w.below) > 0 && s > 0 { // with what calls take
		service = float64(s)
	}
	wait := int64(float64(e.queued()+1) * service / float64(e.lanes))
	limit := int64(w.scenario.Requests.Shed)
	if r.critical {
		limit *= 2
	}
	return wait > limit
}

// serve gives a try a lane.
func (w *world) serve(e *endpoint, at int32) {
	t := &w.tries[at]
	e.busy++
	e.queueing += float64(w.now - t.came)
	e.started++
	r := &w.requests[t.request]
	work := r.work[0]
	if r.tries > 1 {
		work = r.work[1]
	}
	t.began, t.life = w.now, e.lost
	w.events.push(event{at: w.now + int64(work*w.regions[e.region].service*e.slow), kind: finish, a: at})
}

// finish is when a lane has done its own part: what the request calls, one after another, follows in the same lane.
func (w *world) finish(at int32) {
	t := &w.tries[at]
	e := &w.endpoints[t.endpoint]
	switch {
	case t.life != e.lost:
		w.reset(e, at)
	case int(t.step) < len(w.below):
		t.step++
		w.below[t.step-1].call(e.region, int(t.endpoint), at)
	default:
		w.vacate(at, balance.Served)
	}
}

// call is a request of an application in region i, for a try of the tier above.
func (w *world) call(i int32, endpoint int, caller int32) {
	reg := &w.regions[i]
	reg.asked++
	at := w.newRequest()
	w.begin(at, i, endpoint%len(reg.proxies))
	w.requests[at].caller = caller + 1
	w.attempt(at)
}

// called is the end of a call that a try waited for.
func (w *world) called(at int32, answered bool) {
	t := &w.tries[at]
	if answered || t.life != w.endpoints[t.endpoint].lost {
		w.finish(at)
	} else {
		w.vacate(at, balance.Failed)
	}
}

// vacate frees a try's lane, and answers.
func (w *world) vacate(at int32, o balance.Outcome) {
	t := &w.tries[at]
	e := &w.endpoints[t.endpoint]
	e.busy--
	e.served++
	w.regions[e.region].answered++
	e.meter.Served(time.Duration(w.now-t.came), w.now)
	e.watched.ended, e.watched.took = e.watched.ended+1, e.watched.took+w.now-t.came
	t.outcome = o
	t.reported = uint8(copyReport(&e.meter, t.report[:0]))
	e.meter.End()
	if e.queued() > 0 {
		w.serve(e, e.dequeue())
	}
	w.sendBack(at)
}

func copyReport(m *meter.Meter, dst []byte) int { return len(m.AppendReport(dst)) }

// sendBack sends a try's answer on its way.
func (w *world) sendBack(at int32) {
	t := &w.tries[at]
	if d, ok := w.delay(w.endpoints[t.endpoint].region, w.requests[t.request].region); ok {
		w.events.push(event{at: w.now + d, kind: answer, a: at})
		return
	}
	w.dropTry(at)
}

// answer is when a try's answer comes to the proxy.
func (w *world) answer(at int32) {
	t := &w.tries[at]
	if t.waits {
		w.settle(at)
	}
	w.dropTry(at)
}

// timeOut ends the waiting for a try.
func (w *world) timeOut(at, epoch int32) {
	t := &w.tries[at]
	if !t.waits || t.epoch != uint32(epoch) {
		return
	}
	t.outcome = balance.TimedOut
	w.settle(at)
	w.release(at)
}

// settle is what a proxy does with the end of a try.
func (w *world) settle(at int32) {
	t := &w.tries[at]
	t.waits = false
	r := &w.requests[t.request]
	w.policy.ended(r, t)
	if t.outcome == balance.Served {
		w.succeed(t.request, t)
		return
	}
	w.count(t.outcome)
	if r.done {
		return
	}
	if w.now-r.born < int64(w.scenario.Requests.Deadline) && w.again(r, t) {
		w.attempt(t.request)
		return
	}
	w.fail(t.request)
}

func (w *world) count(o balance.Outcome) {
	switch o {
	case balance.Shed:
		w.out.Shed++
	case balance.TimedOut:
		w.out.TimedOut++
	case balance.NeverExecuted, balance.Failed:
		w.out.Refused++
	}
}

// again reports whether another try may be made, and pays for it.
func (w *world) again(r *request, t *try) bool {
	if p, ok := w.policy.(retrier); ok {
		return p.again(r, t)
	}
	return w.payFor(r)
}

// retrier is a policy that has its own mind about further tries; others have one retry of any failure, out of
// the budget.
type retrier interface {
	again(r *request, t *try) bool
}

// payFor takes a retry from what the scenario allows and from the budget.
func (w *world) payFor(r *request) bool {
	if int(r.paid) >= w.scenario.Requests.Retries || !w.budget(r).Spend(w.retryRate) {
		return false
	}
	r.paid++
	return true
}

func (w *world) budget(r *request) *balance.Budget {
	reg := &w.regions[r.region]
	return &reg.budgets[r.proxy-reg.proxies[0]]
}

func (w *world) succeed(req int32, t *try) {
	r := &w.requests[req]
	if r.done {
		return
	}
	late := w.now-r.born > int64(w.scenario.Requests.Deadline)
	w.record(r, w.endpoints[t.endpoint].region, late)
	r.done = true
	w.tell(r.caller, r.region, w.now-r.born, !late)
}

// tell ends the wait of whoever called from a region, if that was no user. It comes last: more may be called then.
func (w *world) tell(caller, from int32, waited int64, answered bool) {
	if caller > 0 {
		w.regions[from].waited += waited
		w.above.called(caller-1, answered)
	}
}

func (w *world) fail(req int32) {
	r := &w.requests[req]
	first, caller, from, waited := !r.done, r.caller, r.region, w.now-r.born
	if first {
		w.record(r, -1, true)
		r.done = true
	}
	if r.open == 0 {
		w.freeReq = append(w.freeReq, req)
	}
	if first {
		w.tell(caller, from, waited, false)
	}
}

// record counts a request that has ended: of users, and of the calls below what crossed.
func (w *world) record(r *request, by int32, failed bool) {
	took := w.now - r.born
	if w.above != nil {
		if r.born >= w.from && r.born < w.to && !failed && by != r.region {
			w.out.Crossed++
			w.out.Price += w.link(r.region, by).price
		}
		return
	}
	s := int(r.born / 1e9)
	for s >= len(w.out.Seconds) {
		w.out.Seconds = append(w.out.Seconds, Second{})
	}
	second := &w.out.Seconds[s]
	second.Requests++
	crossed := by >= 0 && by != r.region
	if failed {
		second.Errors++
	} else {
		second.SumMillis += float64(took) / 1e6
		second.slowest.add(took)
		if crossed {
			second.Crossed++
		}
	}
	if r.born < w.from || r.born >= w.to {
		return
	}
	w.out.Requests++
	if r.critical {
		w.out.Critical++
	}
	if failed {
		w.out.Errors++
		if r.critical {
			w.out.CriticalErrors++
		}
		return
	}
	w.out.latency.add(took)
	if crossed {
		w.out.Crossed++
		w.out.Price += w.link(r.region, by).price
	}
}

package proxy

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// freeTries is how many other endpoints are tried for a request that was never executed.
const freeTries = 3

const (
	// tryFloor is the least time a try is given when the service says nothing.
	tryFloor = time.Second
	// tryFactor is how much longer than nearly all requests of the service a try may take.
	tryFactor = 5
	// backoffMost is how many times its first length a pause between tries may have.
	backoffMost = 10
)

// attempt is how one try ended, short of passing an answer on.
type attempt struct {
	// answer says that the final head of an answer is in reply, and its stream in use.
	answer bool
	// end says that no body follows it.
	end     bool
	outcome balance.Outcome
	// refusal is why there is no answer, or why it is worth another try.
	refusal *refusal
}

// forward tries endpoints until one answers, the rules forbid another try, or time is
// up. An answer is given up for another try only when there is an endpoint to make it on.
func (r *request) forward() *refusal {
	if r.target.View == nil {
		return refuse(mesh.ReasonNoEndpoint, "service "+r.target.Name.String()+" has no endpoint in any cluster")
	}
	r.target.Live.asked.Add(1)
	r.trusted = true
	r.scratch = strconv.AppendUint(append(append(r.scratch[:0], r.target.to...), ':'), uint64(r.port), 10)
	if r.via.Datagrams {
		r.scratch = append(r.scratch, udpSuffix...)
	}
	addBytes(&r.head, FieldTo, r.scratch)
	if r.head.HTTP2 && r.target.undeclared(r.port) {
		r.head.Add(FieldHTTP2, "1")
	}
	if c := r.target.Traffic.Criticality; c != "" && !r.head.Has(route.FieldCriticality) {
		r.head.Add(route.FieldCriticality, string(c))
	}
	r.limit()
	if ref := r.takeBody(); ref != nil {
		return ref
	}
	r.mirror()
	r.target.Live.retries.Earn(r.target.budget)
	r.target.Live.across.Earn(r.target.budget.Across())
	r.ask = balance.Ask{Scope: r.scope, Strategy: r.target.Traffic.Strategy, Tried: r.tried[:0]}
	r.belong()
	tries := tries{free: freeTries, paid: r.retries()}
	pick, reason := r.pick()
	if reason != mesh.ReasonNone {
		return refuse(reason, "no endpoint of service "+r.target.Name.String()+" can be chosen")
	}
	for {
		a := r.try(&pick, tries.paid > 0 && r.target.View.Size() > len(r.ask.Tried)+1)
		if a.refusal == nil && !r.relievable(&a) {
			return r.deliverAnswer(&pick, a)
		}
		r.settle(&pick, a.outcome)
		next, ok := r.another(&tries, a.refusal)
		if !ok {
			if !a.answer || r.relievable(&a) {
				r.drop()
				return a.refusal
			}
			_, ref := r.pass(a.end) // the application's own word is the best there is
			r.drop()
			return ref
		}
		r.drop()
		if len(r.ask.Tried) < cap(r.ask.Tried) {
			r.ask.Tried = append(r.ask.Tried, pick.Endpoint)
		}
		pick = next
		r.clock() // a pause may lie behind us
	}
}

// deliverAnswer passes an answer on and reports what it says of the endpoint.
func (r *request) deliverAnswer(pick *balance.Pick, a attempt) *refusal {
	outcome, ref := r.handOn(a.end)
	r.settle(pick, outcome)
	if ref == nil {
		r.finished = r.now
	}
	r.drop()
	return ref
}

func (r *request) settle(pick *balance.Pick, o balance.Outcome) {
	pick.Done(o, r.clock().UnixNano())
}

func (r *request) pick() (balance.Pick, mesh.Reason) {
	r.ask.Now, r.ask.Rand = r.clock().UnixNano(), r.proxy.cfg.Rand()
	return r.target.View.Pick(&r.ask)
}

// tries is what is left to a request.
type tries struct{ free, paid, again int }

// another finds the endpoint of another try, if the rules, the budget, the clock and the client allow one.
func (r *request) another(t *tries, why *refusal) (balance.Pick, bool) {
	if why.again == never {
		return balance.Pick{}, false
	}
	r.stopUpload()
	if r.isSpent() || r.expired() || r.lostClient() != nil {
		return balance.Pick{}, false
	}
	switch {
	case why.again == freely && t.free > 0:
		t.free--
	case why.again == paid && t.paid > 0 && (why.notExecuted || why.asked || r.repeatable()):
		t.paid--
	default:
		return balance.Pick{}, false
	}
	tried := r.ask.Tried
	if n := len(tried); n < cap(tried) {
		r.ask.Tried = append(tried, r.dest.Endpoint)
	}
	if (why.silent || why.reason == mesh.ReasonConnectTimeout) && !r.dest.Endpoint.Proxy.IsValid() {
		r.ask.Silent = r.dest.Endpoint.Cluster
	}
	if t.free == 0 && !slices.ContainsFunc(r.ask.Tried, func(e *balance.Endpoint) bool { return e.Cluster != r.dest.Endpoint.Cluster }) {
		r.ask.Spent = r.dest.Endpoint.Cluster
	}
	next, reason := r.pick()
	if reason != mesh.ReasonNone && why.connection { // the endpoint is the only one: another connection to it may do
		r.ask.Tried = nil
		next, reason = r.pick()
	}
	r.ask.Tried = tried
	if reason != mesh.ReasonNone {
		return balance.Pick{}, false
	}
	if why.again == paid && !r.pay(t, next.Endpoint) {
		next.Done(balance.Abandoned, r.ask.Now)
		return balance.Pick{}, false
	}
	return next, true
}

// repeatable reports whether the request may be sent again although it may have been
// executed.
func (r *request) repeatable() bool { return r.target.Traffic.Retry.AnyMethod || r.head.Idempotent() }

// pay spends a token of the budget, and one of those for other clusters if the try goes to
// one, and waits for as long as the policy says.
func (r *request) pay(t *tries, next *balance.Endpoint) bool {
	live := r.target.Live
	if next.Cluster != r.rec.Cluster && !live.across.Spend(r.target.budget.Across()) {
		return false
	}
	if !live.retries.Spend(r.target.budget) {
		return false
	}
	wait := r.target.Traffic.Retry.Backoff
	if r.matched != nil && r.matched.Retry != nil && r.matched.Retry.Backoff > 0 {
		wait = r.matched.Retry.Backoff
	}
	if wait <= 0 {
		return true
	}
	// Between a half and the whole of what doubling gives, so that those that failed together do
	// not come back together.
	wait = min(wait<<min(t.again, 16), backoffMost*wait)
	t.again++
	wait = wait/2 + time.Duration(float64(wait/2)*fraction(r.proxy.cfg.Rand()))
	if !r.deadline.IsZero() && !r.proxy.cfg.Now().Add(wait).Before(r.deadline) {
		return false // there would be no time left to try in
	}
	return r.pause(wait)
}

func (r *request) expired() bool {
	return !r.deadline.IsZero() && !r.proxy.cfg.Now().Before(r.deadline)
}

// limit sets the deadline for the final head of the answer. A body that streams moves it: the
// time runs from its end (see upload); what follows the head may take as long as it moves.
func (r *request) limit() {
	timeout := r.target.Traffic.RequestTimeout
	routed := r.matched != nil && r.matched.RequestTimeout != 0
	if routed {
		timeout = max(r.matched.RequestTimeout, 0)
	}
	if t, ok := message.GRPCTimeout(r.head.Get("grpc-timeout")); ok && message.IsGRPC(r.head.Get("content-type")) {
		// The caller's own deadline bounds all of the call, streams included, and is not shortened
		// by what is meant for those that have none; a route's is.
		if !routed || timeout == 0 || t < timeout {
			timeout = max(t, 1)
		}
		r.absolute = true
	}
	if r.rec.Mirror { // nobody else would end it
		r.absolute = true
		if timeout == 0 {
			timeout = mesh.DefaultRequestTimeout
		}
	}
	from := r.rec.Start
	if r.rec.Fallback != "" { // what answers in a service's place has time of its own, but within the caller's
		if from = r.clock(); r.absolute {
			return
		}
	}
	r.deadline = time.Time{}
	if timeout > 0 {
		r.deadline = from.Add(timeout)
	}
}

// tunnels reports whether bytes are asked for, by CONNECT or by an upgrade.
func (r *request) tunnels() bool { return r.head.IsConnect() || len(r.head.Upgrade) > 0 }

// carriesBytes reports whether a connection is asked for: bytes of which nothing is known.
func (r *request) carriesBytes() bool { return r.head.IsConnect() && len(r.head.Upgrade) == 0 }

func (r *request) retries() int {
	if r.rec.Mirror {
		return 0
	}
	if r.matched != nil && r.matched.Retry != nil {
		return r.matched.Retry.Attempts // Gateway API GEP-1731; 0 is none
	}
	return r.target.Traffic.Retry.Attempts
}

// tryDeadline bounds one try. While another could follow, and elsewhere, a try has as much as the policy
// says, or five times what all but the slowest hundredth of requests take (of the endpoint's, on
// average, while that is not known), and a second or what a connection to there may take at least; the last one has all that is left.
func (r *request) tryDeadline(now time.Time, pick *balance.Pick, cluster *ir.Cluster, more bool) time.Time {
	limit := r.target.Traffic.TryTimeout
	if r.matched != nil && r.matched.TryTimeout != 0 {
		limit = max(r.matched.TryTimeout, 0)
	} else if limit == 0 && more && r.repeatable() && r.target.retry.Timeout {
		usual := r.target.Live.latency.P99()
		if usual == 0 {
			usual = pick.Endpoint.Service()
		}
		limit = max(tryFloor, tryFactor*usual, cluster.ConnectTimeout(0))
	}
	if limit == 0 || r.tunnels() {
		return r.deadline
	}
	end := now.Add(limit)
	if !r.deadline.IsZero() && end.After(r.deadline) {
		return r.deadline
	}
	return end
}

// try sends the request to one endpoint, which has just been picked, and waits for the final head of
// its answer.
func (r *request) try(pick *balance.Pick, more bool) attempt {
	r.rec.Tries++
	e := pick.Endpoint
	cluster, identities := r.target.View.Cluster(e)
	r.rec.Cluster, r.rec.Endpoint = e.Cluster, e.Tag
	deadline := r.tryDeadline(r.now, pick, cluster, more)
	r.dest = Destination{Service: r.target.Name, Endpoint: e, Cluster: cluster, Identities: identities,
		Connect: r.head.IsConnect(), Timeout: cluster.ConnectTimeout(r.target.Traffic.ConnectTimeout), Pending: &r.target.Live.pending,
		PendingMost: r.target.Traffic.Limits.Pending}
	s, err := r.proxy.cfg.Open(deadline, &r.dest)
	if err != nil {
		return r.failed(err, mesh.ReasonUnreachable)
	}
	began := r.proxy.cfg.Now()
	pick.Opened(began.UnixNano())
	if !r.tellDeadline(began, deadline, cluster) {
		s.Close()
		return attempt{outcome: balance.Abandoned, refusal: refuse(mesh.ReasonTimeout, "no time was left when the way to the server was open")}
	}
	r.hold(s, deadline)
	end, err := r.exchange(s)
	if err != nil {
		a := r.failed(err, mesh.ReasonReset)
		if a.outcome == balance.TimedOut {
			took := r.proxy.cfg.Now().Sub(began)
			r.target.Live.latency.Observe(took)
			if took >= tryFloor && a.refusal.again == paid && errors.Is(err, message.ErrUnheard) && r.head.Idempotent() {
				// A server that lives has answered a PING by then: nobody is there that a free try could overload. While the peer's kernel
				// acknowledges what it is sent the connection is cut later than this, and all that were asked meanwhile would share
				// the burst of a budget.
				a.refusal.again, a.refusal.silent = freely, true
			}
		}
		return a
	}
	if ref := r.answerFits(); ref != nil {
		return attempt{outcome: balance.Failed, refusal: ref}
	}
	if why := r.reply.Get(FieldNotExecuted); why != nil {
		return r.declined(why)
	}
	if end && r.target.retry.GRPC(&r.reply) && message.IsGRPC(r.head.Get("content-type")) {
		return attempt{answer: true, end: end, outcome: balance.Failed, refusal: &refusal{status: r.reply.Status, again: paid, asked: true,
			detail: "the application answered grpc-status " + string(r.reply.Get("grpc-status"))}}
	}
	if r.granted() || !r.retriable(r.reply.Status) {
		if r.reply.Status < 500 && !r.tunnels() {
			r.target.Live.latency.Observe(r.now.Sub(began))
		}
		return attempt{answer: true, end: end}
	}
	outcome := balance.Failed
	if r.reply.Status == 504 && mesh.Reason(r.reply.Get(FieldReason)) == mesh.ReasonTimeout {
		outcome = balance.TimedOut // the server proxy, which keeps the same deadline
	}
	return attempt{answer: true, end: end, outcome: outcome,
		refusal: &refusal{status: r.reply.Status, again: paid, detail: "the application answered " + strconv.Itoa(r.reply.Status)}}
}

// tellDeadline says to the server proxy how much of the try's time is left when it gets the
// request, half a round trip from now; false if none is. The time of a body that streams has not
// begun (see uploaded), nor that of a tunnel.
func (r *request) tellDeadline(now, deadline time.Time, to *ir.Cluster) bool {
	r.head.Del(FieldDeadline)
	if deadline.IsZero() || r.tunnels() || r.body.stream && !r.absolute {
		return true
	}
	left := deadline.Sub(now)
	if to != nil {
		left -= to.RTT / 2
	}
	if left <= 0 {
		return false
	}
	r.scratch = strconv.AppendInt(r.scratch[:0], int64((left+time.Millisecond-1)/time.Millisecond), 10)
	addBytes(&r.head, FieldDeadline, r.scratch)
	return true
}

// answerFits holds the head of an answer against the service's limit.
func (r *request) answerFits() *refusal {
	if most := r.limits.ResponseHead; most > 0 && r.reply.Size() > most {
		return oversized(mesh.ReasonHeadTooLarge, "head", int64(most))
	}
	return nil
}

// declined classifies a server proxy's word that the application has not seen the
// request. To be shed costs the budget, so that retries do not feed an overload.
func (r *request) declined(why []byte) attempt {
	a := attempt{outcome: balance.NeverExecuted, refusal: notExecuted(mesh.Reason(why), "the server proxy in cluster "+
		string(r.rec.Cluster)+" did not pass the request on")}
	a.refusal.status = r.reply.Status
	switch a.refusal.reason {
	case mesh.ReasonOverloaded:
		a.outcome, a.refusal.again = balance.Shed, paid
	case mesh.ReasonDraining:
		a.outcome = balance.Shed // it leaves in order: neither ill nor to be ejected
	}
	return a
}

// retriable reports whether a status is worth another try.
func (r *request) retriable(status int) bool {
	if r.matched != nil && r.matched.Retry != nil && len(r.matched.Retry.Codes) > 0 {
		return slices.Contains(r.matched.Retry.Codes, status)
	}
	return r.target.retry.Status(status)
}

// failed classifies an error that came before an answer.
func (r *request) failed(err error, reason mesh.Reason) attempt {
	if gone := r.lostClient(); gone != nil {
		return attempt{outcome: balance.Abandoned, refusal: refusedBody(gone)}
	}
	var known interface{ Reason() mesh.Reason }
	if errors.As(err, &known) {
		reason = known.Reason()
	}
	detail := err.Error()
	if r.rec.Cluster != "" {
		detail = "cluster " + string(r.rec.Cluster) + ": " + detail
	}
	switch {
	case reason == mesh.ReasonOwnFault:
		return attempt{outcome: balance.Abandoned, refusal: refuse(reason, detail)}
	case reason == mesh.ReasonOverloaded: // every connection is full: load, not death
		ref := notExecuted(reason, detail)
		ref.again = paid
		return attempt{outcome: balance.Shed, refusal: ref}
	case errors.Is(err, message.ErrNotExecuted):
		return attempt{outcome: balance.NeverExecuted, refusal: notExecuted(reason, detail)}
	case timedOut(err) && (r.expired() || r.isSpent()):
		return attempt{outcome: balance.TimedOut, refusal: refuse(mesh.ReasonTimeout, detail)}
	case timedOut(err):
		ref := refuse(mesh.ReasonTryTimeout, detail)
		if r.target != nil && r.target.retry.Timeout {
			ref.again = paid
		}
		return attempt{outcome: balance.TimedOut, refusal: ref}
	}
	ref := refuse(reason, detail)
	if r.target != nil && r.target.retry.Reset {
		ref.again = paid
	}
	if errors.Is(err, message.ErrStale) && r.head.Idempotent() {
		// The connection broke before a byte of the answer: nothing is overloaded that a
		// free try could overload further (RFC 9110 §9.2.2 allows it).
		ref.again, ref.connection = freely, true
	}
	if errors.Is(err, tunnel.ErrSilent) { // nobody is there: for the endpoint that is as if refused
		ref.silent = true
		return attempt{outcome: balance.NeverExecuted, refusal: ref}
	}
	return attempt{outcome: balance.Failed, refusal: ref}
}

// timedOut reports whether an error is that of a deadline.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// leave forwards a request out of the mesh, as it came.
func (r *request) leave(host string, port uint16) *refusal {
	r.leaves = true
	route.Strip(&r.head)
	r.deadline = r.rec.Start.Add(mesh.DefaultRequestTimeout)
	if ref := r.takeBody(); ref != nil {
		return ref
	}
	switch {
	case r.carriesBytes():
		r.far = mesh.ProtocolTCP
	case r.head.HTTP2: // nobody has declared what is there: who speaks it without being asked knows
		r.far = mesh.ProtocolHTTP2
	default:
		r.far = mesh.ProtocolHTTP
	}
	target := joinHostPort(host, port)
	for try := 1; ; try++ {
		s, err := r.proxy.cfg.Outside(target, r.far)
		if err != nil {
			return r.failed(err, mesh.ReasonUnreachable).refusal
		}
		r.socket.Prepare(&r.head, r.far.IsHTTP2(), r.proxy.cfg.Rand)
		r.hold(s, r.deadline)
		ref, again := r.relay(s)
		r.drop()
		if !again || try == staleTries {
			return ref
		}
	}
}

// relay sends the request once and passes the answer on; again says that it may be sent once more.
func (r *request) relay(s message.Stream) (ref *refusal, again bool) {
	end, err := r.exchange(s)
	if err != nil {
		return r.failed(err, mesh.ReasonReset).refusal, r.deliverAgain(err)
	}
	_, ref = r.handOn(end)
	return ref, false
}

// handOn hands an answer on, or the bytes of a tunnel both ways.
func (r *request) handOn(end bool) (balance.Outcome, *refusal) {
	if r.granted() {
		return r.tunnel()
	}
	return r.pass(end)
}

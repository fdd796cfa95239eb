package compile

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// defaults is what holds where no policy says anything. It is the one place that says so: proxies
// take what they are told.
func defaults() ir.Traffic {
	return ir.Traffic{
		Strategy:       mesh.StrategyAuto, // ConnectTimeout is the path's
		RequestTimeout: mesh.DefaultRequestTimeout, IdleTimeout: mesh.DefaultIdleTimeout,
		Balancing: mesh.Balancing{Algorithm: mesh.AlgorithmPeakEWMA},
		Retry: mesh.RetryPolicy{Attempts: mesh.DefaultRetries, On: []string{"reset", "timeout", "gateway-error"},
			BudgetPercent: mesh.DefaultBudgetPercent, BudgetBurst: mesh.DefaultBudgetBurst},
		Outlier: mesh.Outlier{ConsecutiveFailures: mesh.DefaultEjectAfter, BaseEjection: mesh.DefaultBaseEjection,
			MaxEjection: mesh.DefaultMaxEjection, MaxEjectedPercent: mesh.DefaultMaxEjectedPercent, SuccessRateStdev: mesh.DefaultSuccessRateStdev},
		Limits: mesh.Limits{ReplayBody: mesh.MaxReplayBody},
	}
}

// traffic merges the traffic policies of a service field by field, the most specific
// first, over the defaults, and gathers the faults of every fault policy.
func traffic(c *derive.Ctx, k In) ir.Traffic {
	t, s := defaults(), k.Service
	found := attached(c, mesh.KindTrafficPolicy, s)
	for _, f := range slices.Backward(found) {
		p := f.Value.(*mesh.TrafficPolicy)
		merge(&t, p)
		if p.Fallback != nil {
			t.Fallback = &ir.Fallback{Object: f.Key.String(), Fallback: *p.Fallback, Missing: fallbackMissing(c, k, p)}
		}
	}
	for _, f := range found {
		t.Policies = append(t.Policies, f.Key.String())
	}
	complete(&t)
	for _, f := range attached(c, mesh.KindFaultPolicy, s) {
		for _, fault := range f.Value.(*mesh.FaultPolicy).Faults {
			t.Faults = append(t.Faults, ir.Fault{Object: f.Key.String(), Fault: fault})
		}
	}
	slices.SortStableFunc(t.Faults, func(a, b ir.Fault) int { return cmp.Compare(a.Object, b.Object) })
	return t
}

// merge lets a policy have its say over wider ones. Lists are taken whole, and so are parts
// whose fields have no meaning apart: the keys of an algorithm, a session, a health check.
func merge(t *ir.Traffic, p *mesh.TrafficPolicy) {
	if p.Strategy != "" {
		t.Strategy, t.Distribution = p.Strategy, p.Distribution
	}
	override(&t.Staleness, p.Staleness)
	override(&t.ConnectTimeout, p.ConnectTimeout)
	override(&t.RequestTimeout, p.RequestTimeout)
	override(&t.TryTimeout, p.TryTimeout)
	override(&t.IdleTimeout, p.IdleTimeout)
	if b := p.Balancing; b.Algorithm != "" {
		t.Balancing.Algorithm, t.Balancing.Table, t.Balancing.Keys = b.Algorithm, b.Table, b.Keys
	}
	override(&t.Balancing.Warmup, p.Balancing.Warmup)
	override(&t.Affinity, p.Affinity)
	override(&t.Retry.Attempts, p.Retry.Attempts)
	override(&t.Retry.BudgetPercent, p.Retry.BudgetPercent)
	override(&t.Retry.BudgetBurst, p.Retry.BudgetBurst)
	override(&t.Retry.Backoff, p.Retry.Backoff)
	if len(p.Retry.On) > 0 || p.Retry.AnyMethod {
		// Together: conditions chosen for what is idempotent must not meet a wider policy's leave for
		// what is not.
		if t.Retry.AnyMethod = p.Retry.AnyMethod; len(p.Retry.On) > 0 {
			t.Retry.On = p.Retry.On
		} else {
			t.Retry.On = defaults().Retry.On
		}
	}
	override(&t.Outlier.ConsecutiveFailures, p.Outlier.ConsecutiveFailures)
	override(&t.Outlier.BaseEjection, p.Outlier.BaseEjection)
	override(&t.Outlier.MaxEjection, p.Outlier.MaxEjection)
	override(&t.Outlier.MaxEjectedPercent, p.Outlier.MaxEjectedPercent)
	override(&t.Outlier.SuccessRateStdev, p.Outlier.SuccessRateStdev)
	override(&t.Health, p.Health)
	override(&t.Limits.Connections, p.Limits.Connections)
	override(&t.Limits.Pending, p.Limits.Pending)
	override(&t.Limits.Requests, p.Limits.Requests)
	override(&t.Limits.Concurrency, p.Limits.Concurrency)
	override(&t.Limits.RequestHead, p.Limits.RequestHead)
	override(&t.Limits.ResponseHead, p.Limits.ResponseHead)
	override(&t.Limits.RequestBody, p.Limits.RequestBody)
	override(&t.Limits.ResponseBody, p.Limits.ResponseBody)
	override(&t.Limits.ReplayBody, p.Limits.ReplayBody)
	if len(p.RateLimits) > 0 {
		t.RateLimits = p.RateLimits
	}
	override(&t.Admission.Mode, p.Admission.Mode)
	override(&t.Admission.MaxWait, p.Admission.MaxWait)
	override(&t.Criticality, p.Criticality)
}

// complete turns what policies say by negative values into what proxies act on, and fills in what
// depends on several fields.
func complete(t *ir.Traffic) {
	if t.Staleness.When == mesh.WhenStaleKeep { // it has taken a wider policy's away
		t.Staleness = mesh.Staleness{}
	}
	t.RequestTimeout, t.Retry.Attempts = max(t.RequestTimeout, 0), max(t.Retry.Attempts, 0)
	t.Balancing.Warmup, t.Retry.Backoff = max(t.Balancing.Warmup, 0), max(t.Retry.Backoff, 0)
	t.Outlier.MaxEjection = max(t.Outlier.MaxEjection, t.Outlier.BaseEjection) // they may come from two policies
	l := &t.Limits
	l.Connections, l.Pending, l.Requests, l.Concurrency = max(l.Connections, 0), max(l.Pending, 0), max(l.Requests, 0), max(l.Concurrency, 0)
	l.RequestHead, l.ResponseHead = max(l.RequestHead, 0), max(l.ResponseHead, 0)
	l.RequestBody, l.ResponseBody = max(l.RequestBody, 0), max(l.ResponseBody, 0)
	if t.Admission.Mode != mesh.AdmissionAdaptive {
		t.Admission = mesh.Admission{}
	}
	completeFallback(t)
	if t.Health == nil {
		return
	}
	h := *t.Health // the fact stays as it is
	h.Interval = cmp.Or(h.Interval, mesh.DefaultHealthInterval)
	h.Timeout = cmp.Or(h.Timeout, min(mesh.DefaultHealthTimeout, h.Interval))
	h.Healthy, h.Unhealthy = cmp.Or(h.Healthy, mesh.DefaultHealthy), cmp.Or(h.Unhealthy, mesh.DefaultUnhealthy)
	if h.Kind == mesh.HealthHTTP && len(h.Statuses) == 0 {
		h.Statuses = []mesh.StatusRange{{First: 200, Last: 399}}
	}
	t.Health = &h
}

func override[T comparable](to *T, with T) {
	var zero T
	if with != zero {
		*to = with
	}
}

// telemetryOf is what the proxies of a namespace report: field by field the namespace's policies',
// the mesh's, or the default.
var telemetryOf = derive.NewFunc("telemetry", derive.Same[mesh.Telemetry], func(c *derive.Ctx, namespace string) mesh.Telemetry {
	t := mesh.Telemetry{AccessLog: mesh.DefaultAccessLog, TraceSampleMilliPercent: mesh.DefaultTraceSampleMilliPercent}
	for _, b := range []world.Bucket{world.Targeting(mesh.KindTelemetryPolicy, "Mesh", "", ""), world.Targeting(mesh.KindTelemetryPolicy, "Namespace", "", namespace)} {
		for _, f := range slices.Backward(gather(c, b)) {
			p := f.Value.(*mesh.TelemetryPolicy).Telemetry
			override(&t.AccessLog, p.AccessLog)
			override(&t.LogSampleMilliPercent, p.LogSampleMilliPercent)
			override(&t.TraceSampleMilliPercent, p.TraceSampleMilliPercent)
			override(&t.OTLP, p.OTLP)
		}
	}
	t.LogSampleMilliPercent, t.TraceSampleMilliPercent = max(t.LogSampleMilliPercent, 0), max(t.TraceSampleMilliPercent, 0)
	if t.OTLP == mesh.NoCollector {
		t.OTLP = ""
	}
	return t
})

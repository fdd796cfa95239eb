package wire

import (
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func fromTraffic(t ir.Traffic) *wirepb.Traffic {
	return &wirepb.Traffic{Strategy: string(t.Strategy), ConnectTimeout: int64(t.ConnectTimeout), RequestTimeout: int64(t.RequestTimeout),
		TryTimeout: int64(t.TryTimeout), IdleTimeout: int64(t.IdleTimeout), Retries: int32(t.Retry.Attempts),
		EjectAfter: int32(t.Outlier.ConsecutiveFailures), Policies: t.Policies, Affinity: fromAffinity(t.Affinity), Health: fromHealth(t.Health),
		Balancing: &wirepb.Balancing{Algorithm: string(t.Balancing.Algorithm), Table: string(t.Balancing.Table),
			Keys: each(t.Balancing.Keys, fromHashKey), Warmup: int64(t.Balancing.Warmup)},
		Retry: &wirepb.RetryPolicy{On: t.Retry.On, AnyMethod: t.Retry.AnyMethod, BudgetPercent: int64(t.Retry.BudgetPercent),
			BudgetBurst: int64(t.Retry.BudgetBurst), Backoff: int64(t.Retry.Backoff)},
		Outlier: &wirepb.Outlier{BaseEjection: int64(t.Outlier.BaseEjection), MaxEjection: int64(t.Outlier.MaxEjection),
			MaxEjectedPercent: int64(t.Outlier.MaxEjectedPercent), SuccessRateStdev: int64(t.Outlier.SuccessRateStdev)},
		Limits: fromLimits(t.Limits), RateLimits: each(t.RateLimits, fromRateLimit), Faults: each(t.Faults, fromFault),
		Distribution: fromDistribution(t.Distribution), MaxStaleness: int64(t.Staleness.Max), WhenStale: string(t.Staleness.When),
		Admission: fromAdmission(t.Admission), Criticality: string(t.Criticality), Fallback: fromFallback(t.Fallback)}
}

func (d *decoder) traffic(m *wirepb.Traffic) ir.Traffic {
	b, r, o := m.GetBalancing(), m.GetRetry(), m.GetOutlier()
	t := ir.Traffic{Strategy: mesh.Strategy(m.GetStrategy()), ConnectTimeout: time.Duration(m.GetConnectTimeout()),
		RequestTimeout: time.Duration(m.GetRequestTimeout()), TryTimeout: time.Duration(m.GetTryTimeout()),
		IdleTimeout: time.Duration(m.GetIdleTimeout()), Policies: m.GetPolicies(),
		Balancing: mesh.Balancing{Algorithm: mesh.Algorithm(b.GetAlgorithm()), Table: mesh.HashTable(b.GetTable()),
			Keys: each(b.GetKeys(), toHashKey), Warmup: time.Duration(b.GetWarmup())},
		Affinity: toAffinity(m.GetAffinity()), Distribution: toDistribution(m.GetDistribution()),
		Staleness: mesh.Staleness{Max: time.Duration(m.GetMaxStaleness()), When: mesh.WhenStale(m.GetWhenStale())},
		Retry: mesh.RetryPolicy{Attempts: int(m.GetRetries()), On: r.GetOn(), AnyMethod: r.GetAnyMethod(),
			BudgetPercent: int(r.GetBudgetPercent()), BudgetBurst: int(r.GetBudgetBurst()), Backoff: time.Duration(r.GetBackoff())},
		Outlier: mesh.Outlier{ConsecutiveFailures: int(m.GetEjectAfter()), BaseEjection: time.Duration(o.GetBaseEjection()),
			MaxEjection: time.Duration(o.GetMaxEjection()), MaxEjectedPercent: int(o.GetMaxEjectedPercent()),
			SuccessRateStdev: int(o.GetSuccessRateStdev())},
		Health: d.health(m.GetHealth()), Limits: toLimits(m.GetLimits()), RateLimits: each(m.GetRateLimits(), toRateLimit),
		Admission:   mesh.Admission{Mode: mesh.AdmissionMode(m.GetAdmission().GetMode()), MaxWait: time.Duration(m.GetAdmission().GetMaxWait())},
		Criticality: mesh.Criticality(m.GetCriticality()), Fallback: d.fallback(m.GetFallback())}
	for _, f := range m.GetFaults() {
		// What is not understood may be what limits the fault to some requests: a fault that
		// reaches too few is a test that shows nothing, one that reaches too many is an outage.
		if !unknownFields(f.ProtoReflect()) {
			t.Faults = append(t.Faults, toFault(f))
		}
	}
	return t
}

// fromDistribution is nil for one that says nothing, so that it costs services without it nothing.
func fromDistribution(d mesh.Distribution) *wirepb.Distribution {
	if len(d.Order) == 0 && len(d.Weights) == 0 && d.SecondsPerDollar == 0 && d.DollarsPerHour == 0 {
		return nil
	}
	return &wirepb.Distribution{SecondsPerDollar: d.SecondsPerDollar, DollarsPerHour: d.DollarsPerHour, Order: each(d.Order, fromPlace), Weights: each(d.Weights, func(w mesh.PlaceWeight) *wirepb.PlaceWeight {
		return &wirepb.PlaceWeight{Place: fromPlace(w.Place), Weight: w.Weight}
	})}
}

func toDistribution(m *wirepb.Distribution) mesh.Distribution {
	return mesh.Distribution{SecondsPerDollar: m.GetSecondsPerDollar(), DollarsPerHour: m.GetDollarsPerHour(), Order: each(m.GetOrder(), toPlace), Weights: each(m.GetWeights(), func(w *wirepb.PlaceWeight) mesh.PlaceWeight {
		return mesh.PlaceWeight{Place: toPlace(w.Place), Weight: w.Weight}
	})}
}

func fromPlace(p mesh.Place) *wirepb.Place {
	return &wirepb.Place{Region: string(p.Region), Zone: string(p.Zone), Cluster: string(p.Cluster)}
}

func toPlace(m *wirepb.Place) mesh.Place {
	return mesh.Place{Region: mesh.Region(m.GetRegion()), Zone: mesh.Zone(m.GetZone()), Cluster: mesh.ClusterName(m.GetCluster())}
}

func fromHashKey(k mesh.HashKey) *wirepb.HashKey {
	return &wirepb.HashKey{Header: k.Header, Cookie: k.Cookie, Query: k.Query, Source: k.Source}
}

func toHashKey(m *wirepb.HashKey) mesh.HashKey {
	return mesh.HashKey{Header: m.Header, Cookie: m.Cookie, Query: m.Query, Source: m.Source}
}

func fromAffinity(a *mesh.Affinity) *wirepb.Affinity {
	if a == nil {
		return nil
	}
	return &wirepb.Affinity{Kind: string(a.Kind), Name: a.Name, AbsoluteTimeout: int64(a.AbsoluteTimeout), Permanent: a.Permanent}
}

func toAffinity(m *wirepb.Affinity) *mesh.Affinity {
	if m == nil {
		return nil
	}
	return &mesh.Affinity{Kind: mesh.AffinityKind(m.Kind), Name: m.Name, AbsoluteTimeout: time.Duration(m.AbsoluteTimeout), Permanent: m.Permanent}
}

func fromHealth(h *mesh.HealthCheck) *wirepb.HealthCheck {
	if h == nil {
		return nil
	}
	return &wirepb.HealthCheck{Kind: string(h.Kind), Port: uint32(h.Port), Path: h.Path, Host: h.Host, Service: h.Service,
		Statuses: each(h.Statuses, func(r mesh.StatusRange) *wirepb.StatusRange {
			return &wirepb.StatusRange{First: int32(r.First), Last: int32(r.Last)}
		}),
		Interval: int64(h.Interval), Timeout: int64(h.Timeout), Healthy: int64(h.Healthy), Unhealthy: int64(h.Unhealthy)}
}

func (d *decoder) health(m *wirepb.HealthCheck) *mesh.HealthCheck {
	if m == nil {
		return nil
	}
	return &mesh.HealthCheck{Kind: mesh.HealthKind(m.Kind), Port: d.portNumber(m.Port), Path: m.Path, Host: m.Host, Service: m.Service,
		Statuses: each(m.Statuses, func(r *wirepb.StatusRange) mesh.StatusRange {
			return mesh.StatusRange{First: int(r.First), Last: int(r.Last)}
		}),
		Interval: time.Duration(m.Interval), Timeout: time.Duration(m.Timeout), Healthy: int(m.Healthy), Unhealthy: int(m.Unhealthy)}
}

func fromLimits(l mesh.Limits) *wirepb.Limits {
	return &wirepb.Limits{Connections: int64(l.Connections), Pending: int64(l.Pending), Requests: int64(l.Requests),
		Concurrency: int64(l.Concurrency), RequestHead: int64(l.RequestHead), ResponseHead: int64(l.ResponseHead),
		RequestBody: l.RequestBody, ResponseBody: l.ResponseBody, ReplayBody: int64(l.ReplayBody)}
}

func toLimits(m *wirepb.Limits) mesh.Limits {
	return mesh.Limits{Connections: int(m.GetConnections()), Pending: int(m.GetPending()), Requests: int(m.GetRequests()),
		Concurrency: int(m.GetConcurrency()), RequestHead: int(m.GetRequestHead()), ResponseHead: int(m.GetResponseHead()),
		RequestBody: m.GetRequestBody(), ResponseBody: m.GetResponseBody(), ReplayBody: int(m.GetReplayBody())}
}

// fromAdmission is nil where admission is off.
func fromAdmission(a mesh.Admission) *wirepb.Admission {
	if a == (mesh.Admission{}) {
		return nil
	}
	return &wirepb.Admission{Mode: string(a.Mode), MaxWait: int64(a.MaxWait)}
}

func fromFallback(f *ir.Fallback) *wirepb.Fallback {
	if f == nil {
		return nil
	}
	v := &f.Fallback
	out := &wirepb.Fallback{Object: f.Object, On: v.On, AnyMethod: v.AnyMethod, Missing: f.Missing}
	if s := v.Static; s != nil {
		out.Static = &wirepb.StaticAnswer{Status: int64(s.Status), ContentType: s.ContentType, Headers: each(s.Headers, fromHeaderValue), Body: []byte(s.Body)}
	}
	if s := v.Service; s != nil {
		out.Service = &wirepb.FallbackService{Kind: s.Kind, Service: fromService(s.Service), Port: uint32(s.Port)}
	}
	if s := v.Cache; s != nil {
		out.Cache = &wirepb.StaleCache{MaxStale: int64(s.MaxStale)}
	}
	return out
}

func (d *decoder) fallback(m *wirepb.Fallback) *ir.Fallback {
	if m == nil {
		return nil
	}
	out := &ir.Fallback{Object: m.Object, Missing: m.Missing, Fallback: mesh.Fallback{On: m.On, AnyMethod: m.AnyMethod}}
	if s := m.Static; s != nil {
		out.Fallback.Static = &mesh.StaticAnswer{Status: int(s.Status), ContentType: s.ContentType, Headers: each(s.Headers, toHeaderValue), Body: string(s.Body)}
	}
	if s := m.Service; s != nil {
		out.Fallback.Service = &mesh.FallbackService{Kind: s.Kind, Service: d.service(s.Service), Port: d.portNumber(s.Port)}
	}
	if s := m.Cache; s != nil {
		out.Fallback.Cache = &mesh.StaleCache{MaxStale: time.Duration(s.MaxStale)}
	}
	return out
}

func fromRateLimit(l mesh.RateLimit) *wirepb.RateLimit {
	return &wirepb.RateLimit{Name: l.Name, Requests: int64(l.Requests), Per: int64(l.Per), Burst: int64(l.Burst),
		Keys: each(l.Keys, func(k mesh.RateKey) *wirepb.RateKey {
			return &wirepb.RateKey{Identity: k.Identity, Namespace: k.Namespace, Cluster: k.Cluster, Header: k.Header}
		}),
		Match: fromRequestMatch(l.Match)}
}

func toRateLimit(m *wirepb.RateLimit) mesh.RateLimit {
	return mesh.RateLimit{Name: m.Name, Requests: int(m.Requests), Per: time.Duration(m.Per), Burst: int(m.Burst),
		Keys: each(m.Keys, func(k *wirepb.RateKey) mesh.RateKey {
			return mesh.RateKey{Identity: k.Identity, Namespace: k.Namespace, Cluster: k.Cluster, Header: k.Header}
		}),
		Match: toRequestMatch(m.Match)}
}

func fromRequestMatch(r mesh.RequestMatch) *wirepb.RequestMatch {
	return &wirepb.RequestMatch{Methods: r.Methods, Paths: r.Paths, Headers: each(r.Headers, fromValueMatch)}
}

func toRequestMatch(m *wirepb.RequestMatch) mesh.RequestMatch {
	return mesh.RequestMatch{Methods: m.GetMethods(), Paths: m.GetPaths(), Headers: each(m.GetHeaders(), toValueMatch)}
}

func fromFault(f ir.Fault) *wirepb.Fault {
	v := f.Fault
	return &wirepb.Fault{Object: f.Object, Match: fromRequestMatch(v.Match), Sources: each(v.Sources, fromSource),
		Delay: int64(v.Delay), DelayJitter: int64(v.DelayJitter), DelayMilliPercent: int64(v.DelayMilliPercent),
		Abort: int64(v.Abort), AbortGrpc: int64(v.AbortGRPC), AbortMilliPercent: int64(v.AbortMilliPercent),
		Bandwidth: v.Bandwidth, BandwidthMilliPercent: int64(v.BandwidthMilliPercent)}
}

func toFault(m *wirepb.Fault) ir.Fault {
	return ir.Fault{Object: m.Object, Fault: mesh.Fault{Match: toRequestMatch(m.Match), Sources: each(m.Sources, toSource),
		Delay: time.Duration(m.Delay), DelayJitter: time.Duration(m.DelayJitter), DelayMilliPercent: int(m.DelayMilliPercent),
		Abort: int(m.Abort), AbortGRPC: int(m.AbortGrpc), AbortMilliPercent: int(m.AbortMilliPercent),
		Bandwidth: m.Bandwidth, BandwidthMilliPercent: int(m.BandwidthMilliPercent)}}
}

func fromTelemetry(t mesh.Telemetry) *wirepb.Telemetry {
	return &wirepb.Telemetry{AccessLog: t.AccessLog, LogSampleMilliPercent: int64(t.LogSampleMilliPercent),
		TraceSampleMilliPercent: int64(t.TraceSampleMilliPercent), Otlp: t.OTLP}
}

func toTelemetry(m *wirepb.Telemetry) mesh.Telemetry {
	return mesh.Telemetry{AccessLog: m.GetAccessLog(), LogSampleMilliPercent: int(m.GetLogSampleMilliPercent()),
		TraceSampleMilliPercent: int(m.GetTraceSampleMilliPercent()), OTLP: m.GetOtlp()}
}

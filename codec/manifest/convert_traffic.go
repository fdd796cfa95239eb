//house:exempt a parser: policies, field by field

package manifest

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func (s *scope) trafficPolicy(in *trafficPolicy) *mesh.TrafficPolicy {
	p := &in.Spec
	out := &mesh.TrafficPolicy{Namespace: s.namespace, Name: s.name, Targets: s.targets(p.TargetRefs),
		Strategy: mesh.Strategy(p.Locality.Strategy), Distribution: s.distribution(&p.Locality), Staleness: s.staleness(p.MaxStaleness, p.WhenStale),
		ConnectTimeout: duration(p.Timeouts.Connect), RequestTimeout: timeout(p.Timeouts.Request), TryTimeout: duration(p.Timeouts.BackendRequest),
		IdleTimeout: duration(p.Timeouts.Idle), Balancing: s.balancing(&p.LoadBalancing), Retry: s.retryPolicy(&p.Retry),
		Affinity: s.affinity(p.SessionPersistence, spec("sessionPersistence")),
		Outlier:  s.outlier(&p.OutlierDetection), Health: s.health(p.HealthCheck, spec("healthCheck")), Limits: limitsOf(&p.Limits),
		Admission:   mesh.Admission{Mode: mesh.AdmissionMode(p.Admission.Mode), MaxWait: duration(p.Admission.MaxWait)},
		Criticality: criticalities[p.Criticality], Fallback: s.fallback(p.Fallback, spec("fallback"))}
	for i, l := range p.RateLimits {
		out.RateLimits = append(out.RateLimits, s.rateLimit(l, spec("rateLimits").item(i)))
	}
	for _, f := range []string{"connect", "idle", "backendRequest"} { // request: 0s is no timeout
		s.above(spec("timeouts", f))
	}
	s.above(spec("admission", "maxWait"))
	if r, t := out.RequestTimeout, out.TryTimeout; r > 0 && t > r {
		s.fault(spec("timeouts", "backendRequest"), "longer than timeouts.request", "write at most "+p.Timeouts.Request)
	}
	return out
}

// staleness reads how old other clusters may be.
func (s *scope) staleness(most, when string) mesh.Staleness {
	out := mesh.Staleness{Max: duration(most), When: mesh.WhenStale(when)}
	s.above(spec("maxStaleness"))
	switch {
	case most != "" && out.When == mesh.WhenStaleKeep:
		s.fault(spec("maxStaleness"), "with whenStale Keep, which bears any age", "write whenStale: LastResort or Exclude, or remove one of the two")
	case most == "" && out.When != "" && out.When != mesh.WhenStaleKeep:
		s.fault(spec("maxStaleness"), "missing", "write how old a cluster may be, such as maxStaleness: 10m")
	case most != "" && when == "":
		out.When = mesh.WhenStaleExclude
	}
	return out
}

// distribution reads what a strategy is told, and refuses what another one is.
func (s *scope) distribution(in *localityPolicy) mesh.Distribution {
	at, out := spec("locality"), mesh.Distribution{}
	belongs := func(field string, there bool, to mesh.Strategy) {
		if there && in.Strategy != string(to) {
			s.fault(at.field(field), "without strategy "+string(to), "write strategy: "+string(to)+", or remove it")
		}
	}
	belongs("order", in.Order != nil, mesh.StrategyNearest)
	belongs("weights", in.Weights != nil, mesh.StrategyWeighted)
	belongs("cost", in.Cost != nil, mesh.StrategyCost)
	if in.Cost != nil {
		out.SecondsPerDollar = s.amount(in.Cost.SecondsPerDollar, at.field("cost", "secondsPerDollar"))
		out.DollarsPerHour = s.amount(in.Cost.DollarsPerHour, at.field("cost", "dollarsPerHour"))
	}
	seen := map[mesh.Place]bool{}
	for i, p := range in.Order {
		out.Order = append(out.Order, s.place(p, at.field("order").item(i), seen))
	}
	clear(seen)
	sum := uint64(0)
	for i, w := range in.Weights {
		p := s.place(servingPlace{w.Region, w.Cluster, w.Zone}, at.field("weights").item(i), seen)
		out.Weights = append(out.Weights, mesh.PlaceWeight{Place: p, Weight: w.Weight})
		sum += uint64(w.Weight)
	}
	switch {
	case in.Strategy == string(mesh.StrategyWeighted) && in.Weights == nil:
		s.fault(at.field("weights"), "missing", "write places and weights, such as weights: [{cluster: eu-west, weight: 3}, {region: us-east-1, weight: 1}]")
	case len(in.Weights) > 0 && sum == 0:
		s.fault(at.field("weights"), "all weights are 0", "give one of the places a weight above 0")
	}
	return out
}

// amount is a number above 0; nil is 0.
func (s *scope) amount(in *decimal, at *path) float64 {
	if in == nil {
		return 0
	}
	if *in <= 0 || *in > 1e9 {
		s.fault(at, "out of range", "write a number above 0 and up to 1000000000, or remove it for the default")
	}
	return float64(*in)
}

// place reads a place that none of those seen is.
func (s *scope) place(in servingPlace, at *path, seen map[mesh.Place]bool) mesh.Place {
	p := mesh.Place{Region: mesh.Region(in.Region), Zone: mesh.Zone(in.Zone), Cluster: mesh.ClusterName(in.Cluster)}
	switch {
	case in.Region != "" && in.Cluster != "":
		s.fault(at, "names a region and a cluster, which is in one anyway", "write one of region and cluster")
	case in.Region == "" && in.Cluster == "":
		s.fault(at, "names no place", "write region or cluster, and zone beside it if only one is meant")
	case seen[p]:
		s.fault(at, "a duplicate of an earlier place", "remove one of the two")
	}
	seen[p] = true
	return p
}

// above refuses a duration of 0 at a path, where it would mean nothing that could be done.
func (s *scope) above(at *path) {
	if v := s.root.at(at.up).str(at.name); isDuration(v) && duration(v) == 0 {
		s.fault(at, "0 is no time that could be kept", "write a duration above 0, or remove it for the default")
	}
}

func (s *scope) balancing(in *loadBalancing) mesh.Balancing {
	at := spec("loadBalancing")
	out := mesh.Balancing{Algorithm: mesh.Algorithm(in.Algorithm), Warmup: timeout(in.Warmup)}
	h := in.ConsistentHash
	switch hashes := out.Algorithm == mesh.AlgorithmConsistentHash; {
	case h != nil && !hashes:
		s.fault(at.field("consistentHash"), "without algorithm ConsistentHash", "write algorithm: ConsistentHash, or remove it")
	case h == nil && hashes:
		s.fault(at.field("consistentHash"), "missing", "write the keys to hash, such as keys: [{header: x-user}]")
	}
	if h == nil {
		return out
	}
	if out.Table = mesh.HashTable(h.Table); h.Table == "" {
		out.Table = mesh.HashMaglev
	}
	seen := map[mesh.HashKey]bool{}
	for i, k := range h.Keys {
		at := at.field("consistentHash", "keys").item(i)
		key := mesh.HashKey{Header: strings.ToLower(k.Header), Cookie: k.Cookie, Query: k.Query, Source: k.Source}
		s.exactlyOne(at, []string{"header", "cookie", "query", "source"}, k.Header != "", k.Cookie != "", k.Query != "", k.Source)
		s.unreserved(k.Header, at.field("header"))
		if seen[key] {
			s.fault(at, "a duplicate of an earlier key", "remove one of the two")
		}
		seen[key] = true
		out.Keys = append(out.Keys, key)
	}
	return out
}

// exactlyOne reports members that exclude each other, and that none of them is there.
func (s *scope) exactlyOne(at *path, names []string, set ...bool) {
	n := 0
	for _, is := range set {
		if is {
			n++
		}
	}
	switch {
	case n == 0:
		s.fault(at, "says nothing", "write one of "+enumerate(names))
	case n > 1:
		s.fault(at, "says several things", "write one of "+enumerate(names)+", the others into elements of their own")
	}
}

// unreserved refuses headers that proxies speak among themselves and no application sees.
func (s *scope) unreserved(header string, at *path) {
	if strings.HasPrefix(strings.ToLower(header), "isthmus-") {
		s.fault(at, quote(header)+" is reserved for proxies", "write a name that does not begin with isthmus-")
	}
}

// Names of sessions that are given none.
const (
	sessionCookie = "isthmus-session"
	sessionHeader = "x-isthmus-session"
)

// affinity reads a session persistence (GEP-1619), of a policy or of a route's rule.
func (s *scope) affinity(in *sessionPersistence, at *path) *mesh.Affinity {
	if in == nil {
		return nil
	}
	out := &mesh.Affinity{Kind: mesh.AffinityKind(text(in.Type, string(mesh.AffinityCookie))), Name: text(in.SessionName, ""),
		AbsoluteTimeout: duration(text(in.AbsoluteTimeout, ""))}
	s.above(at.field("absoluteTimeout"))
	if out.Name != "" && !isHeaderName(out.Name) {
		s.fault(at.field("sessionName"), quote(out.Name)+" is neither the name of a cookie nor of a header", "write letters, digits and any of !#$%&'*+-.^_`|~")
	}
	switch out.Kind {
	case mesh.AffinityCookie:
		if out.Name == "" {
			out.Name = sessionCookie
		}
		if c := in.CookieConfig; c != nil && text(c.LifetimeType, "") == "Permanent" {
			if out.Permanent = true; in.AbsoluteTimeout == nil {
				s.fault(at.field("absoluteTimeout"), "missing, with a cookie of lifetimeType Permanent", "write how long the cookie lasts")
			}
		}
	case mesh.AffinityHeader:
		if out.Name = strings.ToLower(out.Name); out.Name == "" {
			out.Name = sessionHeader
		}
		s.unreserved(out.Name, at.field("sessionName"))
		if in.CookieConfig != nil {
			s.fault(at.field("cookieConfig"), "does not belong to type Header", "remove it, or write type: Cookie")
		}
	}
	return out
}

// retryOn is a condition, or a status as a number or text.
type retryOn string

var retryConditions = []string{"reset", "timeout", "5xx", "gateway-error",
	"cancelled", "deadline-exceeded", "resource-exhausted", "internal", "unavailable"}

func (x *retryOn) decodeValue(d *decoder, v *value, p *path) {
	if condition(d, v, p, retryConditions, 400, "tried again") {
		*x = retryOn(v.text)
	}
}

// condition reports whether a value is one of the words or a status from low to 599, and the fault if it is neither.
func condition(d *decoder, v *value, p *path, words []string, low int, what string) bool {
	n, err := strconv.Atoi(v.text)
	switch {
	case v.kind != kindString && v.kind != kindInt:
		d.fault(v.place, p, "want a condition or a status, not "+v.kind.article(), "write "+enumerate(words)+", or a status")
	case err == nil && (n < low || n > 599):
		d.fault(v.place, p, v.text+" is not a status that is "+what, fmt.Sprintf("write a status from %d to 599", low))
	case err != nil && !contains(words, v.text):
		remedy := "write " + enumerate(words) + ", or a status"
		if near := nearest(v.text, words); near != "" {
			remedy += ", likely " + near
		}
		d.fault(v.place, p, quote(v.text)+" is not known", remedy)
	default:
		return true
	}
	return false
}

func (s *scope) retryPolicy(in *retryPolicy) mesh.RetryPolicy {
	out := mesh.RetryPolicy{AnyMethod: in.AnyMethod, BudgetPercent: in.Budget.Percent, BudgetBurst: in.Budget.Burst, Backoff: timeout(in.Backoff)}
	if n := in.Attempts; n != nil {
		if out.Attempts = *n; *n == 0 {
			out.Attempts = -1
		}
	}
	for i, on := range in.Conditions {
		if contains(out.On, string(on)) {
			s.fault(spec("retry", "conditions").item(i), quote(string(on))+" is a duplicate", "remove one of the two")
		}
		out.On = append(out.On, string(on))
	}
	if out.Attempts < 0 {
		for _, f := range []string{"conditions", "anyMethod", "backoff", "budget"} {
			if s.root.get("spec").get("retry").get(f) != nil {
				s.fault(spec("retry", f), "nothing is tried again with attempts: 0", "remove it, or write attempts above 0")
			}
		}
	}
	return out
}

func (s *scope) outlier(in *outlierDetection) mesh.Outlier {
	at := spec("outlierDetection")
	out := mesh.Outlier{ConsecutiveFailures: in.ConsecutiveFailures, BaseEjection: duration(in.BaseEjection), MaxEjection: duration(in.MaxEjection),
		MaxEjectedPercent: in.MaxEjectedPercent}
	s.above(at.field("baseEjection"))
	s.above(at.field("maxEjection"))
	if out.MaxEjection > 0 && out.BaseEjection > out.MaxEjection {
		s.fault(at.field("baseEjection"), "longer than outlierDetection.maxEjection", "write at most "+in.MaxEjection)
	}
	if v := in.SuccessRateStdev; v != nil {
		switch out.SuccessRateStdev = int(math.Round(float64(*v) * 1000)); {
		case *v == 0:
			out.SuccessRateStdev = -1
		case *v < 0.5 || *v > 100:
			s.fault(at.field("successRateStdev"), "out of range", "write a number from 0.5 to 100, or 0 for never")
		}
	}
	return out
}

// statusRange is a status, or FIRST-LAST.
type statusRange struct{ first, last int }

func (x *statusRange) decodeValue(d *decoder, v *value, p *path) {
	first, last, both := strings.Cut(v.text, "-")
	if !both {
		last = first
	}
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if v.kind != kindString && v.kind != kindInt || err != nil || err2 != nil || a < 100 || b > 599 || a > b {
		d.fault(v.place, p, "not a status or a range of statuses", "write one such as 204 or 200-299")
		return
	}
	*x = statusRange{a, b}
}

func (s *scope) health(in *healthCheck, at *path) *mesh.HealthCheck {
	if in == nil {
		return nil
	}
	out := &mesh.HealthCheck{Port: in.Port, Interval: duration(in.Interval), Timeout: duration(in.Timeout), Healthy: in.Healthy, Unhealthy: in.Unhealthy}
	s.exactlyOne(at, []string{"http", "grpc", "tcp"}, in.HTTP != nil, in.GRPC != nil, in.TCP != nil)
	switch {
	case in.HTTP != nil:
		out.Kind, out.Path, out.Host = mesh.HealthHTTP, in.HTTP.Path, in.HTTP.Host
		if out.Path == "" {
			out.Path = "/"
		}
		if !strings.HasPrefix(out.Path, "/") || strings.ContainsFunc(out.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
			s.fault(at.field("http", "path"), quote(out.Path)+" is not a path", "begin it with /, and percent-encode what is not ASCII")
		}
		for _, r := range in.HTTP.Statuses {
			out.Statuses = append(out.Statuses, mesh.StatusRange{First: r.first, Last: r.last})
		}
	case in.GRPC != nil:
		out.Kind, out.Service = mesh.HealthGRPC, in.GRPC.Service
	case in.TCP != nil:
		out.Kind = mesh.HealthTCP
	}
	s.above(at.field("interval"))
	s.above(at.field("timeout"))
	interval := out.Interval
	if interval == 0 {
		interval = mesh.DefaultHealthInterval
	}
	if out.Timeout > interval {
		s.fault(at.field("timeout"), "longer than healthCheck.interval", "write at most "+interval.String())
	}
	return out
}

// limitsOf turns a limit of 0 into -1: it takes a wider policy's away.
func limitsOf(in *limits) mesh.Limits {
	return mesh.Limits{Connections: limit(in.Connections), Pending: limit(in.PendingRequests), Requests: limit(in.Requests),
		Concurrency: limit(in.Concurrency), RequestHead: limit(in.RequestHeadBytes), ResponseHead: limit(in.ResponseHeadBytes),
		RequestBody: limit(in.RequestBodyBytes), ResponseBody: limit(in.ResponseBodyBytes), ReplayBody: limit(in.ReplayBodyBytes)}
}

func limit[N int | int64](n *N) N {
	switch {
	case n == nil:
		return 0
	case *n == 0:
		return -1
	}
	return *n
}

func (s *scope) rateLimit(in rateLimit, at *path) mesh.RateLimit {
	out := mesh.RateLimit{Name: in.Name, Requests: in.Requests, Per: duration(in.Per), Burst: in.Burst, Match: s.requestMatch(in.Match, at.field("match"))}
	s.above(at.field("per"))
	if out.Per == 0 {
		out.Per = time.Second
	}
	if out.Burst == 0 {
		out.Burst = out.Requests
	}
	seen := map[mesh.RateKey]bool{}
	for i, k := range in.Keys {
		at := at.field("keys").item(i)
		key := mesh.RateKey{Identity: k.Identity, Namespace: k.Namespace, Cluster: k.Cluster, Header: strings.ToLower(k.Header)}
		s.exactlyOne(at, []string{"identity", "namespace", "cluster", "header"}, k.Identity, k.Namespace, k.Cluster, k.Header != "")
		s.unreserved(k.Header, at.field("header"))
		if seen[key] {
			s.fault(at, "a duplicate of an earlier key", "remove one of the two")
		}
		seen[key] = true
		out.Keys = append(out.Keys, key)
	}
	return out
}

func (s *scope) requestMatch(in requestMatch, at *path) mesh.RequestMatch {
	s.paths(in.Paths, at.field("paths"))
	return mesh.RequestMatch{Methods: in.Methods, Paths: in.Paths, Headers: s.valueMatches(in.Headers, at.field("headers"), true)}
}

// paths checks patterns of paths, which may end in a *.
func (s *scope) paths(list []string, at *path) {
	for i, p := range list {
		if !strings.HasPrefix(p, "/") && p != "*" {
			s.fault(at.item(i), quote(p)+" is not a path", "begin it with /")
		}
		s.wildcard(p, at.item(i))
	}
}

// milliPercent reads a percentage, whole without one, in thousandths.
func (s *scope) milliPercent(v *decimal, otherwise int, at *path) int {
	if v == nil {
		return otherwise
	}
	n := int(math.Round(float64(*v) * 1000))
	if *v > 100 || n == 0 && *v > 0 {
		s.fault(at, "out of range", "write a number from 0 to 100, in steps of 0.001")
		return otherwise
	}
	return n
}

func (s *scope) faultPolicy(in *faultPolicy) *mesh.FaultPolicy {
	const all = 100_000
	out := &mesh.FaultPolicy{Namespace: s.namespace, Name: s.name, Targets: s.targets(in.Spec.TargetRefs)}
	for i, f := range in.Spec.Faults {
		at := spec("faults").item(i)
		fault := mesh.Fault{Match: s.requestMatch(f.Match, at.field("match"))}
		for j, from := range f.From {
			fault.Sources = append(fault.Sources, s.accessSource(from, at.field("from").item(j)))
		}
		if f.Delay == nil && f.Abort == nil && f.Bandwidth == nil {
			s.fault(at, "does nothing", "write delay, abort or bandwidth")
		}
		if d := f.Delay; d != nil {
			fault.Delay, fault.DelayJitter = duration(d.Duration), duration(d.Jitter)
			fault.DelayMilliPercent = s.milliPercent(d.Percent, all, at.field("delay", "percent"))
			s.above(at.field("delay", "duration"))
		}
		if a := f.Abort; a != nil {
			fault.Abort, fault.AbortGRPC = a.Status, int(a.GRPCStatus)
			fault.AbortMilliPercent = s.milliPercent(a.Percent, all, at.field("abort", "percent"))
			switch {
			case a.Status == 0 && a.GRPCStatus == 0:
				s.fault(at.field("abort", "status"), "missing", "write the status to answer with, such as 503")
			case a.Status == 0:
				fault.Abort = grpcStatuses[a.GRPCStatus].http
			}
		}
		if b := f.Bandwidth; b != nil {
			fault.Bandwidth, fault.BandwidthMilliPercent = b.BytesPerSecond, s.milliPercent(b.Percent, all, at.field("bandwidth", "percent"))
		}
		out.Faults = append(out.Faults, fault)
	}
	return out
}

// grpcStatus is a status of gRPC that is an error: a number from 1 to 16, or its name.
type grpcStatus int

// grpcStatuses are the statuses of gRPC (gRPC "Status codes and their use") with those of HTTP that
// google.rpc.Code maps them to.
var grpcStatuses = [17]struct {
	name string
	http int
}{{}, {"CANCELLED", 499}, {"UNKNOWN", 500}, {"INVALID_ARGUMENT", 400}, {"DEADLINE_EXCEEDED", 504}, {"NOT_FOUND", 404},
	{"ALREADY_EXISTS", 409}, {"PERMISSION_DENIED", 403}, {"RESOURCE_EXHAUSTED", 429}, {"FAILED_PRECONDITION", 400}, {"ABORTED", 409},
	{"OUT_OF_RANGE", 400}, {"UNIMPLEMENTED", 501}, {"INTERNAL", 500}, {"UNAVAILABLE", 503}, {"DATA_LOSS", 500}, {"UNAUTHENTICATED", 401}}

func (x *grpcStatus) decodeValue(d *decoder, v *value, p *path) {
	var names []string
	for n, s := range grpcStatuses {
		if n > 0 && v.kind == kindString && strings.EqualFold(v.text, s.name) {
			*x = grpcStatus(n)
			return
		}
		names = append(names, s.name)
	}
	if n, err := strconv.Atoi(v.text); v.kind == kindInt && err == nil && n > 0 && n < len(grpcStatuses) {
		*x = grpcStatus(n)
		return
	}
	remedy := "write a number from 1 to 16, or a name such as UNAVAILABLE"
	if near := nearest(v.text, names[1:]); v.kind == kindString && near != "" {
		remedy += ", likely " + near
	}
	d.fault(v.place, p, "not an error of gRPC", remedy)
}

func (s *scope) telemetryPolicy(in *telemetryPolicy) *mesh.TelemetryPolicy {
	t := &in.Spec
	out := &mesh.TelemetryPolicy{Namespace: s.namespace, Name: s.name, Targets: s.targets(t.TargetRefs)}
	for i, r := range out.Targets {
		if r.Kind != "Namespace" && r.Kind != "Mesh" {
			s.fault(spec("targetRefs").item(i).field("kind"), r.Kind+" is not what a TelemetryPolicy is for: it speaks of proxies", "write Namespace or Mesh")
		}
	}
	out.Telemetry = mesh.Telemetry{AccessLog: strings.Replace(t.AccessLog.Format, "None", mesh.AccessLogOff, 1), OTLP: t.OTLP.Endpoint,
		LogSampleMilliPercent:   s.sample(t.AccessLog.SamplePercent, spec("accessLog", "samplePercent")),
		TraceSampleMilliPercent: s.sample(t.Tracing.SamplePercent, spec("tracing", "samplePercent"))}
	if t.AccessLog.Format == "None" && t.AccessLog.SamplePercent != nil {
		s.fault(spec("accessLog", "samplePercent"), "nothing is logged with format: None", "remove it, or write another format")
	}
	if e := t.OTLP.Endpoint; e != "" && e != mesh.NoCollector && !isEndpoint(e) {
		s.fault(spec("otlp", "endpoint"), quote(e)+" is not an endpoint", fmt.Sprintf("write HOST:PORT without a scheme, such as otel-collector.observability:4317, or %s", mesh.NoCollector))
	}
	return out
}

// sample reads a share that is stated: 0 is -1, for it takes a wider policy's away.
func (s *scope) sample(v *decimal, at *path) int {
	if v != nil && *v == 0 {
		return -1
	}
	return s.milliPercent(v, 0, at)
}

// isEndpoint reports whether s is a host name or address, and a port.
func isEndpoint(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	return err == nil && err2 == nil && n > 0 && (isIP(host) || mesh.IsSubdomain(host))
}

package mesh

import "time"

// Strategy is how a service's traffic is spread over clusters.
type Strategy string

// The strategies of a traffic policy.
const (
	// StrategyAuto minimises waiting, price included, within the law; StrategyLatency leaves the price
	// out, and StrategyCost weighs it as a policy says.
	StrategyAuto    Strategy = "Auto"
	StrategyLatency Strategy = "Latency"
	StrategyCost    Strategy = "Cost"
	// StrategyNearest takes the nearest that serves, StrategyLocal never leaves.
	StrategyNearest Strategy = "Nearest"
	StrategyLocal   Strategy = "Local"
	// StrategyWeighted follows stated weights among those that serve, StrategySpread their capacity.
	StrategyWeighted Strategy = "Weighted"
	StrategySpread   Strategy = "Spread"
)

// Planned reports whether a strategy says by itself where requests go, whatever they wait: no request is then
// moved for load.
func (s Strategy) Planned() bool {
	return s == StrategyNearest || s == StrategyLocal || s == StrategyWeighted || s == StrategySpread
}

// Place names clusters, or a part of them: what is set must hold. A zone stands with a region or a cluster.
type Place struct {
	Region  Region
	Zone    Zone
	Cluster ClusterName
}

// Holds reports whether what is in l is in the place. An endpoint whose zone is not known is in no zone.
func (p Place) Holds(l Locality) bool {
	return (p.Region == "" || p.Region == l.Region) && (p.Zone == "" || p.Zone == l.Zone) && (p.Cluster == "" || p.Cluster == l.Cluster)
}

// String is the place for people: "cluster eu-west, zone a".
func (p Place) String() string {
	out := "region " + string(p.Region)
	if p.Cluster != "" {
		out = "cluster " + string(p.Cluster)
	}
	if p.Zone != "" {
		out += ", zone " + string(p.Zone)
	}
	return out
}

// PlaceWeight is a place's part of requests, relative to those of the others.
type PlaceWeight struct {
	Place  Place
	Weight uint32
}

// Distribution is what a strategy is told. The zero value tells it nothing.
type Distribution struct {
	// Order is how Nearest goes on beyond the own region, and inside it among clusters as near.
	Order []Place
	// Weights are those of Weighted.
	Weights []PlaceWeight
	// SecondsPerDollar is what Cost waits to save a dollar; 0 is the default. DollarsPerHour is what crossing may cost all
	// callers together; 0 is no bound.
	SecondsPerDollar, DollarsPerHour float64
}

// WhenStale is what becomes of a cluster whose state is older than a service bears.
type WhenStale string

// What may become of it. Its facts stay where they are: only requests for the service are concerned.
const (
	// WhenStaleKeep serves on what was known, however old; it is the default.
	WhenStaleKeep WhenStale = "Keep"
	// WhenStaleLastResort passes the cluster over while another serves.
	WhenStaleLastResort WhenStale = "LastResort"
	// WhenStaleExclude sends it nothing, whatever else fails.
	WhenStaleExclude WhenStale = "Exclude"
)

// Staleness says how old the state of another cluster may be. The zero value bears any age.
type Staleness struct {
	// Max is counted from when the other cluster's control plane was last heard.
	Max  time.Duration
	When WhenStale
}

// From is the instant, in Unix nanoseconds, from which a cluster last heard at sinceMillis, in Unix
// milliseconds, is too old; 0 is never, as for one that is heard now, whose sinceMillis is 0.
func (s Staleness) From(sinceMillis int64) int64 {
	if sinceMillis == 0 || s.When == "" || s.When == WhenStaleKeep {
		return 0
	}
	return sinceMillis*int64(time.Millisecond) + int64(s.Max)
}

// What a dollar is worth in seconds that requests wait. Auto takes the price of an hour of somebody's time for it; Cost is
// for those to whom money matters more.
const (
	DefaultSecondsPerDollar = 3600
	CostSecondsPerDollar    = 10 * DefaultSecondsPerDollar
)

// TrafficPolicy bounds what the balancer does by itself. The zero value of a field
// means the default; where several policies reach a service, each field is the most specific
// one's.
type TrafficPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	// Strategy and Distribution belong together.
	Strategy       Strategy
	Distribution   Distribution
	Staleness      Staleness
	ConnectTimeout time.Duration
	RequestTimeout time.Duration // negative: none
	TryTimeout     time.Duration
	IdleTimeout    time.Duration
	Balancing      Balancing
	Affinity       *Affinity
	Retry          RetryPolicy
	Outlier        Outlier
	Health         *HealthCheck
	Limits         Limits
	RateLimits     []RateLimit
	Admission      Admission
	// Criticality is what requests are worth that say none; "" leaves them as they are.
	Criticality Criticality
	// Fallback, unless it is nil, is taken whole; one that is none of its kinds takes a wider policy's away.
	Fallback *Fallback
}

// Algorithm is how an endpoint is chosen among those of a cluster.
type Algorithm string

// The algorithms. PeakEWMA and LeastRequest take the better of two drawn at random
// (Mitzenmacher's power of two choices).
const (
	AlgorithmPeakEWMA       Algorithm = "PeakEWMA"
	AlgorithmLeastRequest   Algorithm = "LeastRequest"
	AlgorithmRoundRobin     Algorithm = "RoundRobin"
	AlgorithmRandom         Algorithm = "Random"
	AlgorithmConsistentHash Algorithm = "ConsistentHash"
)

// Balancing says how an endpoint is chosen.
type Balancing struct {
	Algorithm Algorithm
	// Table and Keys are ConsistentHash's. The first key that a request bears is hashed; a
	// request that bears none is balanced as by PeakEWMA.
	Table HashTable
	Keys  []HashKey
	// Warmup is how long an endpoint that is new, or came back, takes to grow from a tenth
	// to its whole share; 0 is none. In a policy a negative one takes a wider policy's away.
	Warmup time.Duration
}

// HashTable is the structure behind consistent hashing.
type HashTable string

// The tables: Maglev's permutation table (Eisenbud et al., NSDI 2016, §3.4) is the more
// even, a ring (Karger et al.) moves the fewest keys.
const (
	HashMaglev HashTable = "Maglev"
	HashRing   HashTable = "Ring"
)

// HashKey names one part of a request; one field is set. Header names are in lower case.
type HashKey struct {
	Header, Cookie, Query string
	// Source is the identity and address of the caller.
	Source bool
}

// AffinityKind is where a session is remembered.
type AffinityKind string

// The kinds of affinity, as Gateway API's session persistence (GEP-1619) has them.
const (
	AffinityCookie AffinityKind = "Cookie"
	AffinityHeader AffinityKind = "Header"
)

// Affinity keeps a session with the endpoint that first served it, over all clusters, as
// long as that endpoint may be chosen at all.
type Affinity struct {
	Kind AffinityKind
	// Name of the cookie or, in lower case, of the header.
	Name string
	// AbsoluteTimeout ends a session so long after it began; 0 never.
	AbsoluteTimeout time.Duration
	// Permanent gives the cookie AbsoluteTimeout as Max-Age; without it, it ends with the
	// browser's session.
	Permanent bool
}

// RetryPolicy bounds retries of what may have been executed. What was never executed is
// tried elsewhere for free whatever it says.
type RetryPolicy struct {
	// Attempts is the number of retries; -1 is none.
	Attempts int
	// On lists conditions and statuses that are tried again: "reset", "timeout", "5xx",
	// "gateway-error" (502, 503, 504), a status, or one of gRPC such as "unavailable". Empty is
	// reset, timeout and gateway-error.
	On []string
	// AnyMethod retries methods that are not idempotent too.
	AnyMethod bool
	// BudgetPercent of requests may be retries; BudgetBurst of them may be saved up.
	BudgetPercent, BudgetBurst int
	// Backoff is the pause before the first retry, doubled with jitter for each further one;
	// 0 is none. In a policy a negative one takes a wider policy's away.
	Backoff time.Duration
}

// Outlier says when an endpoint is taken out for what was seen of it.
type Outlier struct {
	// ConsecutiveFailures never executed in a row eject it.
	ConsecutiveFailures int
	// BaseEjection is the first ejection, doubled for each further one up to MaxEjection.
	BaseEjection, MaxEjection time.Duration
	// MaxEjectedPercent of a cluster's endpoints may be out; beyond it all are used.
	MaxEjectedPercent int
	// SuccessRateStdev ejects an endpoint whose success rate lies so many thousandths of a
	// standard deviation below the mean of its cluster's; 0 is the default, negative never.
	SuccessRateStdev int
}

// HealthKind is how an application is asked for its health.
type HealthKind string

// The kinds of health checks.
const (
	HealthHTTP HealthKind = "HTTP"
	HealthGRPC HealthKind = "GRPC" // grpc.health.v1.Health/Check
	HealthTCP  HealthKind = "TCP"
)

// HealthCheck is asked by the server proxy of its own application: one question an interval
// whatever the number of callers. While it fails, requests are refused as never executed and
// the endpoint is taken out.
type HealthCheck struct {
	Kind HealthKind
	// Port of the application; 0 is the target of the service's first port.
	Port uint16
	// Path and Host of HTTP; Service of gRPC.
	Path, Host, Service string
	// Statuses that are healthy: pairs of first and last; empty is 200 to 399.
	Statuses          []StatusRange
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are how many answers in a row change the state.
	Healthy, Unhealthy int
}

// StatusRange is the statuses from First to Last.
type StatusRange struct{ First, Last int }

// Limits bound what one proxy does for one service; 0 is no limit of the policy's own, and in
// a policy a negative one takes a wider policy's away. The first three are the client proxy's
// (circuit breaking), the others hold at both sides.
type Limits struct {
	// Connections of TCP, Pending requests that wait for a connection, Requests in flight.
	Connections, Pending, Requests int
	// Concurrency is how many requests one server proxy lets into its application.
	Concurrency int
	// Heads and bodies, in bytes.
	RequestHead, ResponseHead int
	RequestBody, ResponseBody int64
	// ReplayBody is the largest request body kept for another try, in bytes.
	ReplayBody int
}

// AdmissionMode says whether a server proxy lets into its application only what can be answered in time.
type AdmissionMode string

// The modes. AdmissionNone, as a wider policy's opposite, is the default.
const (
	AdmissionNone     AdmissionMode = "None"
	AdmissionAdaptive AdmissionMode = "Adaptive"
)

// Admission is what a server proxy does where its application has too much to do; the zero value is nothing.
type Admission struct {
	Mode AdmissionMode
	// MaxWait is how long a request of usual criticality may wait in the application; 0 is 150 ms, or as long as a request
	// takes if that is longer.
	MaxWait time.Duration
}

// RateLimit is a local rate limit of each server proxy: the generic cell rate algorithm
// (ITU-T I.371), one cell stream for each value of the keys.
type RateLimit struct {
	Name string
	// Requests per Per, of which Burst may come at once.
	Requests int
	Per      time.Duration
	Burst    int
	// Keys separate callers; none is one limit for all.
	Keys []RateKey
	// Match selects the requests that count; the zero value is all.
	Match RequestMatch
}

// RateKey names what separates callers; one field is set. Header names are in lower case.
type RateKey struct {
	Identity, Namespace, Cluster bool
	Header                       string
}

// RequestMatch selects requests: one of each list that is not empty. Paths may end in "*";
// all Headers must hold.
type RequestMatch struct {
	Methods, Paths []string
	Headers        []ValueMatch
}

// FaultPolicy makes requests fail on purpose, at the client proxy.
type FaultPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	Faults          []Fault
}

// Fault is one way of failing. Percentages are in thousandths of a percent.
type Fault struct {
	Match RequestMatch
	// Sources limits it to callers; empty is all.
	Sources []AccessSource
	// Delay, plus up to DelayJitter, of so many requests.
	Delay, DelayJitter time.Duration
	DelayMilliPercent  int
	// Abort with a status, or for gRPC with a status of gRPC (0 is derived from Abort).
	Abort             int
	AbortGRPC         int
	AbortMilliPercent int
	// Bandwidth bounds bodies, both ways, in bytes a second.
	Bandwidth             int64
	BandwidthMilliPercent int
}

// TelemetryPolicy says what proxies report. It targets namespaces or the mesh.
type TelemetryPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	Telemetry       Telemetry
}

// Telemetry is what one proxy reports of requests. In a policy the zero value of a field
// means what a wider policy says, and a negative share is none.
type Telemetry struct {
	// AccessLog is "JSON", "Text" or "Off"; LogSampleMilliPercent of what went well is
	// logged, and all that failed.
	AccessLog             string
	LogSampleMilliPercent int
	// TraceSampleMilliPercent of requests that bear no trace context begin one.
	TraceSampleMilliPercent int
	// OTLP is "host:port" of a collector that takes spans and logs over OTLP/gRPC; empty is none.
	OTLP string
}

// NoCollector as the OTLP of a TelemetryPolicy takes a wider policy's away.
const NoCollector = "none"

// Defaults of a TrafficPolicy.
const (
	DefaultConnectTimeout    = 1 * time.Second
	DefaultRequestTimeout    = 15 * time.Second
	DefaultIdleTimeout       = 60 * time.Second
	DefaultRetries           = 2
	DefaultBudgetPercent     = 20
	DefaultBudgetBurst       = 100
	DefaultEjectAfter        = 3
	DefaultBaseEjection      = 1 * time.Second
	DefaultMaxEjection       = 30 * time.Second
	DefaultMaxEjectedPercent = 50
	DefaultSuccessRateStdev  = 1900 // thousandths of a standard deviation
	DefaultHealthInterval    = 5 * time.Second
	DefaultHealthTimeout     = 1 * time.Second
	DefaultHealthy           = 2
	DefaultUnhealthy         = 3
	// MaxReplayBody is the largest request body kept for another try, in bytes.
	MaxReplayBody = 64 << 10
)

// AccessLogOff as the AccessLog logs nothing.
const AccessLogOff = "Off"

// Defaults of a TelemetryPolicy.
const (
	DefaultAccessLog               = "JSON"
	DefaultTraceSampleMilliPercent = 1000
)

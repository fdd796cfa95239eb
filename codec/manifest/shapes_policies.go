//house:exempt a table: the fields of our policies

package manifest

// The shapes of policies that say how requests are carried. The comment of a field is its
// entry in docs/reference: what it does, when to use it, and, in the last sentence after
// "Default:", what holds without it. A field without a comment is explained by its parent.

// trafficPolicy says how requests to its targets are balanced, tried again, bounded and kept
// away from what fails. Everything has a default that fits most services: write only what a
// service needs otherwise. Where several policies reach a service, each field is taken from the
// most specific one that states it: Service before Namespace before Mesh; lists are taken whole.
type trafficPolicy struct {
	header `json:",inline"`
	Spec   struct {
		// What the policy is for: Services or ServiceImports of its namespace, its Namespace, or the Mesh.
		TargetRefs []targetRef `json:"targetRefs" is:"required items=1..16"`
		// Which clusters serve. Its fields are taken together from one policy.
		Locality localityPolicy `json:"locality"`
		// How old what is known of another cluster may be: how long ago its control plane was last heard by this one's. A silence is seen after 3s. It is taken together with whenStale from one policy. Default: any age.
		MaxStaleness string `json:"maxStaleness" is:"duration"`
		// What becomes of a cluster that is older than maxStaleness: LastResort passes it over while another serves; Exclude sends it nothing, and refuses requests with stale_cluster when no other is left; Keep serves on what was known, and takes a wider policy's away. Default: Exclude beside maxStaleness, else Keep.
		WhenStale string `json:"whenStale" is:"enum=Keep|LastResort|Exclude"`
		// How long things may take.
		Timeouts struct {
			// To make a connection; where no policy says, a cluster that is far away has as long as six round trips to each of its gateways, up to 5s. Default: 1s.
			Connect string `json:"connect" is:"duration"`
			// For a whole request with all its tries; 0s is no limit, for streams and long polls. Default: 15s.
			Request string `json:"request" is:"duration"`
			// For one try. Set it below request, so that a try that hangs leaves time for another. Default: the greater of 1s and five times the service's measured 99th percentile.
			BackendRequest string `json:"backendRequest" is:"duration"`
			// How long a connection or a tunnel may be silent. Default: 60s.
			Idle string `json:"idle" is:"duration"`
		} `json:"timeouts"`
		// How an endpoint is chosen among those of the chosen cluster.
		LoadBalancing loadBalancing `json:"loadBalancing"`
		// Keeps a session with the endpoint that first served it, whatever the cluster, as long as that endpoint may be chosen at all (Gateway API session persistence). Use it for servers that hold state of their clients in memory. Default: none.
		SessionPersistence *sessionPersistence `json:"sessionPersistence"`
		// When a request that may have been executed is tried again. What was never executed is tried elsewhere for free, whatever stands here.
		Retry retryPolicy `json:"retry"`
		// When an endpoint is taken out for what its callers see of it.
		OutlierDetection outlierDetection `json:"outlierDetection"`
		// How the server proxy asks its own application whether it can serve: one question an interval, whatever the number of callers. While the answer is no, requests are refused as never executed and served elsewhere. Default: the application is not asked.
		HealthCheck *healthCheck `json:"healthCheck"`
		// What one proxy lets through for the service. 0 takes a limit of a wider policy away.
		Limits limits `json:"limits"`
		// Local rate limits, each of every server proxy by itself: a service of four instances admits four times as much. All must admit a request. Use them to keep one caller from starving others; for what a service can bear as a whole, limits.concurrency is the better tool. Default: none.
		RateLimits []rateLimit `json:"rateLimits" is:"items=0..32 unique=name"`
		// What a server proxy does while its application has too much to do. Fields are taken one by one.
		Admission admission `json:"admission"`
		// What requests to the service are worth that say nothing about it in the header isthmus-criticality. The client's proxy writes it into them, so that the application gets it and may send it on. Use it where callers cannot say it themselves: Sheddable for what only batches ask, CriticalPlus for what must go on. Default: requests stay as they are, and count as Critical.
		Criticality string `json:"criticality" is:"enum=CriticalPlus|Critical|SheddablePlus|Sheddable"`
		// What answers in the service's place when it cannot: the caller's proxy gives it, once retries are spent. It is taken whole from one policy. See the guide "degradation". Default: nothing; callers see the failure.
		Fallback *fallback `json:"fallback"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type localityPolicy struct {
	// Auto takes what answers soonest, the nearest while it has room; and weighs what crossing costs as 3600 seconds of waiting for a dollar; Latency does the same and never weighs prices; Cost weighs them more; Nearest goes down a ladder, own zone, own cluster, own region, order, then by distance, and never leaves a rung that serves because it is busy; Weighted follows weights among what serves; Spread uses all clusters evenly, by their lanes where all declare them, else by their endpoints; Local never leaves the caller's cluster, not even when nothing there can serve. See the guide "choosing a strategy". Default: Auto.
	Strategy string `json:"strategy" is:"enum=Auto|Latency|Cost|Nearest|Weighted|Spread|Local"`
	// With Nearest: places in the order in which they are tried when the own region does not serve; clusters of the own region that are named here are tried in this order too. What is not named comes after, by distance. Default: by distance.
	Order []servingPlace `json:"order" is:"items=1..64"`
	// With Weighted, and required there: places and their parts of the requests. A place that cannot serve leaves its part to the others, and when none of them can, what is not named serves, the nearest first. Inside a place that holds several clusters each has its part by what it can serve.
	Weights []weightedPlace `json:"weights" is:"items=1..64"`
	// With Cost. Prices are those of Cluster.spec.egressPricePerGiB, else list prices, times the bytes of calls as proxies measure them. They act where endpoints declare their lanes; elsewhere Cost takes the nearest.
	Cost *costPolicy `json:"cost"`
}

type costPolicy struct {
	// So many seconds of waiting are as good as a dollar: at 36000, a call that carries 100 KiB over a way at 0.02 dollars a GiB may wait 69 ms to save it. A price never weighs more than a second, so that none makes a busy cluster refuse requests that another has room for. Default: 36000, or 3600 beside dollarsPerHour.
	SecondsPerDollar *decimal `json:"secondsPerDollar"`
	// What crossing may cost all callers of the service together, in dollars an hour. While more is spent, prices weigh more and more; what finds no room at home crosses all the same. Default: no bound.
	DollarsPerHour *decimal `json:"dollarsPerHour"`
}

// servingPlace is a region, a cluster, or a zone of one of them.
type servingPlace struct {
	// All clusters of a region.
	Region string `json:"region" is:"len=1..63"`
	// One cluster.
	Cluster string `json:"cluster" is:"label"`
	// What is in this zone of the region or cluster, as far as zones are known: of the own network.
	Zone string `json:"zone" is:"len=1..63"`
}

type weightedPlace struct {
	// All clusters of a region.
	Region string `json:"region" is:"len=1..63"`
	// One cluster. It stands before its region.
	Cluster string `json:"cluster" is:"label"`
	// What is in this zone of the region or cluster, as far as zones are known: of the own network. It stands before both.
	Zone string `json:"zone" is:"len=1..63"`
	// Its part, relative to the sum of all; 0 serves only when nothing with a weight does.
	Weight uint32 `json:"weight" is:"required 0..1000000"`
}

type loadBalancing struct {
	// PeakEWMA takes the better of two by latency and requests in flight; LeastRequest by requests in flight alone; RoundRobin and Random look at neither; ConsistentHash sends equal keys to the same endpoint, for caches. Default: PeakEWMA.
	Algorithm string `json:"algorithm" is:"enum=PeakEWMA|LeastRequest|RoundRobin|Random|ConsistentHash"`
	// With algorithm ConsistentHash, and required there.
	ConsistentHash *consistentHash `json:"consistentHash"`
	// How long an endpoint that is new, or came back, takes to grow from a tenth to its whole share. Use it for servers that begin with cold caches; 0s takes a wider policy's away. Default: none.
	Warmup string `json:"warmup" is:"duration"`
}

type consistentHash struct {
	// Maglev spreads keys the most evenly; Ring moves the fewest when endpoints change. Default: Maglev.
	Table string `json:"table" is:"enum=Maglev|Ring"`
	// What is hashed: the first of these that a request bears. A request that bears none is balanced as by PeakEWMA.
	Keys []hashKey `json:"keys" is:"required items=1..8"`
}

// hashKey has one member.
type hashKey struct {
	// The value of a header.
	Header string `json:"header" is:"headername len=1..256"`
	// The value of a cookie.
	Cookie string `json:"cookie" is:"headername len=1..256"`
	// The value of a query parameter.
	Query string `json:"query" is:"len=1..256"`
	// The identity and address of the caller; every request bears it.
	Source bool `json:"source"`
}

type retryPolicy struct {
	// How many retries a request may have; 0 is none. Default: 2.
	Attempts *int `json:"attempts" is:"0..10"`
	// What is tried again: reset (the connection broke before an answer), timeout (of one try), 5xx, gateway-error (502, 503, 504), a status, or of gRPC, whatever the method: cancelled, deadline-exceeded, resource-exhausted, internal, unavailable. Taken together with anyMethod from one policy. Default: reset, timeout and gateway-error.
	Conditions []retryOn `json:"conditions" is:"items=1..32"` // not on: to YAML 1.1 an unquoted on is a boolean
	// Retries methods that are not idempotent too. Only for services where doing it twice does no harm. Default: false.
	AnyMethod bool `json:"anyMethod"`
	// The pause before the first retry, doubled with jitter for each further one; 0s is none. Default: none.
	Backoff string `json:"backoff" is:"duration"`
	// Keeps retries from turning an overload into an outage.
	Budget struct {
		// So many percent of requests may be retries. Default: 20.
		Percent int `json:"percent" is:"1..100"`
		// So many may be saved up while all goes well. Default: 100.
		Burst int `json:"burst" is:"1..100000"`
	} `json:"budget"`
}

type outlierDetection struct {
	// So many failures in a row that were never executed (refused, unreachable, no TLS) take an endpoint out. A timeout or a refusal for load never does: overload must not look like death. Default: 3.
	ConsecutiveFailures int `json:"consecutiveFailures" is:"1..1000"`
	// For how long the first time; each further time is twice as long. Then it is probed, and once it has answered one request tries it. Default: 1s.
	BaseEjection string `json:"baseEjection" is:"duration"`
	// At most for how long. Default: 30s.
	MaxEjection string `json:"maxEjection" is:"duration"`
	// At most so many percent of a cluster's endpoints are out; beyond it all are used, for then the cause lies elsewhere. Default: 50.
	MaxEjectedPercent int `json:"maxEjectedPercent" is:"1..100"`
	// Takes out an endpoint whose success rate lies so many standard deviations below the mean of its cluster's; 0 never does. Default: 1.9.
	SuccessRateStdev *decimal `json:"successRateStdev"`
}

// healthCheck has one of http, grpc and tcp.
type healthCheck struct {
	// Asks by a GET.
	HTTP *struct {
		// What is asked for. Default: /.
		Path string `json:"path" is:"len=1..1024"`
		// The Host of the question. Default: the address of the application.
		Host string `json:"host" is:"host"`
		// What is healthy: statuses, or ranges such as 200-299. Default: 200-399.
		Statuses []statusRange `json:"statuses" is:"items=1..16"`
	} `json:"http"`
	// Asks by grpc.health.v1.Health/Check.
	GRPC *struct {
		// The service that is asked about. Default: the server as a whole.
		Service string `json:"service" is:"len=1..256"`
	} `json:"grpc"`
	// Opens a connection and closes it.
	TCP *struct{} `json:"tcp"`
	// The application's port. Default: the target of the service's first port.
	Port uint16 `json:"port" is:"1..65535"`
	// From one question to the next. Default: 5s.
	Interval string `json:"interval" is:"duration"`
	// An answer that takes longer is a no; at most interval. Default: 1s.
	Timeout string `json:"timeout" is:"duration"`
	// So many good answers in a row bring it back. Default: 2.
	Healthy int `json:"healthy" is:"1..100"`
	// So many bad answers in a row take it out. Default: 3.
	Unhealthy int `json:"unhealthy" is:"1..100"`
}

type limits struct {
	// Connections of TCP that one client proxy holds to the service. Default: none.
	Connections *int `json:"connections" is:"0..1000000"`
	// Requests that wait in a client proxy for a connection; one more is refused at once. Default: none.
	PendingRequests *int `json:"pendingRequests" is:"0..1000000"`
	// Requests of one client proxy in flight; one more is refused at once, before it can wait for what will not come (circuit breaking). Default: none.
	Requests *int `json:"requests" is:"0..1000000"`
	// Requests that one server proxy lets into its application at a time. Set it to what the application can do at once. Default: none.
	Concurrency *int `json:"concurrency" is:"0..1000000"`
	// Size of a request's head. The proxy's own limit of 64 KiB holds besides. Default: none.
	RequestHeadBytes *int `json:"requestHeadBytes" is:"0..1048576"`
	// Size of an answer's head. Default: none.
	ResponseHeadBytes *int `json:"responseHeadBytes" is:"0..1048576"`
	// Size of a request's body. Default: none.
	RequestBodyBytes *int64 `json:"requestBodyBytes" is:"0..1099511627776"`
	// Size of an answer's body. Default: none.
	ResponseBodyBytes *int64 `json:"responseBodyBytes" is:"0..1099511627776"`
	// The largest request body that is kept for another try; a request with a larger one is tried once. Default: 65536.
	ReplayBodyBytes *int `json:"replayBodyBytes" is:"1..16777216"`
}

type admission struct {
	// Adaptive lets into the application what can be answered in time: a request that would wait there for longer than it may by its criticality (the header isthmus-criticality), or than until its deadline, is refused at once as overloaded and never executed, and served elsewhere within the retry budget. How many requests the application can work on is what its Workload declares as lanes, else learnt from how long requests take. Use it for every service that more may be asked of than it can do; None takes a wider policy's away. Default: None.
	Mode string `json:"mode" is:"enum=Adaptive|None"`
	// How long a request of usual criticality may wait in the application; sheddable ones half of it, critical-plus four times as long. Default: 150ms, or as long as a request takes if that is longer.
	MaxWait string `json:"maxWait" is:"duration"`
}

// fallback has one of static, service, cache and none.
type fallback struct {
	// The failures that it is for: no-endpoint (nobody can be reached, or may be by law), overloaded (shed, or beyond limits), timeout, reset (the connection broke before an answer), 5xx, gateway-error (502, 503, 504), or a status from 500, of the application or of a proxy. What a policy denies is never among them. Default: no-endpoint, overloaded, timeout, 503 and 504.
	Conditions []fallbackOn `json:"conditions" is:"items=1..16"`
	// Answers methods too that are not safe. A static answer then tells the client of a POST something of a request that nobody executed, and another service may do what the first one did as well: only where that is what the client should hear. With cache it does nothing and is refused. Default: false, only GET, HEAD and OPTIONS.
	AnyMethod bool `json:"anyMethod"`
	// The same answer always. Use it where an empty list, a default price or a page of regret is better than an error.
	Static *staticAnswer `json:"static"`
	// Another service is asked, once; its own policies, access rules and residency hold, and its own fallback is not looked at. Its answer is passed on whatever it is. In another namespace it needs a ReferenceGrant there, from TrafficPolicy of group isthmus.dev. Use it for a simpler service that does the same.
	Service *fallbackService `json:"service"`
	// What the service answered before, as caches that are shared may keep it (RFC 9111): to GET and HEAD, with status 200, and where the answer says that it may be cached and is for everybody. Each proxy keeps 16 MiB at most, of all services, and no answer above 1 MiB. Use it for what is read often and may be old.
	Cache *staleCache `json:"cache"`
	// Takes a wider policy's away.
	None bool `json:"none"`
}

type staticAnswer struct {
	// Its status. Default: 200.
	Status int `json:"status" is:"200..599"`
	// What the body is. Default: text/plain; charset=utf-8 where there is a body.
	ContentType string `json:"contentType" is:"len=1..256"`
	// More fields, each by name and value.
	Headers []answerField `json:"headers" is:"items=0..16 unlike=name"`
	// The body. Default: none.
	Body string `json:"body" is:"len=0..65536"`
}

type answerField struct {
	// What it is called.
	Name string `json:"name" is:"required headername"`
	// What it says.
	Value string `json:"value" is:"required len=1..4096"`
}

type fallbackService struct {
	// The API group: multicluster.x-k8s.io of a ServiceImport. Default: that of Service, which is empty.
	Group *string `json:"group" is:"group"`
	// Service or ServiceImport. Default: Service.
	Kind *string `json:"kind" is:"kind"`
	// What it is called.
	Name string `json:"name" is:"required label"`
	// Where it is. Default: the namespace of the policy.
	Namespace *string `json:"namespace" is:"label"`
	// Its port, which speaks HTTP; required of a Service. Default: the port that was asked for.
	Port *int32 `json:"port" is:"1..65535"`
}

type staleCache struct {
	// How long after its freshness has ended an answer may be given; less where it says so itself (stale-if-error, RFC 5861), and never where it forbids that (must-revalidate, proxy-revalidate, s-maxage). Default: 1h.
	MaxStale string `json:"maxStale" is:"duration"`
}

type rateLimit struct {
	// Shown with a refusal.
	Name string `json:"name" is:"required label"`
	// So many requests are admitted in each span of per.
	Requests int `json:"requests" is:"required 1..10000000"`
	// The span of time. Default: 1s.
	Per string `json:"per" is:"duration"`
	// So many may come at once. Default: the value of requests.
	Burst int `json:"burst" is:"1..10000000"`
	// What tells callers apart; each combination of values has a limit of its own. Default: one limit for all.
	Keys []rateKey `json:"keys" is:"items=0..4"`
	// Which requests count. Default: all.
	Match requestMatch `json:"match"`
}

// rateKey has one member.
type rateKey struct {
	// The caller's whole identity.
	Identity bool `json:"identity"`
	// The caller's namespace.
	Namespace bool `json:"namespace"`
	// The caller's cluster.
	Cluster bool `json:"cluster"`
	// The value of a header. A caller chooses it: it tells tenants of one trusted caller apart, not strangers.
	Header string `json:"header" is:"headername len=1..256"`
}

// requestMatch takes a request that has one of each list that is not empty, and all headers.
type requestMatch struct {
	// One of these methods.
	Methods []string `json:"methods" is:"items=0..16 headername unique=."`
	// One of these paths; a * at the end stands for any rest.
	Paths []string `json:"paths" is:"items=0..64 len=1..1024 unique=."`
	// All of these headers, each by name, value and type, Exact or RegularExpression.
	Headers []valueMatch `json:"headers" is:"items=0..16 unlike=name"`
}

// faultPolicy makes requests fail on purpose, at the proxy of the caller, to see what callers do
// then. The faults of all policies that reach a service apply, in the order of the policies'
// names; delays add up, the first abort that is drawn ends a request, the narrowest bandwidth holds. A fault never applies to what no policy
// names: an unknown field is refused, for it might be what narrows one.
type faultPolicy struct {
	header `json:",inline"`
	Spec   struct {
		// Whose requests fail: Services or ServiceImports of the policy's namespace, its Namespace, or the Mesh.
		TargetRefs []targetRef `json:"targetRefs" is:"required items=1..16"`
		// The faults. Each has at least one of delay, abort and bandwidth.
		Faults []fault `json:"faults" is:"required items=1..32"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type fault struct {
	// Which requests. Name a header that only tests send to keep everybody else unharmed. Default: all.
	Match requestMatch `json:"match"`
	// Which callers, as in an AccessPolicy. Default: all.
	From []accessSource `json:"from" is:"items=0..256"`
	// Makes requests wait.
	Delay *struct {
		// How long.
		Duration string `json:"duration" is:"required duration"`
		// Up to so much longer, drawn for each request. Default: 0s.
		Jitter string `json:"jitter" is:"duration"`
		// Of so many requests, in steps of 0.001. Default: 100.
		Percent *decimal `json:"percent"`
	} `json:"delay"`
	// Answers instead of the service. One of status and grpcStatus, or both.
	Abort *struct {
		// The status of HTTP. Default: what the status of gRPC maps to.
		Status int `json:"status" is:"400..599"`
		// The status that calls of gRPC get, a number or a name such as UNAVAILABLE. Default: what the status of HTTP maps to.
		GRPCStatus grpcStatus `json:"grpcStatus"`
		// Of so many requests, in steps of 0.001. Default: 100.
		Percent *decimal `json:"percent"`
	} `json:"abort"`
	// Makes bodies slow, both ways.
	Bandwidth *struct {
		// Bytes a second, each way.
		BytesPerSecond int64 `json:"bytesPerSecond" is:"required 1..1099511627776"`
		// Of so many requests, in steps of 0.001. Default: 100.
		Percent *decimal `json:"percent"`
	} `json:"bandwidth"`
}

// telemetryPolicy says what the proxies of a namespace, or of the mesh, report of requests.
// Metrics are always counted. Where both reach a proxy, each field is taken from the policy of
// its namespace if that states it.
type telemetryPolicy struct {
	header `json:",inline"`
	Spec   struct {
		// Whose proxies: the policy's Namespace, or the Mesh.
		TargetRefs []targetRef `json:"targetRefs" is:"required items=1..16"`
		// What is logged. Requests that were refused or failed always are, unless format is None.
		AccessLog struct {
			// One line for a request, as JSON or as text; None logs nothing. Default: JSON.
			Format string `json:"format" is:"enum=JSON|Text|None"`
			// So many percent of what went well, in steps of 0.001. Default: 0.
			SamplePercent *decimal `json:"samplePercent"`
		} `json:"accessLog"`
		// What is traced. A request that bears a trace context (W3C traceparent) keeps the decision of whoever began it.
		Tracing struct {
			// So many percent of requests without a context begin a trace, in steps of 0.001. Default: 1.
			SamplePercent *decimal `json:"samplePercent"`
		} `json:"tracing"`
		// Where spans and logs are sent.
		OTLP struct {
			// HOST:PORT of a collector that takes OTLP over gRPC; none takes a wider policy's away. Default: nothing is sent.
			Endpoint string `json:"endpoint" is:"len=1..261"`
		} `json:"otlp"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

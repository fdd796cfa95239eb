package mesh

import "time"

// Route is a Gateway API route in normal form: HTTPRoute, GRPCRoute, TLSRoute,
// TCPRoute or UDPRoute. Defaults of the API are filled in; what the mesh does not act on has been
// refused or warned of when it was parsed.
type Route struct {
	Kind            string // "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"
	Namespace, Name string
	Parents         []ParentRef
	Hostnames       []string
	Rules           []RouteRule
	// Created breaks ties between routes (Gateway API: the oldest wins).
	Created time.Time
}

// ParentRef is what a route attaches to.
type ParentRef struct {
	Kind            string // "Service", "ServiceImport", "Gateway"; GROUP/KIND of what resolves to nothing
	Namespace, Name string
	Port            uint16 // 0 is every port
	SectionName     string
}

// RouteRule is one rule of a route: any of Matches selects it; no match at all
// selects every request.
type RouteRule struct {
	Name     string
	Matches  []RouteMatch
	Filters  []RouteFilter
	Backends []RouteBackend
	// RequestTimeout bounds the whole request, TryTimeout each try; 0 is unset, and a
	// negative value is "no timeout" as the API's "0s" means.
	RequestTimeout, TryTimeout time.Duration
	Retry                      *RouteRetry
	// Affinity of the rule takes the place of the traffic policy's (GEP-1619).
	Affinity *Affinity
}

// PathMatchType says how a path is compared.
type PathMatchType string

// The ways a path is compared (Gateway API HTTPPathMatch).
const (
	PathPrefix PathMatchType = "PathPrefix"
	PathExact  PathMatchType = "Exact"
	PathRegex  PathMatchType = "RegularExpression"
)

// RouteMatch selects requests: all its parts must hold.
type RouteMatch struct {
	PathType PathMatchType // empty: every path
	Path     string
	Method   string // empty: every method
	Headers  []ValueMatch
	Query    []ValueMatch
}

// ValueMatch compares a header or a query parameter.
type ValueMatch struct {
	Name  string // header names in lower case
	Value string
	Regex bool
}

// FilterKind says what a filter does.
type FilterKind string

// The filters a route may carry.
const (
	FilterRequestHeaders  FilterKind = "RequestHeaderModifier"
	FilterResponseHeaders FilterKind = "ResponseHeaderModifier"
	FilterRedirect        FilterKind = "RequestRedirect"
	FilterRewrite         FilterKind = "URLRewrite"
	FilterMirror          FilterKind = "RequestMirror"
	FilterCORS            FilterKind = "CORS"
)

// RouteFilter changes a request or response on its way. Only the fields of its kind
// are set.
type RouteFilter struct {
	Kind     FilterKind
	Set, Add []HeaderValue
	Remove   []string
	// Redirect and rewrite.
	Scheme, Hostname string
	Port             uint16
	PathType         string // "", "ReplaceFullPath", "ReplacePrefixMatch"
	Path             string
	StatusCode       int
	// Mirror.
	Backend *RouteBackend
	// MirrorPerMille of requests are copied.
	MirrorPerMille int
	CORS           *CORS
}

// CORS is what a browser on another origin may do (Gateway API HTTPCORSFilter; Fetch standard
// §3.2). A "*" alone in a list is every value.
type CORS struct {
	AllowOrigins                              []string // may have a * in place of the first labels of the host
	AllowCredentials                          bool
	AllowMethods, AllowHeaders, ExposeHeaders []string
	MaxAge                                    time.Duration
}

// HeaderValue is a header to set or add; the name is in lower case.
type HeaderValue struct{ Name, Value string }

// RouteBackend is one choice of a rule.
type RouteBackend struct {
	Kind    string // "Service" or "ServiceImport"; GROUP/KIND of what resolves to nothing
	Service ServiceName
	Port    uint16
	Weight  int32
	Filters []RouteFilter
}

// RouteRetry is Gateway API's retry stanza (GEP-1731).
type RouteRetry struct {
	Codes    []int
	Attempts int
	Backoff  time.Duration
}

// ReferenceGrant lets objects of one namespace name objects of another.
type ReferenceGrant struct {
	Namespace, Name string
	From            []GrantFrom
	To              []GrantTo
}

// GrantFrom is who may refer.
type GrantFrom struct{ Group, Kind, Namespace string }

// GrantTo is what may be referred to; an empty Name is every name.
type GrantTo struct{ Group, Kind, Name string }

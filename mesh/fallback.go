package mesh

import "time"

// Fallback says what answers in the place of a service that cannot: one of Static, Service and Cache, as its caller's proxy
// gives it. One that is none of them answers nothing.
type Fallback struct {
	// On lists the failures that it is for: "no-endpoint", "overloaded", "timeout", "reset", "5xx", "gateway-error", or a
	// status from 500 to 599; empty is what DefaultFallbackOn lists. What a policy denies is never among them.
	On []string
	// AnyMethod says that it is for methods too that are not safe (RFC 9110 §9.2.1), other than Cache's, which is for GET
	// and HEAD.
	AnyMethod bool
	Static    *StaticAnswer
	Service   *FallbackService
	Cache     *StaleCache
}

// Kinds of fallbacks, as answers and records name them.
const (
	FallbackStatic = "static"
	FallbackOther  = "service"
	FallbackCache  = "cache"
)

// Kind is which of the three it is; "" is none.
func (f *Fallback) Kind() string {
	switch {
	case f == nil:
	case f.Static != nil:
		return FallbackStatic
	case f.Service != nil:
		return FallbackOther
	case f.Cache != nil:
		return FallbackCache
	}
	return ""
}

// StaticAnswer is an answer that is always the same.
type StaticAnswer struct {
	Status int
	// ContentType is "" where there is no body.
	ContentType string
	// Headers in lower case.
	Headers []HeaderValue
	// Body has MaxStaticBody bytes at most.
	Body string
}

// FallbackService is another service that is asked instead, once: its own fallback is not looked at.
type FallbackService struct {
	Kind    string // "Service" or "ServiceImport"
	Service ServiceName
	Port    uint16 // 0 is the port that was asked for
}

// StaleCache answers with what the service answered before.
type StaleCache struct {
	// MaxStale bounds how long after its freshness has ended (RFC 9111 §4.2) an answer is given.
	MaxStale time.Duration
}

// DefaultFallbackOn lists what a fallback is for that does not say it.
func DefaultFallbackOn() []string {
	return []string{"no-endpoint", "overloaded", "timeout", "503", "504"}
}

const (
	// MaxStaticBody is the largest body of a StaticAnswer, in bytes.
	MaxStaticBody = 64 << 10
	// DefaultMaxStale is a StaleCache's MaxStale where no policy says.
	DefaultMaxStale = time.Hour
)

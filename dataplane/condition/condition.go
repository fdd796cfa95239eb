// Package condition is how policies name the ways in which a request ends: by words, by statuses of HTTP, by those of gRPC.
// Its one idea is that a list of such words becomes a set once, when a configuration comes, and is looked up by each request
// without a comparison of text.
//
// It decides nothing: what is done in which case is dataplane/proxy's (retries) and dataplane/fallback's. Read Set first.
package condition

import (
	"fmt"
	"strconv"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Set is what a policy names. The zero Set names nothing; one is immutable once made.
type Set struct {
	// Reset and Timeout are of the words that need no status, for an answer that never came.
	Reset, Timeout bool
	// noEndpoint and overloaded are those of fallbacks.
	noEndpoint, overloaded bool
	statuses               [10]uint64 // a bit for each status below 640
	grpc                   uint32     // a bit for each status of gRPC
}

// grpc are the statuses of gRPC that a policy may name. They are told by an answer that is a head and nothing more; one in
// trailers comes too late.
var grpc = map[string]int{"cancelled": 1, "deadline-exceeded": message.GRPCDeadlineExceeded, "resource-exhausted": message.GRPCResourceExhausted,
	"internal": message.GRPCInternal, "unavailable": message.GRPCUnavailable}

// Retry reads what is tried again (mesh.RetryPolicy.On). What this version does not know is an error.
func Retry(on []string) (Set, error) {
	var s Set
	if len(on) == 0 {
		on = []string{"reset", "timeout", "gateway-error"}
	}
	for _, word := range on {
		if code, ok := grpc[word]; ok {
			s.grpc |= 1 << code
		} else if !s.add(word, 100) {
			return s, fmt.Errorf("retry on %q: it is not understood", word)
		}
	}
	return s, nil
}

// Fallback reads what a fallback is for (mesh.Fallback.On). What this version does not know is left out: whoever fails then
// as without a fallback is told the truth.
func Fallback(on []string) Set {
	var s Set
	for _, word := range on {
		switch word {
		case "no-endpoint":
			s.noEndpoint = true
		case "overloaded":
			s.overloaded = true
		default:
			s.add(word, 500)
		}
	}
	return s
}

// add takes one word, or a status of at least low; false if it is neither.
func (s *Set) add(word string, low int) bool {
	switch word {
	case "reset":
		s.Reset = true
	case "timeout":
		s.Timeout = true
	case "gateway-error":
		s.span(502, 504)
	case "5xx":
		s.span(500, 599)
	default:
		status, err := strconv.Atoi(word)
		if err != nil || status < low || status > 599 {
			return false
		}
		s.span(status, status)
	}
	return true
}

func (s *Set) span(first, last int) {
	for n := first; n <= last; n++ {
		s.statuses[n>>6] |= 1 << (n & 63)
	}
}

// Status reports whether a status is named.
func (s *Set) Status(status int) bool {
	return status > 0 && status < 600 && s.statuses[status>>6]&(1<<(status&63)) != 0
}

// GRPC reports whether an answer bears a status of gRPC that is named.
func (s *Set) GRPC(answer *message.Head) bool {
	if s.grpc == 0 {
		return false
	}
	code, err := strconv.ParseUint(string(answer.Get("grpc-status")), 10, 5)
	return err == nil && s.grpc&(1<<code) != 0
}

// Failed reports whether a failure is named: by its status, or by the reason that a proxy gives for it, if one does. What a
// policy denies has a status that no set of fallbacks can name.
func (s *Set) Failed(status int, reason mesh.Reason) bool {
	switch {
	case s.Status(status):
		return true
	case reason == mesh.ReasonNone:
		return false
	case reason == mesh.ReasonOverloaded:
		return s.overloaded
	case reason == mesh.ReasonTimeout, reason == mesh.ReasonTryTimeout:
		return s.Timeout && status == 504 // 408 is of a client that was late
	case reason == mesh.ReasonReset, reason == mesh.ReasonProtocol:
		return s.Reset
	case reason == mesh.ReasonFaultInjected, reason == mesh.ReasonClientGone:
		return false // as what it imitates: by its status; and of who is gone nobody waits
	}
	return s.noEndpoint && status == 503
}

package condition

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// named are the statuses that a set names, as ranges: "502-504".
func named(s *Set) string {
	var out []string
	for from := -1; from < 1000; from++ {
		if !s.Status(from) {
			continue
		}
		to := from
		for s.Status(to + 1) {
			to++
		}
		out = append(out, strings.TrimSuffix(fmt.Sprintf("%d-%d", from, to), fmt.Sprintf("%d-%d", to, to)))
		if from == to {
			out[len(out)-1] = fmt.Sprint(to)
		}
		from = to
	}
	return strings.Join(out, " ")
}

// TestWhatIsTriedAgain: each word names what it says and nothing else, and none leaves anything out that another named.
func TestWhatIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		on             []string
		statuses       string
		reset, timeout bool
	}{
		{nil, "502-504", true, true},
		{[]string{}, "502-504", true, true},
		{[]string{"reset"}, "", true, false},
		{[]string{"timeout"}, "", false, true},
		{[]string{"gateway-error"}, "502-504", false, false},
		{[]string{"5xx"}, "500-599", false, false},
		{[]string{"100"}, "100", false, false},
		{[]string{"429", "599", "409"}, "409 429 599", false, false},
		{[]string{"5xx", "429", "reset", "reset"}, "429 500-599", true, false},
		{[]string{"unavailable"}, "", false, false},
	} {
		s, err := Retry(c.on)
		if got := named(&s); err != nil || got != c.statuses || s.Reset != c.reset || s.Timeout != c.timeout {
			t.Errorf("%q: statuses %q, reset %v, timeout %v, %v; want %q, %v, %v", c.on, got, s.Reset, s.Timeout, err, c.statuses, c.reset, c.timeout)
		}
	}
}

// TestARetryThatIsNotUnderstood is refused with its word: what a later version means by it is not guessed.
func TestARetryThatIsNotUnderstood(t *testing.T) {
	for _, word := range []string{"", "4xx", "no-endpoint", "overloaded", "99", "600", "-503", "503 ", "1e2", "Reset", "ok", "unknown", "99999999999999999999"} {
		if _, err := Retry([]string{"reset", word}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", word)) {
			t.Errorf("%q: %v", word, err)
		}
	}
}

// TestStatusesOfGRPC: those that are named, in a head that bears one of gRPC's numbers.
func TestStatusesOfGRPC(t *testing.T) {
	for word, code := range map[string]int{"cancelled": 1, "deadline-exceeded": 4, "resource-exhausted": 8, "internal": 13, "unavailable": 14} {
		s, err := Retry([]string{word})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 40 {
			if got := s.GRPC(answered(fmt.Sprint(n))); got != (n == code) {
				t.Errorf("%s: status %d is named: %v", word, n, got)
			}
		}
		for _, v := range []string{"", "-1", "+14", "14x", "0x0e", "4294967310", "٤"} {
			if s.GRPC(answered(v)) {
				t.Errorf("%s: %q is named", word, v)
			}
		}
		if s.GRPC(&message.Head{Status: 200}) {
			t.Errorf("%s: an answer without a status of gRPC is named", word)
		}
	}
	s, _ := Retry(nil)
	if s.GRPC(answered("14")) {
		t.Error("by default gRPC's unavailable is tried again")
	}
}

func answered(status string) *message.Head {
	return &message.Head{Status: 200, Fields: []message.Field{{Name: []byte("grpc-status"), Value: []byte(status)}}}
}

// all are the reasons of a proxy, with the status that goes with each.
var all = []mesh.Reason{mesh.ReasonNone, mesh.ReasonMalformed, mesh.ReasonUnknownHost, mesh.ReasonNoRoute, mesh.ReasonNoBackend, mesh.ReasonNoEndpoint, mesh.ReasonResidency,
	mesh.ReasonStale, mesh.ReasonUnreachable, mesh.ReasonConnectTimeout, mesh.ReasonTLS, mesh.ReasonReset, mesh.ReasonTimeout, mesh.ReasonTryTimeout, mesh.ReasonDenied,
	mesh.ReasonPolicyInvalid, mesh.ReasonMisdirected, mesh.ReasonAppUnreachable, mesh.ReasonOverloaded, mesh.ReasonNotReady, mesh.ReasonBodyTooLarge, mesh.ReasonOwnFault,
	mesh.ReasonClientGone, mesh.ReasonDraining, mesh.ReasonProtocol, mesh.ReasonFaultInjected, mesh.ReasonRateLimited, mesh.ReasonPolicyUnsupported}

// TestWhatAFallbackIsFor: of all reasons, each with its status, those for which a fallback answers that names one word.
func TestWhatAFallbackIsFor(t *testing.T) {
	noWay := []mesh.Reason{mesh.ReasonNoEndpoint, mesh.ReasonResidency, mesh.ReasonStale, mesh.ReasonUnreachable, mesh.ReasonConnectTimeout, mesh.ReasonTLS, mesh.ReasonAppUnreachable,
		mesh.ReasonNotReady, mesh.ReasonOwnFault, mesh.ReasonDraining}
	for word, want := range map[string][]mesh.Reason{
		"no-endpoint":   noWay,
		"overloaded":    {mesh.ReasonOverloaded},
		"timeout":       {mesh.ReasonTimeout, mesh.ReasonTryTimeout},
		"reset":         {mesh.ReasonReset, mesh.ReasonProtocol},
		"later-version": nil,
		"429":           nil, // who asks for too much is told so
		"499":           nil,
	} {
		s := Fallback([]string{word})
		for _, r := range all {
			if r == mesh.ReasonNone {
				continue
			}
			if got := s.Failed(r.Status(), r); got != slices.Contains(want, r) {
				t.Errorf("on %s: %s with status %d is named: %v", word, r, r.Status(), got)
			}
		}
	}
}

// TestAFallbackForStatuses is for the service's own answers and for what a fault imitates alike.
func TestAFallbackForStatuses(t *testing.T) {
	s := Fallback([]string{"gateway-error", "500"})
	for status, want := range map[int]bool{0: false, 200: false, 404: false, 500: true, 501: false, 502: true, 504: true, 505: false} {
		for _, r := range []mesh.Reason{mesh.ReasonNone, mesh.ReasonFaultInjected} {
			if s.Failed(status, r) != want {
				t.Errorf("%d %q is named: %v", status, r, !want)
			}
		}
	}
	timeout := Fallback([]string{"timeout"})
	if timeout.Failed(408, mesh.ReasonTimeout) || timeout.Failed(504, mesh.ReasonNone) {
		t.Error("timeout names a client that was late, or an answer of the service's own")
	}
}

// TestADenialIsNeverMended: whatever a fallback names, what a policy denies stays denied, and so does what nobody understands.
func TestADenialIsNeverMended(t *testing.T) {
	words := []string{"no-endpoint", "overloaded", "timeout", "reset", "gateway-error", "5xx", "403", "401", "421", "unavailable", "*"}
	rapid.Check(t, func(t *rapid.T) {
		on := rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(words), rapid.String(), rapid.Map(rapid.IntRange(-10, 700), func(n int) string { return fmt.Sprint(n) }))).Draw(t, "on")
		s := Fallback(on)
		for _, r := range []mesh.Reason{mesh.ReasonDenied, mesh.ReasonPolicyInvalid, mesh.ReasonPolicyUnsupported, mesh.ReasonRateLimited, mesh.ReasonMalformed, mesh.ReasonMisdirected} {
			if s.Failed(r.Status(), r) {
				t.Fatalf("on %q: %s with status %d", on, r, r.Status())
			}
		}
		for status := range 500 {
			if s.Status(status) {
				t.Fatalf("on %q names %d", on, status)
			}
		}
	})
}

// TestStatusesAreASet: a set of statuses names exactly those of its list, in whatever order and however often.
func TestStatusesAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.IntRange(100, 599), 1, 30).Draw(t, "statuses")
		var on []string
		for _, n := range list {
			on = append(on, fmt.Sprint(n))
		}
		s, err := Retry(on)
		if err != nil {
			t.Fatal(err)
		}
		for n := -700; n < 1400; n++ {
			if s.Status(n) != slices.Contains(list, n) {
				t.Fatalf("%d of %v: %v", n, list, s.Status(n))
			}
		}
	})
}

// TestALookAllocatesNothing.
func TestALookAllocatesNothing(t *testing.T) {
	s, _ := Retry([]string{"unavailable", "5xx"})
	head := answered("14")
	if n := testing.AllocsPerRun(100, func() { s.GRPC(head); s.Status(503); s.Failed(503, mesh.ReasonNoEndpoint) }); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

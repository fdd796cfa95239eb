package http2

import (
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestMalformedRequestsAreAnswered400 has each kind of fault of RFC 9113 §8.2 and §8.3 answered before its stream is
// reset, seen by no handler, and the next request of the connection served.
func TestMalformedRequestsAreAnswered400(t *testing.T) {
	for name, lines := range map[string][]string{
		"no pseudo-fields":        {"x: y"},
		"no path":                 get[:3],
		"an upper-case name":      with(get, "X-Y: z"),
		"connection":              with(get, "connection: close"),
		"a pseudo-field too late": append([]string{"x: y"}, get...),
		"an unknown pseudo-field": append([]string{":x: y"}, get...),
		"two lengths":             with(get, "content-length: 1", "content-length: 2"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			p, _ := serverPeer(t, Config{Refused: func(fault string, h *message.Head) {
				told = append(told, fault)
				h.Add("x-request-id", "17")
			}}, func(x message.Exchange) {
				if string(x.Request().Path) != "/" || x.Request().Has("x-y") || x.Request().Has("x") {
					t.Errorf("a handler has seen %v", x.Request())
				}
				_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
			})
			p.hello(true)
			p.headers(1, true, lines...)
			got, _ := p.until("RST_STREAM 1")
			if !slices.Contains(got, "HEADERS 1 400 END") {
				t.Errorf("%q, want an answer of 400", got)
			}
			p.headers(3, true, get...)
			if got, _ := p.until("HEADERS 3"); len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "HEADERS 3 204") {
				t.Errorf("the next request: %q", got)
			}
			if len(told) != 1 || told[0] == "" {
				t.Errorf("told of %q, want one reason", told)
			}
		})
	}
}

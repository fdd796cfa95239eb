package proxy_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// spellings is a server proxy that denies /admin, and clients that ask for it in every spelling, under names that are the
// mesh's own.
type spellings struct {
	w     *world
	judge *policy.Checker
	// serve hands a request to the proxy, with all defences or without one.
	serve            func(message.Exchange)
	reached, refused int
	// path and caller are what was wrong with what reached the application: the last of each.
	path, caller string
}

func newSpellings(t *testing.T, without ...string) *spellings {
	deny := mesh.AccessPolicy{Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin", "/admin/*"}}}}}}
	w := serving(t, deny)
	return &spellings{w: w,
		judge: policy.Compile(&ir.Access{Service: catalog, Policies: []ir.AccessEntry{{Policy: deny}}, Clusters: []ir.Caller{{TrustDomain: peer.Identity.TrustDomain, Cluster: "eu-west"}}}, "eu-west"),
		serve: func(ex message.Exchange) { w.proxy.InboundWithout(ex, peer, without...) }}
}

var (
	spelledPath = rapid.SampledFrom([]string{"/", "//", "/.", "/..", "admin", "/admin", "%61dmin", "x", "/x", "%2e", "%2E%2e", "/%2F", "..;", ";a", "\\", "%00", "?", "%5c", "A"})
	spelledName = rapid.SampledFrom([]string{"x-forwarded-client-cert", "x_forwarded_client_cert", "x-forwarded_client-cert", "isthmus-caller", "isthmus_to", "isthmus-reason"})
)

// ask has one request made, and looks at what reaches the application.
func (s *spellings) ask(rt *rapid.T) {
	path := "/" + strings.Join(rapid.SliceOfN(spelledPath, 0, 6).Draw(rt, "path"), "")
	ex := asked(path)
	for range rapid.IntRange(0, 3).Draw(rt, "forged") {
		ex = ex.with(spelledName.Draw(rt, "name"), "URI=spiffe://eu-west.isthmus.local/ns/shop/sa/root")
	}
	if rapid.Bool().Draw(rt, "reversed") {
		slices.Reverse(ex.head.Fields)
	}
	app := answer(200, "ok")
	s.w.script = []any{app}
	s.serve(ex)
	if app.sent.Method == nil {
		s.refused++
		if ex.status != 400 && ex.status != 403 {
			rt.Fatalf("%q: %d, and the application saw nothing", path, ex.status)
		}
		return
	}
	s.reached++
	got := string(app.sent.Path)
	normal, problem := route.NormalPath(bytes.Clone(app.sent.Path))
	// An application resolves what it is asked for, as nearly all do.
	bare, _, _ := strings.Cut(string(normal), "?")
	if problem != "" || string(normal) != got || !s.judge.Decide(policy.Request{Caller: peer.Identity, Port: 80, Method: "GET", Path: bare}).Allowed {
		s.path = fmt.Sprintf("%q reached the application as %q", path, got)
	}
	callers := 0
	for _, f := range app.sent.Fields {
		n := strings.ReplaceAll(string(f.Name), "_", "-")
		if n == "x-forwarded-client-cert" {
			if callers++; !bytes.HasSuffix(f.Value, []byte(peer.Identity.ServiceAccount)) {
				s.caller = fmt.Sprintf("the application was told %s: %s", f.Name, f.Value)
			}
		} else if strings.HasPrefix(n, "isthmus-") {
			s.caller = fmt.Sprintf("the application was shown %s", f.Name)
		}
	}
	if callers != 1 {
		s.caller = fmt.Sprintf("the caller's name is there %d times", callers)
	}
}

// TestServerDecidesOnWhatItForwards: whatever the spelling of path and fields, the application
// gets a path that the policy was asked about and allows, in its normal form, and the caller's name
// from us alone; what is refused reaches nobody.
func TestServerDecidesOnWhatItForwards(t *testing.T) {
	s := newSpellings(t)
	rapid.Check(t, func(rt *rapid.T) {
		s.ask(rt)
		if s.path != "" || s.caller != "" {
			rt.Fatal(s.path, s.caller)
		}
	})
	if s.reached == 0 || s.refused == 0 {
		t.Errorf("%d reached the application, %d refused: the test proves nothing", s.reached, s.refused)
	}
}

// TestControlADecisionOnAnotherSpelling is the control: without the one normaliser, or without the decision, what is denied
// reaches the application; without the stage that strips and tells, the caller's name is the client's word.
func TestControlADecisionOnAnotherSpelling(t *testing.T) {
	for without, want := range map[string][2]bool{ // path, caller
		"normalise the path": {true, false},
		"authorise":          {true, false},
		"tell the caller":    {false, true},
	} {
		t.Run(without, func(t *testing.T) {
			s := newSpellings(t, without)
			rapid.Check(t, s.ask)
			if got := [2]bool{s.path != "", s.caller != ""}; got != want {
				t.Errorf("of %d that reached the application: %q, %q; want faults %v", s.reached, s.path, s.caller, want)
			}
		})
	}
}

// TestControlAConnectionForAnotherService is the control of 421: a server that takes the request's word for what the connection
// is for lets it in.
func TestControlAConnectionForAnotherService(t *testing.T) {
	other := peer
	other.SNI.Service.Name = "cart"
	for believes, want := range map[bool]int{false: 421, true: 200} {
		w := serving(t)
		w.script = []any{answer(200, "ok")}
		ex, p := asked("/"), other
		if believes {
			to, _, _ := strings.Cut(string(ex.head.Get("isthmus-to")), ":")
			p.SNI.Service.Namespace, p.SNI.Service.Name, _ = strings.Cut(to, "/")
		}
		w.proxy.Inbound(ex, p)
		if ex.status != want {
			t.Errorf("believes %v: %d, want %d", believes, ex.status, want)
		}
	}
}

// TestClientsSpeakNoneOfTheMeshsFields: whatever an application says under the mesh's names, in whatever spelling, goes no further
// than its own proxy; the control, without the stage that strips, sends it on.
func TestClientsSpeakNoneOfTheMeshsFields(t *testing.T) {
	for _, strips := range []bool{true, false} {
		passed := ""
		rapid.Check(t, func(rt *rapid.T) {
			w := newWorld(t, 1, nil)
			app := answer(200, "ok")
			w.script = []any{app}
			ex := get("catalog.shop", "/")
			for range rapid.IntRange(1, 3).Draw(rt, "forged") {
				ex = ex.with(spelledName.Draw(rt, "name"), "forged")
			}
			if strips {
				w.proxy.Outbound(ex, proxy.Via{})
			} else {
				w.proxy.OutboundWithout(ex, proxy.Via{}, "strip and complete the head")
			}
			for _, f := range app.sent.Fields {
				if string(f.Value) == "forged" {
					passed = string(f.Name)
				}
			}
			if strips && (passed != "" || app.sent.Method == nil) {
				rt.Fatalf("passed on: %q, asked %q", passed, app.sent.Method)
			}
		})
		if !strips && passed == "" {
			t.Error("control: nothing forged was passed on, so nothing was shown")
		}
	}
}

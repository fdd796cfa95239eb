package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// cookieOf asks once and returns the session that the answer sets, "" for none, and the endpoint.
func cookieOf(t *testing.T, w *world, ex *exchange, script ...any) (set string, at string) {
	t.Helper()
	if len(script) == 0 {
		script = []any{answer(200, "ok")}
	}
	w.script, w.opened = script, nil
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 200 {
		t.Fatalf("status %d: %s", ex.status, w.last.Detail)
	}
	e := w.opened[len(w.opened)-1].Endpoint
	return ex.field("set-cookie"), fmt.Sprint(e.Cluster, "/", e.Label())
}

func value(set string) string { v, _, _ := strings.Cut(set, ";"); return v }

// TestSessionsStayWithTheirEndpoint: the first answer sets a cookie that scripts and other sites
// cannot use, later requests go to the same endpoint without another one, and what is made up is as if it
// were not there.
func TestSessionsStayWithTheirEndpoint(t *testing.T) {
	w := newWorld(t, 6, func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic.Affinity = &mesh.Affinity{Kind: mesh.AffinityCookie, Name: "sid"}
	})
	set, home := cookieOf(t, w, get("catalog", "/"))
	if !strings.HasPrefix(set, "sid=") || !strings.HasSuffix(set, "; Path=/; HttpOnly; SameSite=Lax") || strings.Contains(set, "eu-west") {
		t.Fatalf("the cookie is %q", set)
	}
	for range 20 {
		again, at := cookieOf(t, w, get("catalog", "/").with("cookie", "a=b; "+value(set)+"; c=d"))
		if at != home || again != "" {
			t.Fatalf("a request of the session went to %s and was told %q; it began at %s", at, again, home)
		}
	}
	for _, bad := range []string{"sid=", "sid=eu-west/e3", value(set) + "A", "sid=" + strings.Repeat("A", 32)} {
		if again, _ := cookieOf(t, w, get("catalog", "/").with("cookie", bad)); again == "" {
			t.Errorf("cookie %q was taken for a session", bad)
		}
	}
	// The endpoint fails: the request is served elsewhere, and so is the session from then on.
	moved, away := cookieOf(t, w, get("catalog", "/").with("cookie", value(set)), errRefused, answer(200, "ok"))
	if away == home || value(moved) == value(set) || moved == "" {
		t.Errorf("with %s refusing it was served at %s and told %q", home, away, moved)
	}
}

// TestSessionsEndAndAreRemembered: by their absolute timeout, however they are used.
func TestSessionsEndAndAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.Affinity = &mesh.Affinity{Kind: mesh.AffinityCookie, Name: "sid", AbsoluteTimeout: time.Hour, Permanent: true}
		})
		set, _ := cookieOf(t, w, get("catalog", "/"))
		if !strings.HasSuffix(set, "; Max-Age=3600") {
			t.Fatalf("the cookie is %q", set)
		}
		time.Sleep(59 * time.Minute)
		if again, _ := cookieOf(t, w, get("catalog", "/").with("cookie", value(set))); again != "" {
			t.Errorf("before its time a session was told %q", again)
		}
		time.Sleep(2 * time.Minute)
		if again, _ := cookieOf(t, w, get("catalog", "/").with("cookie", value(set))); again == "" {
			t.Error("after its time a session goes on")
		}
	})
}

// TestSessionByHeader is told and borne in a field.
func TestSessionByHeader(t *testing.T) {
	w := newWorld(t, 6, func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic.Affinity = &mesh.Affinity{Kind: mesh.AffinityHeader, Name: "x-session"}
	})
	ex := get("catalog", "/")
	_, home := cookieOf(t, w, ex, answer(200, "ok").says("x-session", "the application's"))
	session := ex.field("x-session")
	for range 10 {
		ex = get("catalog", "/").with("x-session", session)
		if _, at := cookieOf(t, w, ex); at != home || ex.field("x-session") != "" {
			t.Fatalf("a request of the session went to %s and was told %q, want %s", at, ex.field("x-session"), home)
		}
	}
}

// TestResidencyOutranksSessions: a session with an endpoint that the law has come to forbid goes on
// elsewhere, under another name.
func TestResidencyOutranksSessions(t *testing.T) {
	var forbid string
	make := func() *world {
		return newWorld(t, 3, func(s *ir.Service, eps *ir.Endpoints) {
			s.Traffic.Affinity = &mesh.Affinity{Kind: mesh.AffinityCookie, Name: "sid"}
			eps.Groups = append(eps.Groups, ir.Group{Cluster: "us-east", Exported: true, Slots: []uint64{4, 4}})
			if eps.Groups[1].Forbidden = forbid; forbid == "" {
				eps.Groups[0].Forbidden = "law" // so that the session begins abroad
			}
		})
	}
	set, at := cookieOf(t, make(), get("catalog", "/"), answer(200, "ok").says("isthmus-endpoint", "b7"))
	if !strings.HasPrefix(at, "us-east") {
		t.Fatalf("the session began at %s", at)
	}
	forbid = "ResidencyPolicy shop/eu"
	w := make()
	again, at := cookieOf(t, w, get("catalog", "/").with("cookie", value(set)))
	if !strings.HasPrefix(at, "eu-west") || again == "" {
		t.Errorf("the session went to %s and was told %q, want eu-west and another name", at, again)
	}
}

// TestKeysOfConsistentHashing: the first key that a request bears decides, the same wherever it stands.
func TestKeysOfConsistentHashing(t *testing.T) {
	w := newWorld(t, 10, func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic.Balancing = mesh.Balancing{Algorithm: mesh.AlgorithmConsistentHash,
			Keys: []mesh.HashKey{{Header: "x-user"}, {Cookie: "uid"}, {Query: "u"}}}
	})
	seen := map[string]bool{}
	for user := range 30 {
		name := fmt.Sprint("user-", user)
		_, at := cookieOf(t, w, get("catalog", "/").with("x-user", name))
		seen[at] = true
		for _, ex := range []*exchange{get("catalog", "/?u=other").with("x-user", name), get("catalog", "/").with("cookie", "x=y; uid="+name), get("catalog", "/a?x=1&u="+name)} {
			if _, also := cookieOf(t, w, ex); also != at {
				t.Fatalf("%s went to %s and to %s", name, at, also)
			}
		}
	}
	if len(seen) < 7 {
		t.Errorf("30 users are spread over %d of 10 endpoints", len(seen))
	}
	plain := map[string]bool{}
	for range 100 {
		_, at := cookieOf(t, w, get("catalog", "/"))
		plain[at] = true
	}
	if len(plain) < 5 {
		t.Errorf("100 requests without a key went to %d of 10 endpoints", len(plain))
	}
}

// TestServerProxiesSayWhoTheyAre, to client proxies only.
func TestServerProxiesSayWhoTheyAre(t *testing.T) {
	w := newWorld(t, 0, func(_ *ir.Service, eps *ir.Endpoints) {
		eps.Groups = []ir.Group{{Cluster: "us-east", Exported: true, Slots: []uint64{1}}}
	})
	ex := get("catalog", "/")
	if _, at := cookieOf(t, w, ex, answer(200, "ok").says("isthmus-endpoint", "b7").says("isthmus-load", "12 3000")); at != "us-east/slot 0" {
		t.Fatalf("it went to %s", at)
	}
	if len(ex.fields) != 0 || w.last.Endpoint != "b7" {
		t.Errorf("the application was shown %q; the record names endpoint %q, want b7", ex.fields, w.last.Endpoint)
	}
	if n := w.opened[0].Endpoint.Stats(time.Now().UnixNano()).Reported; n != 12 {
		t.Errorf("the report of 12 requests in flight was taken as %d", n)
	}
	s := serving(t)
	s.cfg.Tag = "c9"
	s.proxy = proxy.New(s.cfg)
	s.script = []any{answer(200, "ok").says("isthmus-endpoint", "an application's word")}
	in := asked("/")
	s.proxy.Inbound(in, peer)
	if in.field("isthmus-endpoint") != "c9" || !strings.HasPrefix(in.field("isthmus-load"), "0 ") {
		t.Errorf("the client proxy is told %q", in.fields)
	}
}

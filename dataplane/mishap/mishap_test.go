package mishap

import (
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// asks is a request with a field x-user, if user is not "".
func asks(method, path, user string) *route.Ask {
	h := &message.Head{Method: []byte(method), Path: []byte(path)}
	if user != "" {
		h.Fields = []message.Field{{Name: []byte("x-user"), Value: []byte(user)}}
	}
	return &route.Ask{Head: h}
}

// web is the caller: a workload of eu-west, which is in EU.
var (
	web      = &ir.Proxy{Identity: mesh.Identity{TrustDomain: "eu-west.local", Namespace: "shop", ServiceAccount: "web"}, Locality: mesh.Locality{Cluster: "eu-west"}}
	clusters = map[mesh.ClusterName]*ir.Cluster{"eu-west": {Name: "eu-west", Jurisdiction: "EU"}}
)

func compiled(t interface{ Fatal(...any) }, f mesh.Fault) *Fault {
	all, err := New([]ir.Fault{{Object: "FaultPolicy shop/test@eu-west", Fault: f}})
	if err != nil || len(all) != 1 || all[0].Object != "FaultPolicy shop/test@eu-west" {
		t.Fatal(all, err)
	}
	return &all[0]
}

// TestOfWhichRequestsAFaultSpeaks: all parts of a match must hold, and so must one of the sources.
func TestOfWhichRequestsAFaultSpeaks(t *testing.T) {
	methods := func(m ...string) mesh.Fault { return mesh.Fault{Match: mesh.RequestMatch{Methods: m}} }
	paths := func(p ...string) mesh.Fault { return mesh.Fault{Match: mesh.RequestMatch{Paths: p}} }
	from := func(s ...mesh.AccessSource) mesh.Fault { return mesh.Fault{Sources: s} }
	user := mesh.Fault{Match: mesh.RequestMatch{Headers: []mesh.ValueMatch{{Name: "x-user", Value: "t.*", Regex: true}}}}
	both := user
	both.Match.Methods = []string{"POST"}
	for name, c := range map[string]struct {
		f    mesh.Fault
		ask  *route.Ask
		want bool
	}{
		"of all":                        {mesh.Fault{}, asks("GET", "/", ""), true},
		"of a method":                   {methods("PUT", "POST"), asks("POST", "/", ""), true},
		"of another method":             {methods("PUT", "POST"), asks("GET", "/", ""), false},
		"methods are what they are":     {methods("POST"), asks("post", "/", ""), false},
		"of a path":                     {paths("/a"), asks("GET", "/a?q=/b", ""), true},
		"of what is below":              {paths("/b", "/a/*"), asks("GET", "/a/c/d", ""), true},
		"of another path":               {paths("/a/*"), asks("GET", "/ab", ""), false},
		"a query is no path":            {paths("/a*"), asks("GET", "/?/a", ""), false},
		"of a user":                     {user, asks("GET", "/", "test"), true},
		"of another user":               {user, asks("GET", "/", "a test"), false},
		"of no user":                    {user, asks("GET", "/", ""), false},
		"of both":                       {both, asks("POST", "/", "test"), true},
		"of one of two":                 {both, asks("GET", "/", "test"), false},
		"of the other of two":           {both, asks("POST", "/", "me"), false},
		"of a namespace":                {from(mesh.AccessSource{Namespaces: []string{"shop"}}), asks("GET", "/", ""), true},
		"of one of the sources":         {from(mesh.AccessSource{Namespaces: []string{"bank"}}, mesh.AccessSource{ServiceAccounts: []string{"web"}}), asks("GET", "/", ""), true},
		"of none":                       {from(mesh.AccessSource{Namespaces: []string{"bank"}}), asks("GET", "/", ""), false},
		"of a cluster":                  {from(mesh.AccessSource{Clusters: []mesh.ClusterName{"eu-west"}}), asks("GET", "/", ""), true},
		"of another cluster":            {from(mesh.AccessSource{Clusters: []mesh.ClusterName{"us-east"}}), asks("GET", "/", ""), false},
		"of a jurisdiction":             {from(mesh.AccessSource{Jurisdictions: []mesh.Jurisdiction{"EU"}}), asks("GET", "/", ""), true},
		"of another jurisdiction":       {from(mesh.AccessSource{Jurisdictions: []mesh.Jurisdiction{"US"}}), asks("GET", "/", ""), false},
		"of all but these":              {from(mesh.AccessSource{Namespaces: []string{"shop"}, Not: true}), asks("GET", "/", ""), false},
		"of all but others":             {from(mesh.AccessSource{Namespaces: []string{"bank"}, Not: true}), asks("GET", "/", ""), true},
		"a source and a match, of both": {mesh.Fault{Match: methods("GET").Match, Sources: from(mesh.AccessSource{Namespaces: []string{"bank"}}).Sources}, asks("GET", "/", ""), false},
	} {
		if got := compiled(t, c.f).Meant(c.ask, false, web, clusters); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestWhatIsNotKnownIsSparedWhereSourcesAreNamed: a proxy that does not know yet who it is, and a cluster whose law nobody told.
func TestWhatIsNotKnownIsSparedWhereSourcesAreNamed(t *testing.T) {
	f := compiled(t, mesh.Fault{Sources: []mesh.AccessSource{{Jurisdictions: []mesh.Jurisdiction{"EU"}}}})
	if f.Meant(asks("GET", "/", ""), false, nil, clusters) {
		t.Error("it speaks of a proxy that does not know who it is")
	}
	if f.Meant(asks("GET", "/", ""), false, web, nil) {
		t.Error("it speaks of a cluster that nobody knows")
	}
	if !compiled(t, mesh.Fault{}).Meant(asks("GET", "/", ""), false, nil, nil) {
		t.Error("without sources it does not speak of everybody")
	}
}

// TestConnectionsHaveNoInside: of bytes a fault speaks only if it says nothing of what is in them; who sends them may be said.
func TestConnectionsHaveNoInside(t *testing.T) {
	for name, c := range map[string]struct {
		f    mesh.Fault
		want bool
	}{
		"nothing":  {mesh.Fault{}, true},
		"a method": {mesh.Fault{Match: mesh.RequestMatch{Methods: []string{""}}}, false},
		"a path":   {mesh.Fault{Match: mesh.RequestMatch{Paths: []string{"*"}}}, false},
		"a field":  {mesh.Fault{Match: mesh.RequestMatch{Headers: []mesh.ValueMatch{{Name: "x-user", Value: ".*", Regex: true}}}}, false},
		"a caller": {mesh.Fault{Sources: []mesh.AccessSource{{Namespaces: []string{"shop"}}}}, true},
		"another":  {mesh.Fault{Sources: []mesh.AccessSource{{Namespaces: []string{"bank"}}}}, false},
	} {
		if got := compiled(t, c.f).Meant(asks("", "", ""), true, web, clusters); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAMatchThatCannotBe names its object; no fault of the list is made then, for half of them would be another test.
func TestAMatchThatCannotBe(t *testing.T) {
	bad := mesh.Fault{Match: mesh.RequestMatch{Headers: []mesh.ValueMatch{{Name: "x-user", Value: "(", Regex: true}}}}
	all, err := New([]ir.Fault{{Object: "FaultPolicy shop/good"}, {Object: "FaultPolicy shop/bad", Fault: bad}})
	if err == nil || !strings.HasPrefix(err.Error(), "FaultPolicy shop/bad: ") || all != nil {
		t.Errorf("%v, %v", all, err)
	}
}

// TestAFaultNeverReachesWhatNoPolicyNames: whatever the request and the match, it is meant exactly if each part names it.
func TestAFaultNeverReachesWhatNoPolicyNames(t *testing.T) {
	words := []string{"GET", "POST", "PUT"}
	places := []string{"/", "/a", "/a/b", "/c"}
	rapid.Check(t, func(t *rapid.T) {
		f := mesh.Fault{Match: mesh.RequestMatch{Methods: rapid.SliceOfN(rapid.SampledFrom(words), 0, 2).Draw(t, "methods"), Paths: rapid.SliceOfN(rapid.SampledFrom(places), 0, 2).Draw(t, "paths")}}
		for _, ns := range rapid.SliceOfN(rapid.SampledFrom([]string{"shop", "bank"}), 0, 2).Draw(t, "namespaces") {
			f.Sources = append(f.Sources, mesh.AccessSource{Namespaces: []string{ns}})
		}
		method, path := rapid.SampledFrom(words).Draw(t, "method"), rapid.SampledFrom(places).Draw(t, "path")
		want := (len(f.Match.Methods) == 0 || slices.Contains(f.Match.Methods, method)) && (len(f.Match.Paths) == 0 || slices.Contains(f.Match.Paths, path)) &&
			(len(f.Sources) == 0 || slices.ContainsFunc(f.Sources, func(s mesh.AccessSource) bool { return s.Namespaces[0] == "shop" }))
		if got := compiled(t, f).Meant(asks(method, path, ""), false, web, clusters); got != want {
			t.Fatalf("%s %s of %+v: %v", method, path, f, got)
		}
	})
}

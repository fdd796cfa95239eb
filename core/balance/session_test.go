package balance

import (
	"bytes"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

var shop = mesh.ServiceName{Namespace: "shop", Name: "cart"}

// TestSessionSurvivesNewSlots: a session behind gateways is found again by the tag that the server
// proxy said when its slot went to another endpoint, and is gone when nobody has the tag.
func TestSessionSurvivesNewSlots(t *testing.T) {
	eps := groups(0, 3, 0)
	eps.Service = shop
	c := Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Sessions: true}
	v := NewView(c)
	us := v.group("us").all.endpoints
	if got := us[2].Learn(shop, []byte("tag-c")); got != "tag-c" {
		t.Fatalf("learnt %q", got)
	}
	s := SessionOf(us[2], 9)
	if v.Resolve(s) != us[2] {
		t.Fatal("the session is not found while nothing changed")
	}
	next := groups(0, 2, 0) // slot 2's endpoint moved to slot 0
	next.Service = shop
	next.Groups[2].Slots = []uint64{7, 0}
	c.Endpoints, c.Prev = next, v
	v = NewView(c)
	if got := v.Resolve(s); got != nil {
		t.Fatalf("the session led to %v before its endpoint was heard of again", got.Key)
	}
	us = v.group("us").all.endpoints
	us[0].Learn(shop, []byte("tag-c"))
	if got := v.Resolve(s); got != us[0] {
		t.Errorf("the session led to %v, want slot 0, which has its tag", got)
	}
	us[1].Learn(shop, []byte("tag-b"))
	if got := v.Resolve(Session{tag: s.tag, slot: us[1].name}); got != us[0] {
		t.Errorf("a slot that is another endpoint's by now was taken: %v", got)
	}
	// In its own cluster the same endpoint is known by its tag.
	home := groups(0, 0, 0)
	home.Service = shop
	home.Groups[2].Slots, home.Groups[2].Endpoints = nil, direct(1)
	home.Groups[2].Endpoints[0].Tag = "tag-c"
	at := NewView(Config{Endpoints: home, Clusters: clusters(nil), Cluster: "us", Sessions: true})
	if got := at.Resolve(s); got == nil || got.Tag != "tag-c" {
		t.Errorf("in its own cluster the session led to %v", got)
	}
}

func TestSessionsAreReadStrictly(t *testing.T) {
	v := NewView(Config{Endpoints: groups(2, 0, 0), Clusters: clusters(nil), Cluster: "eu", Sessions: true})
	good := AppendSession(nil, SessionOf(v.groups[0].all.endpoints[1], 1_700_000_000))
	if s, ok := ParseSession(good); !ok || s.Started != 1_700_000_000 || len(good) != SessionLength {
		t.Fatalf("%q reads as %+v, %v", good, s, ok)
	}
	for i := range good {
		bad := bytes.Clone(good)
		if bad[i] = 'A'; good[i] == 'A' {
			bad[i] = 'B'
		}
		if _, ok := ParseSession(bad); ok {
			t.Errorf("%q is taken for a session with a changed letter %d", bad, i)
		}
	}
	for _, bad := range [][]byte{nil, good[:31], append(bytes.Clone(good), 'A'), bytes.Repeat([]byte("="), 32), bytes.Repeat([]byte("\n"), 32)} {
		if _, ok := ParseSession(bad); ok {
			t.Errorf("%q is taken for a session", bad)
		}
	}
	if v.Resolve(Session{}) != nil {
		t.Error("a session without names names an endpoint")
	}
}

func FuzzParseSession(f *testing.F) {
	f.Add(AppendSession(nil, Session{Started: 5, tag: 6, slot: 7}))
	f.Add([]byte("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, ok := ParseSession(text); ok && string(AppendSession(nil, s)) != string(text) {
			t.Errorf("%q reads as %+v, which is written otherwise", text, s)
		}
	})
}

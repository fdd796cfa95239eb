package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

const (
	eu = mesh.TrustDomain("eu.isthmus.local")
	us = mesh.TrustDomain("us.isthmus.local")
)

func access(exported bool, policies ...mesh.AccessPolicy) *ir.Access {
	a := &ir.Access{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Exported: exported,
		Clusters: []ir.Caller{{TrustDomain: eu, Cluster: "eu", Jurisdiction: "EU"}, {TrustDomain: us, Cluster: "us", Jurisdiction: "US"}}}
	for i, p := range policies {
		a.Policies = append(a.Policies, ir.AccessEntry{Object: fmt.Sprintf("P%d", i), Policy: p})
	}
	return a
}

func rule(from ...mesh.AccessSource) []mesh.AccessRule { return []mesh.AccessRule{{From: from}} }

func TestDecide(t *testing.T) {
	frontend := mesh.Identity{TrustDomain: eu, Namespace: "shop", ServiceAccount: "frontend"}
	abroad := mesh.Identity{TrustDomain: us, Namespace: "shop", ServiceAccount: "frontend"}
	stranger := mesh.Identity{TrustDomain: "evil.example", Namespace: "shop", ServiceAccount: "frontend"}
	allowFrontend := mesh.AccessPolicy{Action: mesh.Allow, Rules: rule(mesh.AccessSource{ServiceAccounts: []string{"frontend"}})}
	tests := []struct {
		name    string
		access  *ir.Access
		request Request
		allowed bool
		why     string
	}{
		{"the default allows inside the cluster", access(false), Request{Caller: frontend}, true, "no policy selects"},
		{"strict denies by default", &ir.Access{Strict: true, Clusters: access(false).Clusters}, Request{Caller: frontend}, false, "strict"},
		{"nobody is denied", access(true), Request{}, false, "no identity"},
		{"an unknown trust domain is denied even by a matching Allow", access(true, allowFrontend), Request{Caller: stranger}, false, "of no cluster"},
		{"an unexported service refuses other clusters", access(false, allowFrontend), Request{Caller: abroad}, false, "not exported"},
		{"an exported service serves other clusters", access(true, allowFrontend), Request{Caller: abroad}, true, "Allow rule"},
		{"an Allow that does not match denies", access(true, mesh.AccessPolicy{Action: mesh.Allow, Rules: rule(mesh.AccessSource{Namespaces: []string{"bank"}})}), Request{Caller: frontend}, false, "none matches"},
		{"an empty Allow allows nobody", access(true, mesh.AccessPolicy{Action: mesh.Allow}), Request{Caller: frontend}, false, "none matches"},
		{"Deny outranks Allow", access(true, allowFrontend, mesh.AccessPolicy{Action: mesh.Deny, Rules: rule(mesh.AccessSource{Clusters: []mesh.ClusterName{"us"}})}), Request{Caller: abroad}, false, "Deny rule"},
		{"jurisdiction of the caller", access(true, mesh.AccessPolicy{Action: mesh.Deny, Rules: rule(mesh.AccessSource{Jurisdictions: []mesh.Jurisdiction{"EU"}, Not: true})}), Request{Caller: abroad}, false, "Deny rule"},
		{"an invalid policy denies everything", access(true, mesh.AccessPolicy{Action: mesh.Allow, Invalid: "x"}), Request{Caller: frontend}, false, "cannot be enforced"},
		{"a condition this version does not enforce denies", access(true, mesh.AccessPolicy{Action: mesh.Deny, Rules: []mesh.AccessRule{{When: "true"}}}), Request{Caller: frontend}, false, "cannot be enforced"},
		{"method and path and port", access(true, mesh.AccessPolicy{Action: mesh.Allow, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Methods: []string{"GET"}, Paths: []string{"/items/*"}, Ports: []uint16{80}}}}}}),
			Request{Caller: frontend, Method: "GET", Path: "/items/1", Port: 80}, true, "Allow rule"},
		{"another path is not the allowed one", access(true, mesh.AccessPolicy{Action: mesh.Allow, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/items/*"}}}}}}),
			Request{Caller: frontend, Method: "GET", Path: "/admin"}, false, "none matches"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Compile(tt.access, "eu").Decide(tt.request)
			if d.Allowed != tt.allowed || !strings.Contains(d.Why, tt.why) {
				t.Errorf("Decide = %+v, want allowed %v because %q", d, tt.allowed, tt.why)
			}
			if d.Allowed == (d.Reason != mesh.ReasonNone) {
				t.Errorf("reason %q with allowed %v", d.Reason, d.Allowed)
			}
		})
	}
}

func TestAuditRecordsWithoutDeciding(t *testing.T) {
	id := mesh.Identity{TrustDomain: eu, Namespace: "shop", ServiceAccount: "frontend"}
	d := Compile(access(true, mesh.AccessPolicy{Action: mesh.Audit, Rules: rule()}), "eu").Decide(Request{Caller: id})
	if !d.Allowed || len(d.Audited) != 1 {
		t.Errorf("Decide = %+v, want allowed and audited once", d)
	}
}

// TestDenyIsMonotone: adding a Deny, or making a policy unusable, never allows what
// was denied; the order of policies does not matter.
func TestDenyIsMonotone(t *testing.T) {
	source := rapid.Custom(func(t *rapid.T) mesh.AccessSource {
		return mesh.AccessSource{
			Namespaces: rapid.SliceOfN(rapid.SampledFrom([]string{"shop", "bank"}), 0, 1).Draw(t, "namespaces"),
			Clusters:   rapid.SliceOfN(rapid.SampledFrom([]mesh.ClusterName{"eu", "us"}), 0, 1).Draw(t, "clusters"),
			Not:        rapid.Bool().Draw(t, "not"),
		}
	})
	pol := rapid.Custom(func(t *rapid.T) mesh.AccessPolicy {
		return mesh.AccessPolicy{
			Action: rapid.SampledFrom([]mesh.Action{mesh.Allow, mesh.Deny, mesh.Audit}).Draw(t, "action"),
			Rules:  rule(rapid.SliceOfN(source, 0, 2).Draw(t, "from")...),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		policies := rapid.SliceOfN(pol, 0, 4).Draw(t, "policies")
		exported := rapid.Bool().Draw(t, "exported")
		r := Request{Caller: mesh.Identity{
			TrustDomain:    rapid.SampledFrom([]mesh.TrustDomain{eu, us, "other.example"}).Draw(t, "domain"),
			Namespace:      rapid.SampledFrom([]string{"shop", "bank"}).Draw(t, "namespace"),
			ServiceAccount: "a"}}
		before := Compile(access(exported, policies...), "eu").Decide(r)
		shuffled := rapid.Permutation(policies).Draw(t, "shuffled")
		if got := Compile(access(exported, shuffled...), "eu").Decide(r); got.Allowed != before.Allowed {
			t.Fatalf("order of policies changes the verdict: %+v, %+v", before, got)
		}
		extra := pol.Draw(t, "extra")
		extra.Action = mesh.Deny
		if rapid.Bool().Draw(t, "broken") {
			extra.Action, extra.Invalid = mesh.Allow, "broken"
		}
		after := Compile(access(exported, append(policies, extra)...), "eu").Decide(r)
		if after.Allowed && !before.Allowed {
			t.Fatalf("adding %+v allows what was denied", extra)
		}
	})
}

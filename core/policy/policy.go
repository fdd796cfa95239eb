// Package policy decides: whether a caller may do what it asks of a service. Its one
// idea is one Decide for everybody: the server proxy that enforces, the explanation
// a person reads and the simulator call the same function and get the same reasons.
//
// It does not authenticate (trust does), does not find the policies that select a
// service (core/compile does) and holds no state. Read Decide first, then Compile.
package policy

import (
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Request is what a decision is made on. Strings are those that will be forwarded: the
// policy string is the forwarded string.
type Request struct {
	// Caller as authenticated; the zero Identity is a caller that showed none.
	Caller mesh.Identity
	// Port of the service that was asked for.
	Port uint16
	// Method and Path of an HTTP request, path without query; both empty for a TCP
	// connection.
	Method, Path string
}

// Decision is the answer and its reason.
type Decision struct {
	Allowed bool
	// Reason is empty when allowed.
	Reason mesh.Reason
	// Object is the policy that decided, empty when a default did; Rule is the index of
	// its rule, -1 for none.
	Object string
	Rule   int
	// Why is one sentence for people, without a full stop.
	Why string
	// Audited are the Audit policies that matched.
	Audited []string
}

// Checker is a compiled ir.Access. It is immutable and safe for concurrent use.
type Checker struct {
	access      *ir.Access
	callers     map[mesh.TrustDomain]ir.Caller
	deny, allow []entry
	audit       []entry
	invalid     *entry
	home        mesh.ClusterName
}

type entry struct {
	object string
	policy *mesh.AccessPolicy
}

// Compile prepares the access rules of a service for decisions by proxies of the
// cluster home. A policy that could not be understood, or uses what this version does not
// know, makes every decision a denial: a policy never fails open.
func Compile(a *ir.Access, home mesh.ClusterName) *Checker {
	c := &Checker{access: a, home: home, callers: make(map[mesh.TrustDomain]ir.Caller, len(a.Clusters))}
	for _, caller := range a.Clusters {
		c.callers[caller.TrustDomain] = caller
	}
	for i := range a.Policies {
		e := entry{a.Policies[i].Object, &a.Policies[i].Policy}
		if problem := unusable(e.policy); problem != "" && c.invalid == nil {
			p := *e.policy
			p.Invalid = problem
			c.invalid = &entry{e.object, &p}
		}
		switch e.policy.Action {
		case mesh.Deny:
			c.deny = append(c.deny, e)
		case mesh.Allow:
			c.allow = append(c.allow, e)
		case mesh.Audit:
			c.audit = append(c.audit, e)
		}
	}
	return c
}

// Admit is Decide for a request, or for a connection of bytes, of which nobody sees more than who makes it to which port: see
// Opaque.
func (c *Checker) Admit(r Request, bytes bool) Decision {
	if !bytes {
		return c.Decide(r)
	}
	if object, denies := c.Opaque(r.Port); denies {
		return denied(object, -1, "a Deny rule looks at methods or paths, which a tunnel hides")
	}
	r.Method, r.Path = "", ""
	return c.Decide(r)
}

// Opaque reports whether a Deny rule may speak of what a connection to port carries: such
// a rule looks at methods or paths, and what is inside a connection nobody sees. It then denies, as
// the rule could otherwise be passed under.
func (c *Checker) Opaque(port uint16) (object string, denies bool) {
	for i := range c.deny {
		for _, rule := range c.deny[i].policy.Rules {
			for _, to := range rule.To {
				if len(to.Methods)+len(to.Paths) > 0 && (len(to.Ports) == 0 || slices.Contains(to.Ports, port)) {
					return c.deny[i].object, true
				}
			}
		}
	}
	return "", false
}

// unusable says why a policy cannot be enforced, or nothing.
func unusable(p *mesh.AccessPolicy) string {
	if p.Invalid != "" {
		return p.Invalid
	}
	switch p.Action {
	case mesh.Allow, mesh.Deny, mesh.Audit:
	default:
		return "action " + string(p.Action) + " is not known to this version"
	}
	for i := range p.Rules {
		if p.Rules[i].When != "" {
			return "CEL conditions are not enforced by this version"
		}
	}
	return ""
}

// Decide answers a request. The order: a policy that is not understood denies;
// then Deny; then the export boundary; then Allow; then the default.
func (c *Checker) Decide(r Request) Decision {
	d := c.decide(&r)
	for _, e := range c.audit {
		if _, ok := c.matches(e.policy, &r); ok {
			d.Audited = append(d.Audited, e.object)
		}
	}
	return d
}

func (c *Checker) decide(r *Request) Decision {
	if c.invalid != nil {
		return Decision{Reason: mesh.ReasonPolicyInvalid, Object: c.invalid.object, Rule: -1,
			Why: "the policy cannot be enforced, so it denies: " + c.invalid.policy.Invalid}
	}
	if r.Caller.IsZero() {
		return denied("", -1, "the caller showed no identity")
	}
	for _, e := range c.deny {
		if rule, ok := c.matches(e.policy, r); ok {
			return denied(e.object, rule, "a Deny rule matches")
		}
	}
	if d, stop := c.boundary(r); stop {
		return d
	}
	for _, e := range c.allow {
		if rule, ok := c.matches(e.policy, r); ok {
			return Decision{Allowed: true, Object: e.object, Rule: rule, Why: "an Allow rule matches"}
		}
	}
	if len(c.allow) > 0 {
		return denied("", -1, "Allow policies select the service and none matches")
	}
	if c.access.Strict {
		return denied("", -1, "the mesh is strict and no policy allows")
	}
	return Decision{Allowed: true, Rule: -1, Why: "no policy selects the service and the mesh is not strict"}
}

// boundary refuses callers of other clusters unless the service is exported to
// theirs.
func (c *Checker) boundary(r *Request) (Decision, bool) {
	caller, known := c.callers[r.Caller.TrustDomain]
	if !known {
		return denied("", -1, "the trust domain "+string(r.Caller.TrustDomain)+" is of no cluster of the mesh"), true
	}
	if caller.Cluster == c.home {
		return Decision{}, false
	}
	if !c.access.Exported {
		return denied("", -1, "the service is not exported and the caller is in cluster "+string(caller.Cluster)), true
	}
	if len(c.access.Consumers) > 0 && !slices.Contains(c.access.Consumers, caller.Cluster) {
		return denied("", -1, "the service is not exported to cluster "+string(caller.Cluster)), true
	}
	return Decision{}, false
}

func denied(object string, rule int, why string) Decision {
	return Decision{Reason: mesh.ReasonDenied, Object: object, Rule: rule, Why: why}
}

// matches returns the first rule of p that matches. A policy without rules matches
// nothing, so that an empty Allow allows nobody and an empty Deny denies nobody.
func (c *Checker) matches(p *mesh.AccessPolicy, r *Request) (int, bool) {
	for i := range p.Rules {
		if c.matchesFrom(p.Rules[i].From, r) && matchesTo(p.Rules[i].To, r) {
			return i, true
		}
	}
	return -1, false
}

func (c *Checker) matchesFrom(from []mesh.AccessSource, r *Request) bool {
	caller := c.callers[r.Caller.TrustDomain]
	return MatchesSources(from, r.Caller, &caller)
}

// MatchesSources reports whether a caller is one of the sources; of an empty list everybody
// is. at is what is known of its trust domain.
func MatchesSources(from []mesh.AccessSource, id mesh.Identity, at *ir.Caller) bool {
	if len(from) == 0 {
		return true
	}
	for i := range from {
		if matchesSource(&from[i], id, at) != from[i].Not {
			return true
		}
	}
	return false
}

func matchesSource(s *mesh.AccessSource, id mesh.Identity, at *ir.Caller) bool {
	return (len(s.Identities) == 0 || matchesIdentity(s.Identities, id)) &&
		(len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, id.Namespace)) &&
		(len(s.ServiceAccounts) == 0 || slices.Contains(s.ServiceAccounts, id.ServiceAccount)) &&
		(len(s.Clusters) == 0 || slices.Contains(s.Clusters, at.Cluster)) &&
		(len(s.TrustDomains) == 0 || slices.Contains(s.TrustDomains, id.TrustDomain)) &&
		(len(s.Jurisdictions) == 0 || slices.Contains(s.Jurisdictions, at.Jurisdiction))
}

func matchesIdentity(patterns []string, id mesh.Identity) bool {
	s := id.String()
	for _, p := range patterns {
		if matchesPattern(p, s) {
			return true
		}
	}
	return false
}

// matchesPattern compares whole strings; a final "*" stands for any rest.
func matchesPattern(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return pattern == s
}

func matchesTo(to []mesh.AccessOperation, r *Request) bool {
	if len(to) == 0 {
		return true
	}
	for i := range to {
		o := &to[i]
		if (len(o.Methods) == 0 || slices.Contains(o.Methods, r.Method)) &&
			(len(o.Paths) == 0 || slices.ContainsFunc(o.Paths, func(p string) bool { return matchesPattern(p, r.Path) })) &&
			(len(o.Ports) == 0 || slices.Contains(o.Ports, r.Port)) {
			return true
		}
	}
	return false
}

//house:exempt a parser: the targets of drills

package localmesh

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Target is what a drill is done to.
type Target struct {
	// Processes that are signalled, and the stores of Stores.
	Processes []string
	Stores    []mesh.ClusterName
	// Links that are touched; for each, From is the cluster that "a-to-b" counts from.
	Links []TargetLink
}

// TargetLink is a link as somebody at one end of it sees it.
type TargetLink struct {
	Link *Link
	From mesh.ClusterName
}

// UnknownTargetError names what could have been written instead.
type UnknownTargetError struct {
	Target string
	Why    string
	Valid  []string
}

func (e *UnknownTargetError) Error() string {
	return fmt.Sprintf("drill target %q: %s; write one of: %s", e.Target, e.Why, strings.Join(e.Valid, ", "))
}

// Target finds what is meant by text:
//
//	CLUSTER                          all processes of a cluster, or all its links
//	CLUSTER--CLUSTER                 a link
//	control-plane@CLUSTER            store@CLUSTER, gateway@CLUSTER and ingress@CLUSTER likewise; relay@CLUSTER of a remote one
//	control-plane/N@CLUSTER          of several one, from 0; store/N@CLUSTER a member of the store that they share
//	SERVICE[.NAMESPACE]@CLUSTER      every instance: application and sidecar
//	SERVICE[.NAMESPACE]/N@CLUSTER    one of them, from 0
//
// sidecar: or app: before the last two means that one of the two only. The error is an
// *UnknownTargetError.
func (p *Plan) Target(text string) (Target, error) {
	unknown := func(why string) (Target, error) {
		return Target{}, &UnknownTargetError{Target: text, Why: why, Valid: p.Targets()}
	}
	part, rest := Role(""), text
	for _, r := range []Role{RoleSidecar, RoleApp} {
		if after, ok := strings.CutPrefix(text, string(r)+":"); ok {
			part, rest = r, after
		}
	}
	what, where, placed := strings.Cut(rest, "@")
	if !placed {
		if part != "" {
			return unknown("only instances have a sidecar and an app")
		}
		if t, ok := p.wholeTarget(rest); ok {
			return t, nil
		}
		return unknown("no such cluster or link")
	}
	c := p.Cluster(mesh.ClusterName(where))
	if c == nil {
		return unknown(fmt.Sprintf("no cluster %q", where))
	}
	if t, ok := p.oneOfSeveral(c, what); ok && part == "" {
		return t, nil
	}
	switch role := Role(what); {
	case role == RoleControlPlane && c.Remote(), role == RoleRelay && !c.Remote(), what == "store" && c.Remote():
		return unknown(fmt.Sprintf("%s is a %s cluster: it has no %s", c.Name, strings.ToLower(string(c.Role)), what))
	case role == RoleIngress && !c.Ingress:
		return unknown(fmt.Sprintf("%s has no ingress gateway: write ingress: true in the mesh file", c.Name))
	case role != RoleControlPlane && role != RoleRelay && role != RoleGateway && role != RoleIngress && what != "store":
	case part != "":
		return unknown("only instances have a sidecar and an app")
	case what == "store" && c.Planes() == 1:
		return Target{Stores: []mesh.ClusterName{c.Name}}, nil
	case c.Planes() > 1 && role != RoleGateway && role != RoleIngress:
		t := Target{}
		for _, s := range p.Specs() {
			if s.Cluster == c && s.Role == role {
				t.Processes = append(t.Processes, s.Name)
			}
		}
		return t, nil
	default:
		return Target{Processes: []string{string(c.Name) + "." + what}}, nil
	}
	t, why := c.instanceTarget(what, part)
	if why != "" {
		return unknown(why)
	}
	return t, nil
}

// oneOfSeveral is one control plane, or one member of the store, of a cluster that has several.
func (p *Plan) oneOfSeveral(c *Cluster, what string) (Target, bool) {
	for n, s := range p.several(c) {
		if n == what {
			return Target{Processes: []string{s}}, true
		}
	}
	return Target{}, false
}

// several are the processes of which a cluster has several, by target.
func (p *Plan) several(c *Cluster) map[string]string {
	out := map[string]string{}
	if c.Planes() == 1 {
		return out
	}
	for i := range c.Planes() {
		out[fmt.Sprintf("%s/%d", RoleControlPlane, i)] = c.planeName(i)
	}
	for i, s := range p.storeSpecs(c) {
		out[fmt.Sprintf("%s/%d", RoleStore, i)] = s.Name
	}
	return out
}

// wholeTarget is a cluster or a link.
func (p *Plan) wholeTarget(name string) (Target, bool) {
	if c := p.Cluster(mesh.ClusterName(name)); c != nil {
		t := Target{}
		if !c.Remote() && c.Planes() == 1 {
			t.Stores = []mesh.ClusterName{c.Name}
		}
		for _, s := range p.Specs() {
			if s.Cluster == c {
				t.Processes = append(t.Processes, s.Name)
			}
		}
		for _, l := range p.Links {
			if l.A == c || l.B == c {
				t.Links = append(t.Links, TargetLink{l, c.Name})
			}
		}
		return t, true
	}
	for _, l := range p.Links {
		switch name {
		case l.Name():
			return Target{Processes: []string{"link." + l.Name()}, Links: []TargetLink{{l, l.A.Name}}}, true
		case string(l.B.Name) + "--" + string(l.A.Name):
			return Target{Processes: []string{"link." + l.Name()}, Links: []TargetLink{{l, l.B.Name}}}, true
		}
	}
	return Target{}, false
}

// instanceTarget finds instances of a service of the cluster, or says why there are none.
func (c *Cluster) instanceTarget(what string, part Role) (t Target, why string) {
	service, ordinalText, one := strings.Cut(what, "/")
	ordinal, err := strconv.Atoi(ordinalText)
	if one && (err != nil || ordinal < 0) {
		return t, fmt.Sprintf("%q is no number of an instance, they count from 0", ordinalText)
	}
	name, namespace, qualified := strings.Cut(service, ".")
	var namespaces []string
	for _, i := range c.Instances {
		w := i.Workload
		if w.Name != name || qualified && w.Namespace != namespace {
			continue
		}
		if !slices.Contains(namespaces, w.Namespace) {
			namespaces = append(namespaces, w.Namespace)
		}
		if one && i.Ordinal != ordinal {
			continue
		}
		for _, r := range []Role{RoleApp, RoleSidecar} {
			if part == "" || part == r {
				t.Processes = append(t.Processes, i.processName(c, r))
			}
		}
	}
	switch {
	case len(namespaces) > 1:
		return t, fmt.Sprintf("the service is in namespaces %s: name one", strings.Join(namespaces, " and "))
	case len(t.Processes) == 0 && len(namespaces) > 0:
		return t, "the service has fewer instances there"
	case len(t.Processes) == 0:
		return t, fmt.Sprintf("no service %q in %s", service, c.Name)
	}
	return t, ""
}

// Targets are all that may be written, prefixes aside: for help and completion.
func (p *Plan) Targets() []string {
	var out []string
	for _, c := range p.Clusters {
		out = append(out, string(c.Name))
	}
	for _, l := range p.Links {
		out = append(out, l.Name())
	}
	for _, c := range p.Clusters {
		whats := []string{"control-plane", "store", "gateway"}
		if c.Remote() {
			whats = []string{"relay", "gateway"}
		}
		if c.Ingress {
			whats = append(whats, "ingress")
		}
		for _, what := range append(whats, slices.Sorted(maps.Keys(p.several(c)))...) {
			out = append(out, what+"@"+string(c.Name))
		}
		for _, i := range c.Instances {
			name := i.Workload.Name + "." + i.Workload.Namespace
			if i.Ordinal == 0 {
				out = append(out, name+"@"+string(c.Name))
			}
			if i.Workload.Replicas > 1 {
				out = append(out, fmt.Sprintf("%s/%d@%s", name, i.Ordinal, c.Name))
			}
		}
	}
	return out
}

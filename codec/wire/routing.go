package wire

import (
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func fromRoute(r ir.Route) *wirepb.Route {
	m := &wirepb.Route{Consumer: r.Consumer, Object: r.Object, Rule: int32(r.Rule), Port: uint32(r.Port), Datagrams: r.Datagrams,
		Match: &wirepb.Match{PathType: string(r.Match.PathType), Path: r.Match.Path, Method: r.Match.Method,
			Headers: each(r.Match.Headers, fromValueMatch), Query: each(r.Match.Query, fromValueMatch)},
		Filters: each(r.Filters, fromFilter), Backends: each(r.Backends, fromBackend),
		RequestTimeout: int64(r.RequestTimeout), TryTimeout: int64(r.TryTimeout), Affinity: fromAffinity(r.Affinity)}
	if r.Retry != nil {
		m.Retry = &wirepb.Retry{Codes: each(r.Retry.Codes, func(c int) int32 { return int32(c) }),
			Attempts: int32(r.Retry.Attempts), Backoff: int64(r.Retry.Backoff)}
	}
	return m
}

func (d *decoder) route(m *wirepb.Route) ir.Route {
	r := ir.Route{Consumer: m.Consumer, Object: m.Object, Rule: int(m.Rule), Port: d.portNumber(m.Port), Datagrams: m.Datagrams,
		Match: mesh.RouteMatch{PathType: mesh.PathMatchType(m.GetMatch().GetPathType()), Path: m.GetMatch().GetPath(),
			Method: m.GetMatch().GetMethod(), Headers: each(m.GetMatch().GetHeaders(), toValueMatch),
			Query: each(m.GetMatch().GetQuery(), toValueMatch)},
		Filters: each(m.Filters, d.filter), Backends: each(m.Backends, d.backend),
		RequestTimeout: time.Duration(m.RequestTimeout), TryTimeout: time.Duration(m.TryTimeout), Affinity: toAffinity(m.Affinity)}
	if m.Retry != nil {
		r.Retry = &mesh.RouteRetry{Codes: each(m.Retry.Codes, func(c int32) int { return int(c) }),
			Attempts: int(m.Retry.Attempts), Backoff: time.Duration(m.Retry.Backoff)}
	}
	return r
}

func fromValueMatch(v mesh.ValueMatch) *wirepb.ValueMatch {
	return &wirepb.ValueMatch{Name: v.Name, Value: v.Value, Regex: v.Regex}
}

func toValueMatch(m *wirepb.ValueMatch) mesh.ValueMatch {
	return mesh.ValueMatch{Name: m.Name, Value: m.Value, Regex: m.Regex}
}

func fromHeaderValue(v mesh.HeaderValue) *wirepb.HeaderValue {
	return &wirepb.HeaderValue{Name: v.Name, Value: v.Value}
}

func toHeaderValue(m *wirepb.HeaderValue) mesh.HeaderValue {
	return mesh.HeaderValue{Name: m.Name, Value: m.Value}
}

func fromFilter(f mesh.RouteFilter) *wirepb.Filter {
	m := &wirepb.Filter{Kind: string(f.Kind), Set: each(f.Set, fromHeaderValue), Add: each(f.Add, fromHeaderValue), Remove: f.Remove,
		Scheme: f.Scheme, Hostname: f.Hostname, Port: uint32(f.Port), PathType: f.PathType, Path: f.Path,
		StatusCode: int32(f.StatusCode), MirrorPerMille: int32(f.MirrorPerMille)}
	if f.Backend != nil {
		m.Backend = &wirepb.RouteBackend{Kind: f.Backend.Kind, Service: fromService(f.Backend.Service), Port: uint32(f.Backend.Port),
			Weight: f.Backend.Weight, Filters: each(f.Backend.Filters, fromFilter)}
	}
	if c := f.CORS; c != nil {
		m.Cors = &wirepb.Cors{AllowOrigins: c.AllowOrigins, AllowCredentials: c.AllowCredentials, AllowMethods: c.AllowMethods,
			AllowHeaders: c.AllowHeaders, ExposeHeaders: c.ExposeHeaders, MaxAge: int64(c.MaxAge)}
	}
	return m
}

func (d *decoder) filter(m *wirepb.Filter) mesh.RouteFilter {
	f := mesh.RouteFilter{Kind: mesh.FilterKind(m.Kind), Set: each(m.Set, toHeaderValue), Add: each(m.Add, toHeaderValue), Remove: m.Remove,
		Scheme: m.Scheme, Hostname: m.Hostname, Port: d.portNumber(m.Port), PathType: m.PathType, Path: m.Path,
		StatusCode: int(m.StatusCode), MirrorPerMille: int(m.MirrorPerMille)}
	if b := m.Backend; b != nil {
		f.Backend = &mesh.RouteBackend{Kind: b.Kind, Service: d.service(b.Service), Port: d.portNumber(b.Port),
			Weight: b.Weight, Filters: each(b.Filters, d.filter)}
	}
	if c := m.Cors; c != nil {
		f.CORS = &mesh.CORS{AllowOrigins: c.AllowOrigins, AllowCredentials: c.AllowCredentials, AllowMethods: c.AllowMethods,
			AllowHeaders: c.AllowHeaders, ExposeHeaders: c.ExposeHeaders, MaxAge: time.Duration(c.MaxAge)}
	}
	return f
}

func fromBackend(b ir.Backend) *wirepb.Backend {
	return &wirepb.Backend{Service: fromService(b.Service), Port: uint32(b.Port), Weight: b.Weight,
		Filters: each(b.Filters, fromFilter), Missing: b.Missing}
}

func (d *decoder) backend(m *wirepb.Backend) ir.Backend {
	return ir.Backend{Service: d.service(m.Service), Port: d.portNumber(m.Port), Weight: m.Weight,
		Filters: each(m.Filters, d.filter), Missing: m.Missing}
}

func fromAccessEntry(e ir.AccessEntry) *wirepb.AccessEntry {
	p := e.Policy
	return &wirepb.AccessEntry{Object: e.Object, Namespace: p.Namespace, Name: p.Name, Action: string(p.Action),
		Targets: each(p.Targets, func(t mesh.TargetRef) *wirepb.TargetRef {
			return &wirepb.TargetRef{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name, SectionName: t.SectionName}
		}),
		Rules: each(p.Rules, func(r mesh.AccessRule) *wirepb.AccessRule {
			return &wirepb.AccessRule{From: each(r.From, fromSource), To: each(r.To, fromOperation), When: r.When}
		}), Invalid: p.Invalid}
}

func fromSource(s mesh.AccessSource) *wirepb.AccessSource {
	return &wirepb.AccessSource{Identities: s.Identities, Namespaces: s.Namespaces, ServiceAccounts: s.ServiceAccounts,
		Clusters: texts(s.Clusters), TrustDomains: texts(s.TrustDomains), Jurisdictions: texts(s.Jurisdictions), Not: s.Not}
}

func fromOperation(o mesh.AccessOperation) *wirepb.AccessOperation {
	return &wirepb.AccessOperation{Methods: o.Methods, Paths: o.Paths, Ports: each(o.Ports, func(p uint16) uint32 { return uint32(p) })}
}

func fromCaller(c ir.Caller) *wirepb.Caller {
	return &wirepb.Caller{TrustDomain: string(c.TrustDomain), Cluster: string(c.Cluster), Jurisdiction: string(c.Jurisdiction)}
}

// notUnderstood marks a policy that carries what a newer version knows.
const notUnderstood = "it carries a field that this version does not know"

func (d *decoder) access(m *wirepb.Access) *ir.Access {
	a := &ir.Access{Service: d.service(m.Service), Exported: m.Exported, Consumers: typed[mesh.ClusterName](m.Consumers), Strict: m.Strict,
		Policies: each(m.Policies, d.accessEntry),
		Clusters: each(m.Clusters, func(c *wirepb.Caller) ir.Caller {
			return ir.Caller{TrustDomain: mesh.TrustDomain(c.TrustDomain), Cluster: mesh.ClusterName(c.Cluster), Jurisdiction: mesh.Jurisdiction(c.Jurisdiction)}
		})}
	if unknownFields(m.ProtoReflect()) {
		a.Policies = append(a.Policies, ir.AccessEntry{Object: "Access " + a.Service.String(),
			Policy: mesh.AccessPolicy{Action: mesh.Deny, Invalid: notUnderstood}})
	}
	return a
}

func (d *decoder) accessEntry(m *wirepb.AccessEntry) ir.AccessEntry {
	return ir.AccessEntry{Object: m.Object, Policy: mesh.AccessPolicy{Namespace: m.Namespace, Name: m.Name, Action: mesh.Action(m.Action),
		Targets: each(m.Targets, func(t *wirepb.TargetRef) mesh.TargetRef {
			return mesh.TargetRef{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name, SectionName: t.SectionName}
		}),
		Rules: each(m.Rules, func(r *wirepb.AccessRule) mesh.AccessRule {
			return mesh.AccessRule{From: each(r.From, toSource), To: each(r.To, d.operation), When: r.When}
		}), Invalid: m.Invalid}}
}

func toSource(m *wirepb.AccessSource) mesh.AccessSource {
	return mesh.AccessSource{Identities: m.Identities, Namespaces: m.Namespaces, ServiceAccounts: m.ServiceAccounts,
		Clusters: typed[mesh.ClusterName](m.Clusters), TrustDomains: typed[mesh.TrustDomain](m.TrustDomains),
		Jurisdictions: typed[mesh.Jurisdiction](m.Jurisdictions), Not: m.Not}
}

func (d *decoder) operation(m *wirepb.AccessOperation) mesh.AccessOperation {
	return mesh.AccessOperation{Methods: m.Methods, Paths: m.Paths, Ports: each(m.Ports, d.portNumber)}
}

package facts

import (
	"fmt"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// manifests are the objects that travel, as people write them.
var manifests = map[mesh.Kind]func(*Maker) string{
	mesh.KindHTTPRoute: func(m *Maker) string {
		s := m.service()
		return m.object("gateway.networking.k8s.io/v1", mesh.KindHTTPRoute, m.routeNamespace(s), "http", fmt.Sprintf("parentRefs: [%s], rules: [%s]",
			parent(s), m.some(1, 2, m.httpRule)))
	},
	mesh.KindGRPCRoute: func(m *Maker) string {
		s := m.service()
		return m.object("gateway.networking.k8s.io/v1", mesh.KindGRPCRoute, m.routeNamespace(s), "grpc", fmt.Sprintf(
			"parentRefs: [%s], rules: [{matches: [{method: {service: shop.%s, method: Get}}], backendRefs: [%s]}]", parent(s), pick(m, []string{"Cart", "Stock"}), m.backends(9000)))
	},
	mesh.KindTCPRoute: func(m *Maker) string {
		return m.connections(mesh.KindTCPRoute, "gateway.networking.k8s.io/v1alpha2", "", 5432)
	},
	mesh.KindUDPRoute: func(m *Maker) string {
		return m.connections(mesh.KindUDPRoute, "gateway.networking.k8s.io/v1alpha2", "", 53)
	},
	mesh.KindTLSRoute: func(m *Maker) string {
		return m.connections(mesh.KindTLSRoute, "gateway.networking.k8s.io/v1", fmt.Sprintf("hostnames: [%s.example.com], ", m.numbered("db", 3)), 5432)
	},
	mesh.KindGateway: func(m *Maker) string {
		return m.object("gateway.networking.k8s.io/v1", mesh.KindGateway, m.service().Namespace, "web", fmt.Sprintf(
			"gatewayClassName: isthmus, listeners: [{name: http, port: 80, protocol: HTTP, hostname: %s.example.com, allowedRoutes: {namespaces: {from: %s}}}]",
			m.numbered("h", 3), pick(m, []string{"Same", "All", "None"})))
	},
	mesh.KindReferenceGrant: func(m *Maker) string {
		s := m.service()
		kind := pick(m, []mesh.Kind{mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTCPRoute, mesh.KindTLSRoute, mesh.KindUDPRoute})
		return m.object("gateway.networking.k8s.io/v1beta1", mesh.KindReferenceGrant, s.Namespace, "grant", fmt.Sprintf(
			"from: [{group: gateway.networking.k8s.io, kind: %s, namespace: %s}], to: [{group: \"\", kind: Service}]", kind, m.service().Namespace))
	},
	mesh.KindAccessPolicy: func(m *Maker) string {
		s, c := m.service(), m.cluster()
		from := pick(m, []string{"namespaces: [shop]", "clusters: [" + string(c.Name) + "]", "jurisdictions: [EU, US]",
			"identities: [\"spiffe://" + string(c.TrustDomain) + "/*\"]", "serviceAccounts: [" + s.Name + "], not: true"})
		return m.object("isthmus.dev/v1alpha1", mesh.KindAccessPolicy, s.Namespace, "access", fmt.Sprintf(
			"%s, action: %s, rules: [{from: [{%s}], to: [{methods: [GET], paths: [/%s*]}]}]", m.targets(s), pick(m, []string{"Allow", "Deny", "Audit"}), from, m.numbered("p", 3)))
	},
	mesh.KindResidencyPolicy: func(m *Maker) string {
		s := m.service()
		return m.object("isthmus.dev/v1alpha1", mesh.KindResidencyPolicy, s.Namespace, "law", fmt.Sprintf("%s, jurisdictions: [%s]",
			m.targets(s), pick(m, []string{"EU, IN, US", "EU, IN, US", "EU, US", "EU", "US"})))
	},
	mesh.KindTrafficPolicy: func(m *Maker) string {
		s := m.service()
		return m.object("isthmus.dev/v1alpha1", mesh.KindTrafficPolicy, s.Namespace, "traffic", fmt.Sprintf("%s, %s", m.targets(s), pick(m, []string{
			"locality: {strategy: Nearest}, timeouts: {request: 2s}", "loadBalancing: {algorithm: LeastRequest, warmup: 30s}",
			"retry: {attempts: 3, backoff: 25ms, budget: {percent: 10, burst: 5}}", "outlierDetection: {consecutiveFailures: 5}, limits: {connections: 10}",
			"healthCheck: {http: {path: /healthz}, interval: 2s}", "sessionPersistence: {sessionName: sid, type: Cookie}"})))
	},
	mesh.KindFaultPolicy: func(m *Maker) string {
		s := m.service()
		return m.object("isthmus.dev/v1alpha1", mesh.KindFaultPolicy, s.Namespace, "fault", fmt.Sprintf("%s, faults: [{%s}]", m.targets(s), pick(m, []string{
			"delay: {duration: 2s, percent: 10}", "abort: {status: 503, percent: 5}", "bandwidth: {bytesPerSecond: 65536, percent: 100}"})))
	},
	mesh.KindTelemetryPolicy: func(m *Maker) string {
		s := m.service()
		return m.object("isthmus.dev/v1alpha1", mesh.KindTelemetryPolicy, s.Namespace, "telemetry", fmt.Sprintf("targetRefs: [{kind: %s}], accessLog: {samplePercent: %d}",
			pick(m, []string{"Namespace", "Mesh"}), 1+m.Rand.IntN(3)))
	},
	mesh.KindDrain: func(m *Maker) string {
		return m.object("isthmus.dev/v1alpha1", mesh.KindDrain, "", "drain", fmt.Sprintf("target: {cluster: %s%s}, goal: %s, since: 2026-01-02T15:04:0%dZ", m.cluster().Name,
			pick(m, []string{"", ", zone: a", ", namespace: shop, workload: w-1"}), pick(m, []string{"Drained", "Serving"}), m.Rand.IntN(10)))
	},
}

// object is a manifest. One in twelve of what is no security policy is labelled to stay home, under a name of its own.
func (m *Maker) object(version string, kind mesh.Kind, namespace, name, spec string) string {
	name, labels := m.numbered(name, 3)+m.Suffix, ""
	if kind != mesh.KindAccessPolicy && kind != mesh.KindResidencyPolicy && m.Rand.IntN(12) == 0 {
		name, labels = name+"-home", fmt.Sprintf(", labels: {%s: %s}", mesh.ScopeLabel, mesh.ScopeHome)
	}
	return fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s, namespace: %s%s}, spec: {%s}}", version, kind, name, namespace, labels, spec)
}

// routeNamespace is mostly the service's own; a route in another is for callers there.
func (m *Maker) routeNamespace(s mesh.ServiceName) string {
	if m.Rand.IntN(4) == 0 {
		return m.service().Namespace
	}
	return s.Namespace
}

func parent(s mesh.ServiceName) string {
	return fmt.Sprintf("{group: \"\", kind: Service, name: %s, namespace: %s}", s.Name, s.Namespace)
}

// targets are of a policy in the namespace of s.
func (m *Maker) targets(s mesh.ServiceName) string {
	return pick(m, []string{fmt.Sprintf("targetRefs: [{group: \"\", kind: Service, name: %s}]", s.Name), fmt.Sprintf("targetRefs: [{group: \"\", kind: Service, name: %s}]", s.Name),
		"targetRefs: [{kind: Namespace}]", "targetRefs: [{kind: Mesh}]"})
}

func (m *Maker) httpRule() string {
	return fmt.Sprintf("{matches: [{path: {type: PathPrefix, value: /%s}}], backendRefs: [%s]%s}", m.numbered("p", 4), m.backends(80), pick(m, []string{
		"", "", ", timeouts: {request: 3s}", ", retry: {attempts: 2, codes: [503]}",
		fmt.Sprintf(", filters: [{type: RequestMirror, requestMirror: {backendRef: {name: %s, namespace: shop, port: 80}}}]", pick(m, []string{"a", "b", "c"})),
		", filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}]}}]"}))
}

// backends refer to other services, in other namespaces too, whether there is a grant or not.
func (m *Maker) backends(port int) string {
	var out []string
	seen := map[mesh.ServiceName]bool{}
	for range 1 + m.Rand.IntN(3) {
		if s := m.service(); !seen[s] {
			seen[s] = true
			out = append(out, fmt.Sprintf("{name: %s, namespace: %s, port: %d, weight: %d}", s.Name, s.Namespace, port, m.Rand.IntN(10)))
		}
	}
	return strings.Join(out, ", ")
}

// connections is a route of connections or datagrams, which has backends and nothing else.
func (m *Maker) connections(kind mesh.Kind, version, hostnames string, port int) string {
	s := m.service()
	return m.object(version, kind, s.Namespace, strings.ToLower(string(kind)), fmt.Sprintf("parentRefs: [%s], %srules: [{backendRefs: [%s]}]", parent(s), hostnames, m.backends(port)))
}

func (m *Maker) some(from, to int, f func() string) string {
	var out []string
	for range from + m.Rand.IntN(to-from+1) {
		out = append(out, f())
	}
	return strings.Join(out, ", ")
}

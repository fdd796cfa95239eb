package manifest

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// scope is one object while it is read: whom faults are of, and where.
type scope struct {
	parser    *parser
	kind      Kind
	root      *value
	namespace string
	name      string
	decoder   decoder
	faults    int
	first     string          // the first problem, for Invalid
	blamed    map[string]bool // fields that have a fault already
	created   time.Time
}

func (p *parser) newScope(k Kind, root *value) *scope {
	m := root.get("metadata")
	s := &scope{parser: p, kind: k, root: root, name: m.str("name")}
	if k.Namespaced {
		if s.namespace = m.str("namespace"); s.namespace == "" {
			s.namespace = p.options.Namespace
		}
	}
	if k.File && s.name == "" {
		s.name = "local"
	}
	s.decoder = decoder{fault: s.faultAt, unknown: s.unknown, hide: k.Kind == "Secret"}
	return s
}

// fault reports what is wrong at a path of the object; a path that does not exist is
// placed at what exists of it.
func (s *scope) fault(p *path, problem, remedy string) {
	s.faultAt(s.root.at(p).place, p, problem, remedy)
}

// faultAt reports a fault, unless its field has one already: what follows from a fault
// is noise.
func (s *scope) faultAt(at place, p *path, problem, remedy string) {
	f := p.String()
	if s.blamed[f] {
		return
	}
	if s.blamed == nil {
		s.blamed = map[string]bool{}
	}
	if len(s.blamed) <= MaxFaults { // what is beyond is not listed anyway
		s.blamed[f] = true
	}
	if s.faults++; s.faults == 1 {
		s.first = strings.TrimPrefix(f+": "+problem, ": ")
	}
	s.parser.fault(Fault{Line: at.line, Column: at.column, Kind: s.kind.Kind, Namespace: s.namespace, Name: s.name,
		Field: f, Problem: problem, Remedy: remedy})
}

func (s *scope) warn(p *path, problem, remedy string) {
	s.warnAt(s.root.at(p).place, p, problem, remedy)
}

func (s *scope) warnAt(at place, p *path, problem, remedy string) {
	r := &s.parser.result
	if len(r.Warnings) < MaxFaults {
		r.Warnings = append(r.Warnings, Fault{File: s.parser.file, Line: at.line, Column: at.column, Kind: s.kind.Kind,
			Namespace: s.namespace, Name: s.name, Field: p.String(), Problem: problem, Remedy: remedy})
	}
}

// unknown reports a member that the kind does not have. It is a warning, except where
// ignoring it could let through what the author meant to stop: a security policy never
// fails open.
func (s *scope) unknown(at place, p *path, name string, known []string) {
	if !s.kind.isSecurity() && len(s.parser.result.Warnings) == MaxFaults {
		return // not listed: not worth a guess
	}
	remedy := "remove it"
	if near := nearest(name, known); near != "" {
		remedy = "did you mean " + near + "?"
	}
	switch inSpec := strings.HasPrefix(p.String(), "spec"); {
	case inSpec && s.kind.isSecurity():
		s.faultAt(at, p, "unknown field in a security policy", remedy)
		return
	case inSpec && s.kind.Kind == string(mesh.KindFaultPolicy):
		s.faultAt(at, p, "unknown field: it might be what narrows the faults", remedy)
		return
	case s.kind.Kind == KindSimulation && !strings.HasPrefix(p.String(), "metadata"):
		s.faultAt(at, p, "unknown field: the run would not be what its author meant", remedy)
		return
	}
	s.warnAt(at, p, "unknown field, ignored", remedy)
}

// into decodes the whole object into a shape.
func into[T any](s *scope) *T {
	t := new(T)
	s.decoder.decode(s.root, reflect.ValueOf(t).Elem(), nil, nil)
	return t
}

// metadata checks what every object has. The shape is decoded apart from the rest, so
// that names are known before anything is converted.
func (s *scope) metadata(o *Object) {
	var m objectMeta
	at := (*path)(nil).field("metadata")
	if v := s.root.get("metadata"); v != nil {
		s.decoder.decode(v, reflect.ValueOf(&m).Elem(), at, nil)
	}
	o.Name, o.Labels = s.name, m.Labels
	delete(m.Annotations, lastApplied)
	if len(m.Annotations) > 0 {
		o.Annotations = m.Annotations
	}
	s.created, _ = time.Parse(time.RFC3339, m.CreationTimestamp)
	s.checkName(m, at)
	if !s.kind.Namespaced && m.Namespace != "" {
		s.warn(at.field("namespace"), "a "+s.kind.Kind+" has no namespace, ignored", "remove it")
	}
	s.checkLabels(s.root.get("metadata"), at)
}

// checkLabels checks the keys and values of labels and the keys of annotations.
func (s *scope) checkLabels(metadata *value, at *path) {
	if l := metadata.get("labels"); l != nil {
		for _, f := range l.fields {
			switch p, v := at.field("labels", f.key), f.value.text; {
			case !isQualified(f.key):
				s.faultAt(f.place, p, quote(f.key)+" is not a label key", "write NAME or DOMAIN/NAME, a name of at most 63 letters, digits, -, _ and .")
			case !isLabelValue(v):
				s.faultAt(f.value.place, p, quote(v)+" is not a label value", "write at most 63 letters, digits, -, _ and ., the ends a letter or digit")
			case f.key == mesh.ScopeLabel && v != mesh.ScopeHome:
				s.faultAt(f.value.place, p, quote(v)+" is not a scope", "write "+mesh.ScopeHome+", or remove the label")
			}
		}
	}
	if a := metadata.get("annotations"); a != nil {
		for _, f := range a.fields {
			if !isQualified(strings.ToLower(f.key)) {
				s.faultAt(f.place, at.field("annotations", f.key), quote(f.key)+" is not an annotation key", "write NAME or DOMAIN/NAME")
			}
		}
	}
}

func (s *scope) checkName(m objectMeta, at *path) {
	ok, form := mesh.IsSubdomain, "labels of a-z, 0-9 and - joined by dots"
	switch s.kind.Kind {
	case "Namespace", "Service", "ServiceExport", "ServiceImport", "Cluster":
		ok, form = mesh.IsLabel, "1 to 63 of a-z, 0-9 and -, neither first nor last a -"
	}
	switch v := s.root.get("metadata"); {
	case v != nil && v.kind != kindObject && v.kind != kindNull: // reported
	case s.name == "" && m.GenerateName != "":
		s.fault(at.field("generateName"), "generated names are not supported", "write metadata.name")
	case s.name == "":
		s.fault(at.field("name"), "missing", "write a name")
	case !ok(s.name):
		s.fault(at.field("name"), quote(s.name)+" is not a name", "write "+form)
	}
}

// duplicate reports a second object of one name. Versions of one group are the same
// object.
func (s *scope) duplicate() {
	k := mesh.Key{Kind: mesh.Kind(s.kind.Kind), Namespace: s.namespace, Name: s.name}
	first, twice := s.parser.seen[k]
	if twice && s.name != "" {
		s.fault(nil, fmt.Sprintf("a second object of this name, the first is at line %d", first.line), "remove one of the two")
		return
	}
	s.parser.seen[k] = s.root.place
}

// value converts the object into its mesh value.
func (s *scope) value() any {
	switch s.kind.Kind {
	case "Namespace":
		return s.namespaceObject(into[namespace](s))
	case "ServiceAccount":
		into[serviceAccount](s)
		return &mesh.ServiceAccount{Namespace: s.namespace, Name: s.name}
	case "Secret":
		return s.secret(into[secret](s))
	case "ConfigMap":
		return s.configMap(into[configMap](s))
	case "Service":
		return s.service(into[service](s))
	case "EndpointSlice":
		return s.endpointSlice(into[endpointSlice](s))
	case "ServiceExport":
		return s.serviceExport(into[serviceExport](s))
	case "ServiceImport":
		return s.serviceImport(into[serviceImport](s))
	case "HTTPRoute":
		return s.httpRoute(into[httpRoute](s))
	case "GRPCRoute":
		return s.grpcRoute(into[grpcRoute](s))
	case "TLSRoute":
		t := into[tlsRoute](s)
		if len(t.Spec.Hostnames) == 0 && s.root.str("apiVersion") == gatewayVersion { // required since v1
			s.fault(spec("hostnames"), "missing", "write the server names the route is for")
		}
		return s.streamRoute(t.Spec.routeParents, t.Spec.Hostnames, t.Spec.Rules)
	case "TCPRoute", "UDPRoute": // which differ in their kind alone
		t := into[bareRoute](s)
		return s.streamRoute(t.Spec.routeParents, nil, t.Spec.Rules)
	case "ReferenceGrant":
		return s.referenceGrant(into[referenceGrant](s))
	case "Mesh":
		return s.settings(into[meshObject](s))
	case "Cluster":
		return s.cluster(into[cluster](s))
	case "Workload":
		return s.workload(into[workload](s))
	case "TrafficPolicy":
		return s.trafficPolicy(into[trafficPolicy](s))
	case "AccessPolicy":
		return s.accessPolicy(into[accessPolicy](s))
	case "ResidencyPolicy":
		return s.residencyPolicy(into[residencyPolicy](s))
	case KindLocalMesh:
		return s.localMesh(into[localMesh](s))
	case KindSimulation:
		return s.simulation(into[simulation](s))
	case "Drain":
		return s.drain(into[drain](s))
	case "Gateway":
		return s.gateway(into[gateway](s))
	case "BackendTLSPolicy":
		return s.backendTLSPolicy(into[backendTLSPolicy](s))
	case "FaultPolicy":
		return s.faultPolicy(into[faultPolicy](s))
	case "TelemetryPolicy":
		return s.telemetryPolicy(into[telemetryPolicy](s))
	case "Rollout":
		into[rollout](s)
	}
	return nil
}

// invalid is the value of a security policy that was not understood: it denies what it
// selects, and the whole namespace where even that is unclear. Other kinds have none.
func (s *scope) invalid(v any) any {
	whole := []mesh.TargetRef{{Kind: "Namespace", Namespace: s.namespace, Name: s.namespace}}
	targetsUnclear := false
	for f := range s.blamed {
		targetsUnclear = targetsUnclear || f == "" || f == "apiVersion" || f == "spec" || strings.HasPrefix(f, "spec.targetRefs")
	}
	switch t := v.(type) {
	case *mesh.AccessPolicy:
		if t.Invalid = s.first; targetsUnclear {
			t.Targets = whole
		}
		return t
	case *mesh.ResidencyPolicy:
		if t.Invalid = s.first; targetsUnclear {
			t.Targets = whole
		}
		return t
	case *mesh.BackendTLSPolicy: // what it targets may be unclear: nothing else is known to be meant
		t.Invalid = s.first
		return t
	}
	return nil
}

func (s *scope) serviceName() mesh.ServiceName {
	return mesh.ServiceName{Namespace: s.namespace, Name: s.name}
}

// text is the text behind an optional field, or the default.
func text(p *string, otherwise string) string {
	if p == nil {
		return otherwise
	}
	return *p
}

// spec is the path of a field under spec.
func spec(names ...string) *path { return (*path)(nil).field("spec").field(names...) }

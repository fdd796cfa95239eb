package manifest

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// route begins a mesh route with what all kinds of routes share.
func (s *scope) route(in routeParents, hostnames []string) *mesh.Route {
	out := &mesh.Route{Kind: s.kind.Kind, Namespace: s.namespace, Name: s.name, Hostnames: hostnames, Created: s.created}
	if in.UseDefaultGateways != "" {
		s.warn(spec("useDefaultGateways"), "kept, nothing acts on it yet", "")
	}
	seen := map[mesh.ParentRef]bool{}
	for i, p := range in.ParentRefs {
		at := spec("parentRefs").item(i)
		ref := mesh.ParentRef{
			Kind:        s.reference(text(p.Group, gatewayGroup), text(p.Kind, "Gateway"), at, "Gateway", "Service", "ServiceImport"),
			Namespace:   text(p.Namespace, s.namespace),
			Name:        p.Name,
			Port:        port(p.Port),
			SectionName: text(p.SectionName, ""),
		}
		if seen[ref] {
			s.fault(at, "a duplicate of an earlier parent", "remove it, or tell them apart by sectionName or port")
		}
		seen[ref] = true
		out.Parents = append(out.Parents, ref)
	}
	gateway := slices.ContainsFunc(out.Parents, func(p mesh.ParentRef) bool { return p.Kind != "Service" && p.Kind != "ServiceImport" })
	if len(hostnames) > 0 && len(out.Parents) > 0 && !gateway && s.kind.Kind != string(mesh.KindTLSRoute) { // which must have them
		s.warn(spec("hostnames"), "a route of Services does not look at host names (GEP-1294)", "match the header Host in the rules instead")
	}
	return out
}

// reference names the kind of a reference: the kind alone where the mesh knows it under
// this group, else GROUP/KIND, which resolves to nothing. Such a reference is accepted
// with a warning, as the Gateway API wants.
func (s *scope) reference(group, kind string, at *path, known ...string) string {
	groups := map[string]string{"Gateway": gatewayGroup, "Service": "", "ServiceImport": mcsGroup, "Secret": ""}
	g, ok := groups[kind]
	ok = ok && contains(known, kind)
	if ok && g == group {
		return kind
	}
	remedy := "write kind " + enumerate(known)
	if ok {
		remedy = "write group: " + quote(g)
	}
	s.warn(at, kind+" of group "+quote(group)+" resolves to nothing", remedy)
	return group + "/" + kind
}

func port(p *int32) uint16 {
	if p == nil {
		return 0
	}
	return uint16(*p)
}

// timeout reads a route's timeout: "0s" means none at all (GEP-1742).
func timeout(t string) time.Duration {
	d := duration(t)
	if d == 0 && isDuration(t) {
		return -1
	}
	return d
}

func (s *scope) httpRoute(in *httpRoute) *mesh.Route {
	out := s.route(in.Spec.routeParents, in.Spec.Hostnames)
	matches := 0
	for i, r := range in.Spec.Rules {
		at := spec("rules").item(i)
		rule := mesh.RouteRule{Name: text(r.Name, "")}
		for j, m := range r.Matches {
			rule.Matches = append(rule.Matches, s.httpMatch(m, at.field("matches").item(j)))
		}
		matches += max(1, len(r.Matches))
		rule.Filters = s.httpFilters(r.Filters, at, r.Matches)
		for j, b := range r.BackendRefs {
			backend := s.backend(b.backendRef, at.field("backendRefs").item(j))
			backend.Filters = s.httpFilters(b.Filters, at.field("backendRefs").item(j), r.Matches)
			rule.Backends = append(rule.Backends, backend)
		}
		if hasFilter(rule.Filters, mesh.FilterRedirect) && len(r.BackendRefs) > 0 {
			s.fault(at.field("backendRefs"), "a rule that redirects sends nothing to backends", "remove backendRefs or the RequestRedirect filter")
		}
		s.httpLimits(r, at, &rule)
		out.Rules = append(out.Rules, rule)
	}
	if matches > 128 {
		s.fault(spec("rules"), "more than 128 matches in one route", "split the route")
	}
	if len(in.Spec.Rules) == 0 { // the API's default: one rule for every path
		out.Rules = []mesh.RouteRule{{}}
	}
	return out
}

// httpLimits reads timeouts and retries of a rule.
func (s *scope) httpLimits(r httpRule, at *path, rule *mesh.RouteRule) {
	if t := r.Timeouts; t != nil {
		rule.RequestTimeout, rule.TryTimeout = timeout(text(t.Request, "")), timeout(text(t.BackendRequest, ""))
		if rule.RequestTimeout > 0 && rule.TryTimeout > rule.RequestTimeout {
			s.fault(at.field("timeouts", "backendRequest"), "longer than timeouts.request", "write at most "+*t.Request)
		}
	}
	if t := r.Retry; t != nil {
		rule.Retry = &mesh.RouteRetry{Codes: t.Codes, Attempts: mesh.DefaultRetries, Backoff: duration(text(t.Backoff, ""))}
		if t.Attempts != nil {
			rule.Retry.Attempts = *t.Attempts
		}
	}
	rule.Affinity = s.affinity(r.SessionPersistence, at.field("sessionPersistence"))
}

func (s *scope) httpMatch(m httpMatch, at *path) mesh.RouteMatch {
	out := mesh.RouteMatch{Method: text(m.Method, "")}
	out.Headers = s.valueMatches(m.Headers, at.field("headers"), true)
	out.Query = s.valueMatches(m.QueryParams, at.field("queryParams"), false)
	if m.Path == nil {
		return out
	}
	out.PathType, out.Path = mesh.PathMatchType(text(m.Path.Type, string(mesh.PathPrefix))), text(m.Path.Value, "/")
	p := at.field("path", "value")
	if out.PathType == mesh.PathRegex {
		s.regex(out.Path, p)
	} else if problem := pathProblem(out.Path); problem != "" {
		s.fault(p, quote(out.Path)+" "+problem, "write an absolute path in normal form, such as /cart")
	}
	return out
}

// pathProblem says what the Gateway API refuses of a path that is not a regular
// expression (HTTPPathMatch). Such a path could never match a request in normal form.
func pathProblem(p string) string {
	if !strings.HasPrefix(p, "/") {
		return "does not begin with /"
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(p, part) {
			return "contains " + part
		}
	}
	if strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
		return "ends with a dot segment"
	}
	for i, r := range p {
		switch {
		case r == '%':
			if i+2 >= len(p) || !isHex(p[i+1]) || !isHex(p[i+2]) {
				return "has a % without two hexadecimal digits"
			}
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r < 0x80 && strings.IndexByte("-/._~!$&'()*+,;=:@", byte(r)) >= 0:
		default:
			return "contains " + quote(string(r)) + ", which must be percent-encoded"
		}
	}
	return ""
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func (s *scope) regex(expr string, at *path) {
	if problem, remedy := wantRegex(expr); problem != "" {
		s.fault(at, quote(expr)+" "+problem, remedy)
	}
}

func (s *scope) valueMatches(in []valueMatch, at *path, headers bool) []mesh.ValueMatch {
	var out []mesh.ValueMatch
	for i, m := range in {
		v := mesh.ValueMatch{Name: m.Name, Value: m.Value, Regex: text(m.Type, "") == "RegularExpression"}
		if headers {
			v.Name = strings.ToLower(v.Name)
		}
		if v.Regex {
			s.regex(v.Value, at.item(i).field("value"))
		}
		out = append(out, v)
	}
	return out
}

func (s *scope) backend(in backendRef, at *path) mesh.RouteBackend {
	out := s.backendObject(in.backendObjectRef, at)
	if in.Weight != nil {
		out.Weight = *in.Weight
	}
	return out
}

func (s *scope) backendObject(in backendObjectRef, at *path) mesh.RouteBackend {
	out := mesh.RouteBackend{
		Kind:    s.reference(text(in.Group, ""), text(in.Kind, "Service"), at, "Service", "ServiceImport"),
		Service: mesh.ServiceName{Namespace: text(in.Namespace, s.namespace), Name: in.Name},
		Port:    port(in.Port),
		Weight:  1,
	}
	if in.Port == nil && out.Kind == "Service" {
		s.fault(at.field("port"), "missing", "write the port of the Service, a number from 1 to 65535")
	}
	return out
}

func hasFilter(filters []mesh.RouteFilter, kind mesh.FilterKind) bool {
	for _, f := range filters {
		if f.Kind == kind {
			return true
		}
	}
	return false
}

// httpFilters reads the filters of a rule or backend at a path. A filter the mesh does
// not have is a fault: the API forbids to skip one, and skipping authentication would
// open what the author closed.
func (s *scope) httpFilters(in []httpFilter, at *path, matches []httpMatch) []mesh.RouteFilter {
	var out []mesh.RouteFilter
	for i, f := range in {
		p := at.field("filters").item(i)
		member := s.filterUnion(f.Type, p)
		r := mesh.RouteFilter{Kind: mesh.FilterKind(f.Type)}
		switch {
		case member == "": // reported
			continue
		case f.Type == "ExternalAuth", f.Type == "ExtensionRef":
			s.fault(p.field("type"), f.Type+" is not supported", "remove the filter")
			continue
		case f.Type == "CORS" && at.isIndex() && at.up.name == "backendRefs":
			// What answers a browser's question stands before the choice of a backend.
			s.fault(p.field("type"), "CORS is not supported in a backend", "move the filter to the rule")
			continue
		case hasFilter(out, r.Kind) && r.Kind != mesh.FilterMirror:
			s.fault(p.field("type"), "a second filter "+f.Type, "put both into one filter")
		}
		switch r.Kind {
		case mesh.FilterRequestHeaders:
			modify(f.RequestHeaderModifier, &r)
		case mesh.FilterResponseHeaders:
			modify(f.ResponseHeaderModifier, &r)
		case mesh.FilterCORS:
			r.CORS = s.cors(f.CORS, p.field(member))
		case mesh.FilterMirror:
			s.mirror(f.RequestMirror, p.field(member), &r)
		case mesh.FilterRedirect:
			s.redirect(f.RequestRedirect, p.field(member), matches, &r)
		case mesh.FilterRewrite:
			r.Hostname = text(f.URLRewrite.Hostname, "")
			s.pathModifier(f.URLRewrite.Path, p.field(member, "path"), matches, &r)
		}
		out = append(out, r)
	}
	if hasFilter(out, mesh.FilterRedirect) && hasFilter(out, mesh.FilterRewrite) {
		s.fault(at.field("filters"), "RequestRedirect and URLRewrite together", "remove one of the two")
	}
	return out
}

// filterUnion checks that a filter holds the member its type names and no other. It
// returns the member's name, "" after a fault.
func (s *scope) filterUnion(kind string, at *path) string {
	members := map[string]string{"RequestHeaderModifier": "requestHeaderModifier", "ResponseHeaderModifier": "responseHeaderModifier",
		"RequestMirror": "requestMirror", "RequestRedirect": "requestRedirect", "URLRewrite": "urlRewrite", "CORS": "cors",
		"ExternalAuth": "externalAuth", "ExtensionRef": "extensionRef"}
	member, node := members[kind], s.root.at(at)
	if member == "" {
		return ""
	}
	for _, f := range node.fields {
		if f.key != member && f.key != "type" && f.value.kind != kindNull {
			for _, m := range members {
				if f.key == m {
					s.fault(at.field(f.key), "does not belong to a filter of type "+kind, "remove it, or write the type it belongs to")
				}
			}
		}
	}
	if v := node.get(member); v == nil || v.kind != kindObject {
		s.fault(at.field(member), "missing", "write what the filter of type "+kind+" does")
		return ""
	}
	return member
}

func modify(in *headerModifier, out *mesh.RouteFilter) {
	lower := func(list []headerValue) []mesh.HeaderValue {
		var l []mesh.HeaderValue
		for _, h := range list {
			l = append(l, mesh.HeaderValue{Name: strings.ToLower(h.Name), Value: h.Value})
		}
		return l
	}
	out.Set, out.Add = lower(in.Set), lower(in.Add)
	for _, n := range in.Remove {
		out.Remove = append(out.Remove, strings.ToLower(n))
	}
}

func (s *scope) mirror(in *mirrorFilter, at *path, out *mesh.RouteFilter) {
	b := s.backendObject(in.BackendRef, at.field("backendRef"))
	out.Backend, out.MirrorPerMille = &b, 1000
	if in.Percent != nil {
		out.MirrorPerMille = int(*in.Percent) * 10
	}
	if f := in.Fraction; f != nil {
		of := int64(100)
		if f.Denominator != nil && *f.Denominator > 0 {
			of = int64(*f.Denominator)
		}
		// The nearest in thousandths, but not nothing.
		out.MirrorPerMille = int((int64(f.Numerator)*2000 + of) / (2 * of))
		if f.Numerator > 0 {
			out.MirrorPerMille = max(out.MirrorPerMille, 1)
		}
		switch {
		case in.Percent != nil:
			s.fault(at.field("fraction"), "percent and fraction together", "remove one of the two")
		case int64(f.Numerator) > of:
			s.fault(at.field("fraction"), "more than the whole", "write a numerator of at most the denominator")
		case int64(f.Numerator)*1000 != int64(out.MirrorPerMille)*of:
			s.warn(at.field("fraction"), "finer than the mesh copies", "write thousandths; "+strconv.Itoa(out.MirrorPerMille)+" in 1000 are copied")
		}
	}
}

func (s *scope) redirect(in *redirectFilter, at *path, matches []httpMatch, out *mesh.RouteFilter) {
	out.Scheme, out.Hostname, out.Port, out.StatusCode = text(in.Scheme, ""), text(in.Hostname, ""), port(in.Port), 302
	if c := in.StatusCode; c != nil {
		switch out.StatusCode = *c; *c {
		case 301, 302, 303, 307, 308:
		default:
			s.fault(at.field("statusCode"), "not a redirect", "write 301, 302, 303, 307 or 308")
		}
	}
	s.pathModifier(in.Path, at.field("path"), matches, out)
}

func (s *scope) pathModifier(in *pathModifier, at *path, matches []httpMatch, out *mesh.RouteFilter) {
	if in == nil {
		return
	}
	out.PathType = in.Type
	own, ownName, other, otherName := in.ReplaceFullPath, "replaceFullPath", in.ReplacePrefixMatch, "replacePrefixMatch"
	if in.Type == "ReplacePrefixMatch" {
		own, ownName, other, otherName = other, otherName, own, ownName
		prefix := len(matches) == 1 && (matches[0].Path == nil || text(matches[0].Path.Type, "PathPrefix") == "PathPrefix")
		if len(matches) != 0 && !prefix { // no match at all is the prefix / (API default)
			s.fault(at.field("type"), "ReplacePrefixMatch needs exactly one match, of a path prefix", "split the rule, or write ReplaceFullPath")
		}
	}
	if in.Type == "" {
		return
	}
	if own == nil {
		s.fault(at.field(ownName), "missing", "write the path of type "+in.Type)
		return
	}
	if out.Path = *own; other != nil {
		s.fault(at.field(otherName), "does not belong to type "+in.Type, "remove it")
	}
}

func (s *scope) grpcRoute(in *grpcRoute) *mesh.Route {
	out := s.route(in.Spec.routeParents, in.Spec.Hostnames)
	for i, r := range in.Spec.Rules {
		at := spec("rules").item(i)
		rule := mesh.RouteRule{Name: text(r.Name, ""), Affinity: s.affinity(r.SessionPersistence, at.field("sessionPersistence"))}
		for j, m := range r.Matches {
			rule.Matches = append(rule.Matches, s.grpcMatch(m, at.field("matches").item(j)))
		}
		if len(r.Matches) == 0 { // every call, but nothing that is none
			rule.Matches = []mesh.RouteMatch{{Method: grpcMethod}}
		}
		rule.Filters = s.httpFilters(grpcFilters(r.Filters), at, nil)
		for j, b := range r.BackendRefs {
			backend := s.backend(b.backendRef, at.field("backendRefs").item(j))
			backend.Filters = s.httpFilters(grpcFilters(b.Filters), at.field("backendRefs").item(j), nil)
			rule.Backends = append(rule.Backends, backend)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func grpcFilters(in []grpcFilter) []httpFilter {
	out := make([]httpFilter, len(in))
	for i, f := range in {
		out[i] = httpFilter{Type: f.Type, RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
	}
	return out
}

// grpcMethod is the method of every gRPC call.
const grpcMethod = "POST"

// grpcMatch turns a method match into a path match: a gRPC call is a POST to
// /SERVICE/METHOD (gRPC over HTTP/2, Requests).
func (s *scope) grpcMatch(m grpcMatch, at *path) mesh.RouteMatch {
	out := mesh.RouteMatch{Method: grpcMethod, Headers: s.valueMatches(m.Headers, at.field("headers"), true)}
	if m.Method == nil {
		return out
	}
	service, method := text(m.Method.Service, ""), text(m.Method.Method, "")
	at = at.field("method")
	if text(m.Method.Type, "Exact") == "RegularExpression" {
		s.regex(service, at.field("service"))
		s.regex(method, at.field("method"))
		out.PathType, out.Path = mesh.PathRegex, "/"+orElement(service)+"/"+orElement(method)
		return out
	}
	name := func(s string, dots bool) bool {
		for part := range strings.SplitSeq(s, ".") {
			ok := part != "" && (part[0] < '0' || part[0] > '9')
			for i := range len(part) {
				c := part[i]
				ok = ok && (c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9')
			}
			if !ok {
				return false
			}
		}
		return dots || !strings.Contains(s, ".")
	}
	if service != "" && !name(strings.TrimPrefix(service, "."), true) {
		s.fault(at.field("service"), quote(service)+" is not a gRPC service", "write PACKAGE.SERVICE")
	}
	if method != "" && !name(method, false) {
		s.fault(at.field("method"), quote(method)+" is not a gRPC method", "write the method's name alone")
	}
	switch {
	case service == "" && method == "":
		s.fault(at, "neither service nor method", "write one of them, or remove the match to match every call")
	case method == "":
		out.PathType, out.Path = mesh.PathPrefix, "/"+service
	case service == "":
		out.PathType, out.Path = mesh.PathRegex, "/[^/]+/"+regexp.QuoteMeta(method)
	default:
		out.PathType, out.Path = mesh.PathExact, "/"+service+"/"+method
	}
	return out
}

// orElement is an expression for one path element, any if there is none.
func orElement(expr string) string {
	if expr == "" {
		return "[^/]+"
	}
	return "(?:" + expr + ")"
}

// streamRoute converts TCPRoute, UDPRoute and TLSRoute: no matches beyond the server name.
func (s *scope) streamRoute(parents routeParents, hostnames []string, rules []streamRule) *mesh.Route {
	out := s.route(parents, hostnames)
	for i, r := range rules {
		rule := mesh.RouteRule{Name: text(r.Name, "")}
		for j, b := range r.BackendRefs {
			rule.Backends = append(rule.Backends, s.backend(b, spec("rules").item(i).field("backendRefs").item(j)))
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func (s *scope) referenceGrant(in *referenceGrant) *mesh.ReferenceGrant {
	out := &mesh.ReferenceGrant{Namespace: s.namespace, Name: s.name}
	for _, f := range in.Spec.From {
		out.From = append(out.From, mesh.GrantFrom{Group: f.Group, Kind: f.Kind, Namespace: f.Namespace})
	}
	for _, t := range in.Spec.To {
		out.To = append(out.To, mesh.GrantTo{Group: t.Group, Kind: t.Kind, Name: text(t.Name, "")})
	}
	return out
}

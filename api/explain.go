package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/entry"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ExplainRequest is what to explain.
type ExplainRequest struct {
	// Source is WORKLOAD[.NAMESPACE]@CLUSTER or a SPIFFE ID.
	Source string
	// Destination is a URL, host[:port] or SERVICE[.NAMESPACE].
	Destination string
	Method      string // "" is GET
	Path        string // "" is that of the URL, or /
	Headers     []string
	// Namespace of a source that names none; "" is default.
	Namespace string
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	e, err := Explain(s.cfg.World(), s.cfg.View, s.cfg.Now(), ExplainRequest{Source: q.Get("src"), Destination: q.Get("dst"),
		Method: q.Get("method"), Path: q.Get("path"), Headers: q["header"], Namespace: q.Get("namespace")})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, e)
}

const (
	scopeCluster    = "cluster"
	scopeClusterset = "clusterset"
)

// Explain says what would become of a request of a proxy of the view, computed with the
// functions that the proxies run: their routes, their balancer as it is before it has measured
// anything, their policies. The error is an *Error when the question cannot be understood.
func Explain(w *world.World, view ir.View, now time.Time, q ExplainRequest) (*Explanation, error) {
	x := &explainer{world: w, view: view, now: now, out: &Explanation{Cluster: view.Cluster}}
	if err := x.source(q); err != nil {
		return nil, err
	}
	if err := x.destination(q); err != nil {
		return nil, err
	}
	x.run()
	if x.err != nil {
		return nil, x.err
	}
	return x.out, nil
}

// explainer follows one request.
type explainer struct {
	world *world.World
	view  ir.View
	now   time.Time
	out   *Explanation

	bare     bool // the destination said no port
	udp      bool // it said that it is of UDP
	scheme   string
	outsider bool // who asks is outside the mesh
	name     mesh.ServiceName
	scope    mesh.Scope
	head     message.Head
	service  *ir.Service
	verdict  *route.Verdict
	err      error // of evaluation: a circle in the data
}

func cannotRead(what, text, why, remedy string) error {
	return &Error{Status: http.StatusBadRequest, Op: "explain", Object: fmt.Sprintf("%s %q", what, text), Problem: why, Remedy: remedy}
}

// eval is derive.Eval that keeps the first error.
func eval[K comparable, V any](x *explainer, f *derive.Func[K, V], k K) V {
	v, err := derive.Eval(x.world, f, k)
	if err != nil && x.err == nil {
		x.err = fmt.Errorf("explain: %w", err)
	}
	return v
}

// source finds out who asks.
func (x *explainer) source(q ExplainRequest) error {
	const want = "write WORKLOAD[.NAMESPACE]@CLUSTER, outside@CLUSTER or a SPIFFE ID"
	src := &x.out.Source
	src.Cluster = string(x.view.Cluster)
	var cluster mesh.ClusterName
	if strings.HasPrefix(q.Source, "spiffe://") {
		id, err := mesh.ParseIdentity(q.Source)
		if err != nil {
			return cannotRead("source", q.Source, err.Error(), want)
		}
		src.id, cluster = id, id.TrustDomain.Cluster()
		if x.out.HBONE = x.otherMesh(id); x.out.HBONE {
			src.Cluster, src.Identity = string(cluster), id.String()
			return nil
		}
	} else {
		word, at, ok := strings.Cut(q.Source, "@")
		name, namespace, dotted := strings.Cut(word, ".")
		if !dotted {
			if namespace = q.Namespace; namespace == "" {
				namespace = "default"
			}
		}
		if !ok || !mesh.IsLabel(name) || !mesh.IsLabel(namespace) || !mesh.IsLabel(at) {
			return cannotRead("source", q.Source, "it is not understood", want)
		}
		cluster = mesh.ClusterName(at)
		domain := mesh.TrustDomainOf(cluster, mesh.DefaultDomain)
		if c := eval(x, compile.ClusterOf, cluster); c != nil && c.TrustDomain != "" {
			domain = c.TrustDomain
		}
		src.id = mesh.Identity{TrustDomain: domain, Namespace: namespace, ServiceAccount: name}
		if x.outsider = word == entry.Source; x.outsider {
			src.id.Namespace, src.id.ServiceAccount, src.Note = "isthmus-system", "ingress", "a client outside the mesh, at an ingress gateway"
		} else {
			x.workload(name, namespace)
		}
	}
	if cluster != x.view.Cluster {
		return &Error{Status: http.StatusMisdirectedRequest, Op: "explain", Object: "source " + strconv.Quote(q.Source),
			Problem: fmt.Sprintf("it is in cluster %s, and this is %s", cluster, x.view.Cluster), Remedy: "ask cluster " + string(cluster)}
	}
	src.Identity = src.id.String()
	return nil
}

// workload finds the workload meant by a name: one of that name, else one that a service of
// the name selects, else none: the name is then taken for a service account's.
func (x *explainer) workload(name, namespace string) {
	src := &x.out.Source
	use := func(v *mesh.Workload) {
		src.Workload, src.Zone, src.id.ServiceAccount = v.Namespace+"/"+v.Name, v.Zone, v.ServiceAccount
	}
	own := func(kind mesh.Kind) (*mesh.Fact, bool) {
		return x.world.Get(mesh.Key{Kind: kind, Origin: x.world.Self(), Namespace: namespace, Name: name})
	}
	if f, ok := own(mesh.KindWorkload); ok {
		use(f.Value.(*mesh.Workload))
		return
	}
	if f, ok := own(mesh.KindService); ok {
		selector := f.Value.(*mesh.Service).Selector
		if first, ok := world.FirstPair(selector); ok {
			for _, k := range x.world.Members(world.Labelled(mesh.KindWorkload, namespace, first, selector[first])) {
				if f, ok := x.world.Get(k); ok && contains(f.Value.(*mesh.Workload).Labels, selector) {
					use(f.Value.(*mesh.Workload))
					src.Note = "workload " + src.Workload + ", one of service " + namespace + "/" + name
					return
				}
			}
		}
	}
	src.Note = "no workload is named " + namespace + "/" + name + " in this cluster: taken for a service account"
}

func contains(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// destination reads what is asked for.
func (x *explainer) destination(q ExplainRequest) error {
	const want = "write a URL, HOST[:PORT] or SERVICE[.NAMESPACE]"
	text := q.Destination
	req := &x.out.Request
	req.Method, req.Port = strings.ToUpper(q.Method), 80
	if req.Method == "" {
		req.Method = "GET"
	}
	x.bare = !strings.Contains(text, "://")
	if x.bare {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return cannotRead("destination", q.Destination, "it is not understood", want)
	}
	x.scheme = u.Scheme
	switch u.Scheme {
	case "http", "grpc", "tcp":
	case "udp":
		x.udp = true
	case "https", "tls":
		req.Port = 443
	default:
		return cannotRead("destination", q.Destination, "the scheme "+u.Scheme+" is not carried", "write http://, https://, tls://, tcp:// or udp://")
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return cannotRead("destination", q.Destination, "the port is not a number from 1 to 65535", want)
		}
		req.Port, x.bare = uint16(n), false
	}
	req.Host, req.Path = u.Hostname(), u.RequestURI()
	if q.Path != "" {
		if req.Path = q.Path; !strings.HasPrefix(req.Path, "/") {
			return cannotRead("path", q.Path, "it does not begin with /", "write /"+q.Path)
		}
	}
	h := &x.head
	h.Reset()
	normal, problem := route.NormalPath([]byte(req.Path)) // what a proxy matches, judges and forwards
	if problem != "" {
		return cannotRead("path", req.Path, problem, "a proxy answers 400 malformed_request to it; write another path")
	}
	req.Path = string(normal)
	h.Method, h.Scheme, h.Path = h.KeepString(req.Method), h.KeepString("http"), h.KeepString(req.Path)
	for _, line := range q.Headers {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || name == "" {
			return cannotRead("header", line, "it is not understood", "write NAME: VALUE")
		}
		h.Add(name, value)
		req.Headers = append(req.Headers, name+": "+value)
	}
	return nil
}

func refused(r mesh.Reason, format string, args ...any) Outcome {
	return Outcome{Refusal, r.Status(), r, fmt.Sprintf(format, args...)}
}

// run follows the stages of the proxy's outbound side.
func (x *explainer) run() {
	if x.out.HBONE {
		x.out.Outcome = x.byHBONE()
		return
	}
	identify := x.identify
	if x.outsider {
		identify = x.enter
	}
	if o, ok := identify(); !ok {
		x.out.Outcome = o
		return
	}
	authority := x.out.Request.Host
	if x.out.Request.Port != 80 {
		authority += ":" + strconv.Itoa(int(x.out.Request.Port))
	}
	x.head.Authority = x.head.KeepString(authority)
	if !x.outsider { // a listener has no policy: that of the backend counts
		x.out.Traffic = trafficInForce(&x.service.Traffic)
	}
	x.faults()
	if o, ok := x.route(); !ok {
		x.out.Outcome = o
		return
	}
	x.backends()
	best := &x.out.Backends[0]
	for i := range x.out.Backends {
		if x.out.Backends[i].Share > best.Share {
			best = &x.out.Backends[i]
		}
	}
	x.out.Outcome = best.Outcome
}

// identify resolves the host as the proxy does; false when that ends the request.
func (x *explainer) identify() (Outcome, bool) {
	req, src := &x.out.Request, x.out.Source.id
	name, scope, err := mesh.ParseHost(req.Host, src.Namespace)
	if addr, e := netip.ParseAddr(req.Host); e == nil {
		name, scope, err = x.byAddress(addr), mesh.ScopeClusterset, nil
	}
	if err != nil || name.IsZero() {
		return x.outside(), false
	}
	in := compile.In{Service: name, View: x.view}
	if x.service = eval(x, compile.ServiceOf, in); x.service == nil {
		if !strings.Contains(req.Host, ".") {
			return x.outside(), false
		}
		return refused(mesh.ReasonUnknownHost, "no cluster of the mesh has a service %s that is exported to this one", name), false
	}
	x.name, x.scope = name, scope
	n := &Name{Service: name.String(), Scope: scopeClusterset}
	if scope == mesh.ScopeCluster {
		n.Scope = scopeCluster
	}
	if eps := eval(x, compile.EndpointsOf, in); eps != nil {
		for _, g := range eps.Groups {
			n.Clusters = append(n.Clusters, NameOrigin{g.Cluster, g.Exported})
		}
	}
	x.out.Name = n
	at := x.portIndex(req.Port)
	if at < 0 && x.bare && len(x.service.Ports) > 0 {
		at, req.Port = 0, x.service.Ports[0].Port
	}
	if at < 0 {
		return refused(mesh.ReasonUnknownPort, "service %s has no port %d", name, req.Port), false
	}
	n.Protocol = string(x.service.Ports[at].Protocol)
	return Outcome{}, true
}

// portIndex is that of a port; of two with one number, that of UDP is meant only where it was asked for.
func (x *explainer) portIndex(port uint16) int {
	at := slices.IndexFunc(x.service.Ports, func(p ir.Port) bool { return p.Port == port && (p.Protocol == mesh.ProtocolUDP) == x.udp })
	if at < 0 && !x.udp {
		at = slices.IndexFunc(x.service.Ports, func(p ir.Port) bool { return p.Port == port })
	}
	return at
}

func (x *explainer) byAddress(a netip.Addr) mesh.ServiceName {
	for f := range x.world.All() {
		if v, ok := f.Value.(*mesh.Service); ok && f.Origin == x.world.Self() && slices.Contains(v.Addresses, a) {
			return v.ServiceName
		}
	}
	return mesh.ServiceName{}
}

func (x *explainer) outside() Outcome {
	src := x.out.Source
	p := eval(x, compile.ProxyOf, compile.ProxyKey{ID: src.Workload, Identity: src.id, View: x.view})
	if p != nil && p.OutboundAllowAny {
		return Outcome{Answer: Outside, Detail: strconv.Quote(x.out.Request.Host) + " is not a name of the mesh, and the mesh lets requests out (Mesh.spec.outbound)"}
	}
	return refused(mesh.ReasonOutsideMesh, "%q is not a name of the mesh, and the mesh lets nothing out", x.out.Request.Host)
}

// route matches with the proxy's own matcher; false when that ends the request.
func (x *explainer) route() (Outcome, bool) {
	choice := &RouteChoice{Rule: -1}
	x.out.Route = choice
	if !x.service.Routed {
		return Outcome{}, true
	}
	routes, err := route.NewTable(x.service.Routes)
	if err != nil {
		return refused(mesh.ReasonNotReady, "proxies refuse the routes and go on with the ones before: %v", err), false
	}
	verdicts := routes.Explain(&x.head, x.out.Request.Port, x.outsider && x.udp || !x.outsider && x.out.Name.Protocol == string(mesh.ProtocolUDP), x.out.Source.id.Namespace)
	for i := range verdicts {
		v := &verdicts[i]
		choice.Attached = choice.Attached || !v.Others
		c := RouteConsidered{Object: v.Object, Rule: v.Rule, Match: matchText(v.Match), Why: v.Why}
		if v.Why == "" {
			if c.Taken = x.verdict == nil; c.Taken {
				x.verdict, choice.Object, choice.Rule = v, v.Object, v.Rule
			} else {
				c.Why = "an earlier one matches"
			}
		}
		choice.Considered = append(choice.Considered, c)
	}
	switch {
	case x.verdict == nil && choice.Attached || len(verdicts) == 0:
		choice.Attached = true
		return refused(mesh.ReasonNoRoute, "routes are attached to service %s and none matches", x.name), false
	case x.verdict == nil:
		return Outcome{}, true // for callers of other namespaces only: as if none were attached
	}
	if status := x.verdict.Redirect(&x.head); status != 0 {
		return Outcome{Answer: Redirected, Status: status, Detail: fmt.Sprintf("%s rule %d", choice.Object, choice.Rule)}, false
	}
	if !slices.ContainsFunc(x.verdict.Backends, func(b ir.Backend) bool { return b.Weight > 0 }) {
		return refused(mesh.ReasonNoBackend, "%s rule %d has no backend with a weight", choice.Object, choice.Rule), false
	}
	return Outcome{}, true
}

// backends follows each backend that may be drawn.
func (x *explainer) backends() {
	if x.verdict == nil {
		b := ir.Backend{Service: x.name, Port: x.out.Request.Port, Weight: 1}
		x.out.Backends = []BackendChoice{x.backend(&b, 1)}
		return
	}
	var sum uint64
	for _, b := range x.verdict.Backends {
		sum += uint64(b.Weight)
	}
	for i := range x.verdict.Backends {
		b := &x.verdict.Backends[i]
		x.out.Backends = append(x.out.Backends, x.backend(b, float64(b.Weight)/float64(sum)))
	}
}

func (x *explainer) backend(b *ir.Backend, share float64) BackendChoice {
	c := BackendChoice{Service: b.Service.String(), Port: b.Port, Weight: b.Weight, Share: share}
	if c.Port == 0 {
		c.Port = x.out.Request.Port
	}
	if b.Missing != "" {
		c.Outcome = refused(mesh.ReasonNoBackend, "%s rule %d: %s", x.verdict.Object, x.verdict.Rule, b.Missing)
		return c
	}
	var head message.Head
	head.CopyFrom(&x.head)
	if x.verdict != nil {
		x.verdict.Forward(&head, b)
		if string(head.Path) != x.out.Request.Path {
			c.Path = string(head.Path)
		}
	}
	in := compile.In{Service: b.Service, View: x.view}
	eps, svc := eval(x, compile.EndpointsOf, in), eval(x, compile.ServiceOf, in)
	if eps == nil || svc == nil {
		c.Outcome = refused(mesh.ReasonNoEndpoint, "service %s has no endpoint anywhere", b.Service)
		return c
	}
	view := balance.NewView(balance.Config{Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return eval(x, compile.ClusterOf, n) },
		Cluster: x.view.Cluster, Proxy: x.out.Source.Workload, Zone: x.out.Source.Zone, Strategy: svc.Traffic.Strategy, Distribution: svc.Traffic.Distribution, Staleness: svc.Traffic.Staleness, Balancing: svc.Traffic.Balancing, Outlier: svc.Traffic.Outlier})
	ask := &balance.Ask{Scope: x.scope, Strategy: svc.Traffic.Strategy, Now: x.now.UnixNano()}
	x.spread(&c, view, b.Service)
	for _, k := range view.Explain(ask) {
		line := Candidate{Cluster: k.Cluster, Endpoint: k.Endpoint, Kept: k.Dropped == balance.Kept, Why: string(k.Dropped), Detail: k.Detail}
		if line.Endpoint != "" && !line.Kept && k.Dropped != balance.DropEjected && k.Dropped != balance.DropTried {
			continue // its cluster's line says it
		}
		if line.Endpoint == "" {
			line.Price, line.Detail = x.priceText(k.Cluster), line.Detail+eval(x, compile.ClusterOf, k.Cluster).Barred(eps)
		}
		c.Candidates = append(c.Candidates, line)
	}
	pick, reason := view.Pick(ask)
	if reason != mesh.ReasonNone {
		c.Outcome = refused(reason, "no cluster is left for service %s", b.Service)
		return c
	}
	x.authorise(&c, b, &head, pick.Endpoint.Cluster)
	x.lastHop(&c, b.Service, svc, pick.Endpoint.Cluster)
	if c.Outcome.Answer == Forwarded && !slices.ContainsFunc(c.Candidates, func(k Candidate) bool { return k.Kept }) {
		c.Outcome.Detail += ", as a last resort: no candidate is left that is wise"
	}
	return c
}

// authorise asks the policies of the cluster that is chosen from.
func (x *explainer) authorise(c *BackendChoice, b *ir.Backend, head *message.Head, at mesh.ClusterName) {
	access := x.access(b.Service, at)
	if access == nil {
		c.Outcome = Outcome{Answer: Forwarded, Detail: "to cluster " + string(at)}
		return
	}
	path, _, _ := strings.Cut(string(head.Path), "?")
	d := policy.Compile(access, at).Admit(policy.Request{Caller: x.out.Source.id, Port: c.Port, Method: string(head.Method), Path: path}, x.carriesBytes(c.Port))
	x.verdictOf(c, d, at)
}

// access is who may call a service in a cluster. Of another cluster it is what would hold
// here if the service were ours and exported: its policies are replicated unless they stay home.
func (x *explainer) access(s mesh.ServiceName, at mesh.ClusterName) *ir.Access {
	w := x.world
	if at != x.view.Cluster {
		key := mesh.Key{Kind: mesh.KindService, Origin: w.Self(), Namespace: s.Namespace, Name: s.Name}
		export := key
		export.Kind = mesh.KindServiceExport
		service, exported := &mesh.Service{ServiceName: s}, &mesh.ServiceExport{ServiceName: s}
		w, _ = w.Edit([]world.Edit{
			world.Put(&mesh.Fact{Key: key, Value: service, Digest: ir.DigestOf(service)}),
			world.Put(&mesh.Fact{Key: export, Value: exported, Digest: ir.DigestOf(exported)}),
		})
	}
	a, err := derive.Eval(w, compile.AccessOf, s)
	if err != nil {
		x.err = errors.Join(x.err, err)
	}
	return a
}

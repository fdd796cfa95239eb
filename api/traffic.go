//house:exempt a table: a policy in words

package api

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/capacities"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/core/price"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TrafficInForce is the effective traffic policy of a service.
type TrafficInForce struct {
	Strategy       string `json:"strategy"`
	RequestTimeout string `json:"requestTimeout"`
	Retries        int    `json:"retries"`
	// Balancing is how an endpoint is chosen, in words.
	Balancing string `json:"balancing"`
	// Details are what else is set and not as everywhere, a line each: sessions, health
	// checks, limits, rate limits.
	Details []string `json:"details,omitempty"`
	// Faults that are made on purpose, a line each, with the object that states it.
	Faults   []string `json:"faults,omitempty"`
	Policies []string `json:"policies,omitempty"`
}

func trafficInForce(t *ir.Traffic) *TrafficInForce {
	out := &TrafficInForce{Strategy: string(t.Strategy), RequestTimeout: "none", Retries: t.Retry.Attempts, Policies: t.Policies,
		Balancing: balancingText(&t.Balancing)}
	if t.RequestTimeout > 0 {
		out.RequestTimeout = t.RequestTimeout.String()
	}
	add := func(format string, args ...any) { out.Details = append(out.Details, fmt.Sprintf(format, args...)) }
	if text := distributionText(&t.Distribution); text != "" {
		add("%s", text)
	}
	if s := t.Staleness; s.When != "" {
		add("a cluster last heard more than %s ago is %s", s.Max, map[mesh.WhenStale]string{mesh.WhenStaleExclude: "excluded", mesh.WhenStaleLastResort: "the last resort"}[s.When])
	}
	if a := t.Affinity; a != nil {
		add("%s", affinityText(a))
	}
	if t.Retry.AnyMethod {
		add("retries of any method, on %s", strings.Join(t.Retry.On, ", "))
	}
	if h := t.Health; h != nil {
		add("health by %s every %s, out after %d failures", healthText(h), h.Interval, h.Unhealthy)
	}
	if l := limitsText(&t.Limits); l != "" {
		add("limits of %s", l)
	}
	if a := t.Admission; a.Mode == mesh.AdmissionAdaptive {
		wait := "150ms, or as long as a request takes"
		if a.MaxWait > 0 {
			wait = a.MaxWait.String()
		}
		add("admission by criticality, waits of %s at most", wait)
	}
	if t.Criticality != "" {
		add("requests that say no criticality are %s", t.Criticality)
	}
	if t.Fallback != nil {
		add("%s", fallbackText(t.Fallback))
	}
	for i := range t.RateLimits {
		add("rate limit %s", rateText(&t.RateLimits[i]))
	}
	for i := range t.Faults {
		out.Faults = append(out.Faults, faultText(&t.Faults[i]))
	}
	return out
}

// narrateShares writes how requests are spread over clusters.
func narrateShares(b *strings.Builder, how string, shares []ClusterShare) {
	if len(shares) == 0 {
		return
	}
	parts := make([]string, len(shares))
	for i, s := range shares {
		parts[i] = fmt.Sprintf("%s %.1f %%", s.Cluster, 100*s.Share)
	}
	fmt.Fprintf(b, "          %s: %s\n", how, strings.Join(parts, ", "))
}

// priceText is what a GiB to a cluster and back costs, by what is stated here and there, else by list.
func (x *explainer) priceText(to mesh.ClusterName) string {
	self := x.view.Cluster
	named := func(origin, n mesh.ClusterName) *mesh.Cluster {
		if f, ok := x.world.Get(mesh.Key{Kind: mesh.KindCluster, Origin: origin, Name: string(n)}); ok {
			return f.Value.(*mesh.Cluster)
		}
		return nil
	}
	here, there, back := named(self, self), named(self, to), named(to, self)
	if here == nil || there == nil {
		return ""
	}
	stated := 0.0
	if back != nil {
		stated = back.EgressPerGiB
	}
	out, in := price.Between(here, there, there.EgressPerGiB), price.Between(there, here, stated)
	switch {
	case !out.Known() && !in.Known():
		return ""
	case !in.Known():
		return fmt.Sprintf("a GiB there %.3g USD: %s", out.PerGiB, out.Source)
	case !out.Known():
		return fmt.Sprintf("a GiB back %.3g USD: %s", in.PerGiB, in.Source)
	case out.Source == in.Source:
		return fmt.Sprintf("a GiB there %.3g and back %.3g USD: %s", out.PerGiB, in.PerGiB, out.Source)
	}
	return fmt.Sprintf("a GiB there %.3g USD: %s, back %.3g USD: %s", out.PerGiB, out.Source, in.PerGiB, in.Source)
}

// spread shows how the cluster's callers are spread by load, if they are.
func (x *explainer) spread(c *BackendChoice, view *balance.View, s mesh.ServiceName) {
	split := eval(x, compile.SplitOf, s)
	if split == nil {
		for _, share := range view.Shares() {
			c.Planned = append(c.Planned, ClusterShare{share.Cluster, share.Part})
		}
		return
	}
	c.Spend, c.Returning, c.Capacities = split.Spend, returns.Of(split), capacities.Of(split)
	shares := balance.SharesOf(split.Shares)
	for _, share := range shares {
		c.Split = append(c.Split, ClusterShare{share.Cluster, share.Part})
	}
	view.SetSplit(shares, x.now.UnixNano())
}

// distributionText is what a strategy was told; empty where that is nothing.
func distributionText(d *mesh.Distribution) string {
	var parts []string
	for _, p := range d.Order {
		parts = append(parts, p.String())
	}
	if len(parts) > 0 {
		return "own region, then " + strings.Join(parts, ", then ")
	}
	for _, w := range d.Weights {
		parts = append(parts, fmt.Sprintf("%d for %s", w.Weight, w.Place))
	}
	if d.DollarsPerHour > 0 {
		parts = append(parts, fmt.Sprintf("at most %g USD an hour for crossing", d.DollarsPerHour))
	}
	if d.SecondsPerDollar > 0 {
		parts = append(parts, fmt.Sprintf("a dollar is worth %g s of waiting", d.SecondsPerDollar))
	}
	if len(d.Weights) == 0 {
		return strings.Join(parts, ", ")
	}
	if len(parts) > 0 {
		return "weights " + strings.Join(parts, "; ")
	}
	return ""
}

// Summary is what every service has, on one line.
func (t *TrafficInForce) Summary() string {
	retries := "1 retry"
	if t.Retries != 1 {
		retries = fmt.Sprintf("%d retries", t.Retries)
	}
	return fmt.Sprintf("strategy %s, timeout %s, %s, %s", t.Strategy, t.RequestTimeout, retries, t.Balancing)
}

// faults says of each fault that is not for this request that it is not, as the proxy decides it.
func (x *explainer) faults() {
	id := x.out.Source.id
	at := ir.Caller{TrustDomain: id.TrustDomain, Cluster: x.view.Cluster}
	if c := eval(x, compile.ClusterOf, x.view.Cluster); c != nil {
		at.Jurisdiction = c.Jurisdiction
	}
	i := x.portIndex(x.out.Request.Port)
	bytes := i >= 0 && !x.service.Ports[i].Protocol.MayBeHTTP()
	for i := range x.service.Traffic.Faults {
		f := &x.service.Traffic.Faults[i].Fault
		takes, err := route.NewSelector(f.Match)
		switch {
		case err != nil || !bytes && !takes.Takes(&route.Ask{Head: &x.head}) || bytes && requestsText(&f.Match) != "":
			x.out.Traffic.Faults[i] += "; not this request"
		case !policy.MatchesSources(f.Sources, id, &at):
			x.out.Traffic.Faults[i] += "; not this caller"
		}
	}
}

// narrate writes it for people.
func (t *TrafficInForce) narrate(b *strings.Builder) {
	fmt.Fprintf(b, "\ntraffic   %s\n", t.Summary())
	for _, d := range t.Details {
		fmt.Fprintf(b, "          %s\n", d)
	}
	for _, f := range t.Faults {
		fmt.Fprintf(b, "          on purpose: %s\n", f)
	}
	for _, p := range t.Policies {
		fmt.Fprintf(b, "          by %s\n", p)
	}
}

func balancingText(x *mesh.Balancing) string {
	text := string(x.Algorithm)
	if x.Algorithm == mesh.AlgorithmConsistentHash {
		var keys []string
		for _, k := range x.Keys {
			keys = append(keys, keyText(k))
		}
		text = fmt.Sprintf("consistent hash (%s) of %s", x.Table, strings.Join(keys, ", else "))
	}
	if x.Warmup > 0 {
		text += ", warm-up " + x.Warmup.String()
	}
	return text
}

func keyText(k mesh.HashKey) string {
	switch {
	case k.Header != "":
		return "header " + k.Header
	case k.Cookie != "":
		return "cookie " + k.Cookie
	case k.Query != "":
		return "query parameter " + k.Query
	}
	return "the caller"
}

func affinityText(a *mesh.Affinity) string {
	text := "sessions by " + strings.ToLower(string(a.Kind)) + " " + a.Name
	if a.AbsoluteTimeout > 0 {
		text += ", for " + a.AbsoluteTimeout.String()
	}
	return text
}

func healthText(h *mesh.HealthCheck) string {
	switch h.Kind {
	case mesh.HealthHTTP:
		return "GET " + h.Path
	case mesh.HealthGRPC:
		return strings.TrimSpace("gRPC " + h.Service)
	}
	return "a connection"
}

func limitsText(l *mesh.Limits) string {
	var parts []string
	add := func(n int64, what string) {
		if n > 0 {
			parts = append(parts, strconv.FormatInt(n, 10)+" "+what)
		}
	}
	add(int64(l.Connections), "connections")
	add(int64(l.Pending), "waiting requests")
	add(int64(l.Requests), "requests in flight")
	add(int64(l.Concurrency), "requests in an application")
	add(int64(l.RequestHead), "bytes of a request's head")
	add(int64(l.ResponseHead), "bytes of an answer's head")
	add(l.RequestBody, "bytes of a request's body")
	add(l.ResponseBody, "bytes of an answer's body")
	if l.ReplayBody != mesh.MaxReplayBody {
		add(int64(l.ReplayBody), "bytes kept for a retry")
	}
	return strings.Join(parts, ", ")
}

// fallbackText is what answers in the service's place, and when.
func fallbackText(f *ir.Fallback) string {
	v := &f.Fallback
	methods := ""
	if !v.AnyMethod && v.Cache == nil {
		methods = ", of GET, HEAD and OPTIONS"
	}
	text := "fallback on " + strings.Join(v.On, ", ") + methods + ": "
	switch {
	case v.Static != nil:
		text += fmt.Sprintf("a static answer, %d with %d bytes", v.Static.Status, len(v.Static.Body))
	case v.Service != nil && f.Missing != "":
		text += "none, as " + f.Missing
	case v.Service != nil:
		text += "service " + v.Service.Service.String()
	case v.Cache != nil:
		text += "what it answered before, stale for " + v.Cache.MaxStale.String() + " at most"
	}
	return text + ", by " + f.Object
}

// fallbacks finds a fallback of a policy that leads nowhere.
func (s *Server) fallbacks(w *world.World, p *mesh.TrafficPolicy) []dangle {
	if p.Fallback == nil || p.Fallback.Service == nil {
		return nil
	}
	missing, err := derive.Eval(w, compile.FallbackMissing, compile.FallbackKey{View: s.cfg.View, Namespace: p.Namespace, To: *p.Fallback.Service})
	if err != nil || missing == "" {
		return nil
	}
	reason := "BackendNotFound"
	if strings.HasPrefix(missing, "no ReferenceGrant") {
		reason = "RefNotPermitted"
	}
	return []dangle{{"spec.fallback.service", reason, missing}}
}

func rateText(l *mesh.RateLimit) string {
	text := fmt.Sprintf("%s: %d in %s, %d at once", l.Name, l.Requests, l.Per, l.Burst)
	for i, k := range l.Keys {
		word := ", for each "
		if i > 0 {
			word = " and "
		}
		switch {
		case k.Identity:
			text += word + "identity"
		case k.Namespace:
			text += word + "namespace"
		case k.Cluster:
			text += word + "cluster"
		default:
			text += word + "header " + k.Header
		}
	}
	if m := requestsText(&l.Match); m != "" {
		text += ", of " + m
	}
	return text
}

func faultText(f *ir.Fault) string {
	v := &f.Fault
	var parts []string
	if v.Delay > 0 {
		wait := "wait " + v.Delay.String()
		if v.DelayJitter > 0 {
			wait += " to " + (v.Delay + v.DelayJitter).Round(time.Millisecond).String()
		}
		parts = append(parts, percentText(v.DelayMilliPercent)+" "+wait)
	}
	if v.Abort > 0 {
		parts = append(parts, fmt.Sprintf("%s get %d", percentText(v.AbortMilliPercent), v.Abort))
	}
	if v.Bandwidth > 0 {
		parts = append(parts, fmt.Sprintf("%s pass %d bytes a second", percentText(v.BandwidthMilliPercent), v.Bandwidth))
	}
	text := f.Object + ": " + strings.Join(parts, ", ")
	if m := requestsText(&v.Match); m != "" {
		text += ", of " + m
	}
	if len(v.Sources) > 0 {
		text += ", from some callers"
	}
	return text
}

func percentText(milli int) string {
	return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) + "%"
}

// requestsText is a selection of requests; empty for all.
func requestsText(m *mesh.RequestMatch) string {
	var parts []string
	if len(m.Methods) > 0 {
		parts = append(parts, strings.Join(m.Methods, "|"))
	}
	if len(m.Paths) > 0 {
		parts = append(parts, strings.Join(m.Paths, "|"))
	}
	for _, h := range m.Headers {
		parts = append(parts, "header "+h.Name+"="+h.Value)
	}
	return strings.Join(parts, " ")
}

// matchText is a match for people.
func matchText(m mesh.RouteMatch) string {
	var parts []string
	if m.Method != "" {
		parts = append(parts, m.Method)
	}
	if m.PathType != "" {
		parts = append(parts, string(m.PathType)+" "+m.Path)
	}
	for _, h := range m.Headers {
		parts = append(parts, "header "+h.Name+"="+h.Value)
	}
	for _, q := range m.Query {
		parts = append(parts, "query "+q.Name+"="+q.Value)
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func (t *LastHopTLS) narrate(b *strings.Builder, protocol string) {
	fmt.Fprintf(b, "  last    %s by TLS: %s\n", protocol, t.Object)
	if t.Refused != "" {
		fmt.Fprintf(b, "          the application is not spoken to: %s\n", t.Refused)
		return
	}
	asks := t.ServerName
	if len(t.ALPN) > 0 {
		asks += " and " + strings.Join(t.ALPN, ", ")
	}
	fmt.Fprintf(b, "          asks for %s; the certificate must be for %s, from authorities that are %s\n", asks, strings.Join(t.MustBe, " or "), strings.Join(t.Authorities, " or "))
}

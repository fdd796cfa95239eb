package api

import (
	"fmt"
	"io"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/capacities"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Explanation is what would become of a request, hop by hop, with the object and rule
// behind each step.
type Explanation struct {
	// Cluster whose proxies' knowledge it is.
	Cluster mesh.ClusterName `json:"cluster"`
	Source  Source           `json:"source"`
	// HBONE says that the source is of another mesh, and its connection bytes: there is no route, and Backends are the services
	// at the address, each of which must admit.
	HBONE   bool            `json:"hbone,omitempty"`
	Request Requested       `json:"request"`
	Name    *Name           `json:"name,omitempty"`
	Route   *RouteChoice    `json:"route,omitempty"`
	Traffic *TrafficInForce `json:"traffic,omitempty"`
	// Backends among which the request is drawn.
	Backends []BackendChoice `json:"backends,omitempty"`
	// Outcome of the most likely backend; others say their own.
	Outcome Outcome `json:"outcome"`
}

// Source is who asks.
type Source struct {
	Workload string        `json:"workload,omitempty"`
	Identity string        `json:"identity"`
	Zone     mesh.Zone     `json:"zone,omitempty"`
	Cluster  string        `json:"cluster"`
	id       mesh.Identity // Identity, parsed
	// Note says how the source was understood when it is not a workload by that name.
	Note string `json:"note,omitempty"`
}

// Requested is what is asked for.
type Requested struct {
	Method  string   `json:"method"`
	Host    string   `json:"host"`
	Port    uint16   `json:"port"`
	Path    string   `json:"path"`
	Headers []string `json:"headers,omitempty"` // "name: value"
}

// Name is what the host stands for.
type Name struct {
	Service  string       `json:"service"`
	Scope    string       `json:"scope"` // "clusterset" or "cluster"
	Protocol string       `json:"protocol,omitempty"`
	Clusters []NameOrigin `json:"clusters"`
}

// NameOrigin is a cluster that has the service.
type NameOrigin struct {
	Cluster  mesh.ClusterName `json:"cluster"`
	Exported bool             `json:"exported"`
}

// RouteChoice is which route takes the request.
type RouteChoice struct {
	// Attached says that routes are attached for this caller at all.
	Attached bool `json:"attached"`
	// Object and Rule of the route that was taken.
	Object     string            `json:"object,omitempty"`
	Rule       int               `json:"rule"`
	Considered []RouteConsidered `json:"considered,omitempty"`
}

// RouteConsidered is one match of one rule, in order of precedence.
type RouteConsidered struct {
	Object string `json:"object"`
	Rule   int    `json:"rule"`
	Match  string `json:"match"`
	Taken  bool   `json:"taken"`
	Why    string `json:"why,omitempty"` // it was not taken
}

// BackendChoice is one backend and where its requests go.
type BackendChoice struct {
	Service string `json:"service"`
	Port    uint16 `json:"port"`
	Weight  uint32 `json:"weight"`
	// Share of the requests, 0 to 1.
	Share float64 `json:"share"`
	// Path as the server sees it, when filters changed it.
	Path string `json:"path,omitempty"`
	// Split is how the cluster's requests are spread by load; none: the nearest come first.
	Split []ClusterShare `json:"split,omitempty"`
	// Spend is what crossing costs all callers of the service by load, in US dollars an hour.
	Spend float64 `json:"spend,omitempty"`
	// Returning are clusters that were lost and are on their way back.
	Returning []returns.Return `json:"returning,omitempty"`
	// Capacities are what clusters are thought to bear, and who says so.
	Capacities []capacities.Capacity `json:"capacities,omitempty"`
	// Planned is how the strategy spreads them by itself, while all that it names can serve.
	Planned    []ClusterShare `json:"planned,omitempty"`
	Candidates []Candidate    `json:"candidates,omitempty"`
	// Authorisations are the verdicts of the clusters that are chosen from.
	Authorisations []Authorisation `json:"authorisations,omitempty"`
	// Application is the last hop, where it is this cluster's: how another's is spoken to is known there alone.
	Application *LastHop `json:"application,omitempty"`
	Outcome     Outcome  `json:"outcome"`
}

// LastHop is how an application's proxy speaks to it.
type LastHop struct {
	// Protocol in which it is spoken to.
	Protocol string `json:"protocol"`
	// TLS is nil in the clear.
	TLS *LastHopTLS `json:"tls,omitempty"`
}

// LastHopTLS is a BackendTLSPolicy at work.
type LastHopTLS struct {
	Object string `json:"object"`
	// ServerName and ALPN are asked for.
	ServerName string   `json:"serverName,omitempty"`
	ALPN       []string `json:"alpn,omitempty"`
	// MustBe are the names of which the certificate must be for one, "Hostname x" or "URI x".
	MustBe []string `json:"mustBe,omitempty"`
	// Authorities are those who may have issued it: "the policy's", "the host's".
	Authorities []string `json:"authorities,omitempty"`
	// Refused, if not empty, is why the application is not spoken to at all.
	Refused string `json:"refused,omitempty"`
}

// ClusterShare is a cluster's part of requests, 0 to 1.
type ClusterShare struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Share   float64          `json:"share"`
}

// Candidate is a cluster, or an endpoint of one, kept or dropped.
type Candidate struct {
	Cluster  mesh.ClusterName `json:"cluster"`
	Endpoint string           `json:"endpoint,omitempty"`
	Kept     bool             `json:"kept"`
	Why      string           `json:"why,omitempty"` // it was dropped
	Detail   string           `json:"detail,omitempty"`
	// Price of what goes there and back, on a cluster's line; empty where none is known.
	Price string `json:"price,omitempty"`
}

// Authorisation is what a cluster's proxies answer to the caller.
type Authorisation struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Allowed bool             `json:"allowed"`
	Reason  mesh.Reason      `json:"reason,omitempty"`
	Object  string           `json:"object,omitempty"`
	Rule    int              `json:"rule"`
	Why     string           `json:"why"`
	Audited []string         `json:"audited,omitempty"`
	// Guess says that it was decided on what is replicated here: the cluster may have
	// policies of its own that are not.
	Guess bool `json:"guess,omitempty"`
}

// Outcome is how the request ends.
type Outcome struct {
	// Answer is "forwarded", "redirected", "refused" or "outside".
	Answer string      `json:"answer"`
	Status int         `json:"status,omitempty"`
	Reason mesh.Reason `json:"reason,omitempty"`
	Detail string      `json:"detail,omitempty"`
}

// The answers of an Outcome.
const (
	Forwarded  = "forwarded"
	Redirected = "redirected"
	Refusal    = "refused"
	Outside    = "outside"
)

func (o Outcome) String() string {
	switch o.Answer {
	case Refusal:
		return fmt.Sprintf("refused with %d %s: %s", o.Status, o.Reason, o.Detail)
	case Redirected:
		return fmt.Sprintf("redirected with %d: %s", o.Status, o.Detail)
	}
	return o.Answer + ": " + o.Detail
}

// Narrate writes the explanation for people.
func (e *Explanation) Narrate(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s:%d%s\n", e.Request.Method, e.Request.Host, e.Request.Port, e.Request.Path)
	for _, h := range e.Request.Headers {
		fmt.Fprintf(&b, "  %s\n", h)
	}
	fmt.Fprintf(&b, "from %s in cluster %s\n", e.Source.Identity, e.Source.Cluster)
	if e.Source.Note != "" {
		fmt.Fprintf(&b, "  %s\n", e.Source.Note)
	}
	if e.HBONE {
		fmt.Fprintf(&b, "  of another mesh: by HBONE to a workload of cluster %s, as bytes; every service that listens there must admit\n", e.Cluster)
	}
	e.narrateName(&b)
	e.narrateRoute(&b)
	if e.Traffic != nil {
		e.Traffic.narrate(&b)
	}
	for i := range e.Backends {
		e.Backends[i].narrate(&b, e.HBONE)
	}
	fmt.Fprintf(&b, "\noutcome   %s\n", e.Outcome)
	_, err := io.WriteString(out, b.String())
	return err
}

func (e *Explanation) narrateName(b *strings.Builder) {
	if e.Name == nil {
		return
	}
	fmt.Fprintf(b, "\nname      %s is service %s, %s\n", e.Request.Host, e.Name.Service, strings.TrimSpace(fmt.Sprintf("port %d %s", e.Request.Port, e.Name.Protocol)))
	for _, c := range e.Name.Clusters {
		how := "exported by"
		if !c.Exported {
			how = "not exported by"
		}
		fmt.Fprintf(b, "          %s %s\n", how, c.Cluster)
	}
	if e.Name.Scope == scopeCluster {
		fmt.Fprintf(b, "          the name stands for cluster %s only\n", e.Cluster)
	}
}

func (e *Explanation) narrateRoute(b *strings.Builder) {
	r := e.Route
	switch {
	case r == nil:
		return
	case !r.Attached:
		b.WriteString("\nroute     no route is attached: the service is its own backend\n")
	case r.Object == "":
		b.WriteString("\nroute     none of the attached routes matches\n")
	default:
		fmt.Fprintf(b, "\nroute     %s rule %d\n", r.Object, r.Rule)
	}
	for _, c := range r.Considered {
		mark, why := "-", c.Why
		if c.Taken {
			mark, why = "*", "taken"
		}
		fmt.Fprintf(b, "          %s %s rule %d (%s): %s\n", mark, c.Object, c.Rule, c.Match, why)
	}
}

func (c *BackendChoice) narrate(b *strings.Builder, bytes bool) {
	if bytes {
		fmt.Fprintf(b, "\nbackend   %s:%d\n", c.Service, c.Port)
	} else {
		fmt.Fprintf(b, "\nbackend   %s:%d, %.4g%% of the requests\n", c.Service, c.Port, 100*c.Share)
	}
	if c.Path != "" {
		fmt.Fprintf(b, "          as %s\n", c.Path)
	}
	narrateShares(b, "by load", c.Split)
	returns.Narrate(b, c.Returning)
	capacities.Narrate(b, c.Capacities)
	if c.Spend > 0 {
		fmt.Fprintf(b, "          crossing costs all callers %.3g USD an hour\n", c.Spend)
	}
	narrateShares(b, "by strategy", c.Planned)
	for _, x := range c.Candidates {
		mark, what := "+", "cluster "+string(x.Cluster)
		if x.Endpoint != "" {
			what = "  endpoint " + x.Endpoint
		}
		if x.Detail != "" {
			what += " (" + x.Detail + ")"
		}
		if !x.Kept {
			mark, what = "-", what+": "+x.Why
		}
		if x.Price != "" {
			what += "; " + x.Price
		}
		fmt.Fprintf(b, "          %s %s\n", mark, what)
	}
	for _, a := range c.Authorisations {
		verdict := "allows"
		if !a.Allowed {
			verdict = "denies"
		}
		by := a.Why
		if a.Object != "" {
			by = a.Object
			if a.Rule >= 0 {
				by += fmt.Sprintf(" rule %d", a.Rule)
			}
			by += ": " + a.Why
		}
		fmt.Fprintf(b, "  access  cluster %s %s: %s\n", a.Cluster, verdict, by)
		for _, p := range a.Audited {
			fmt.Fprintf(b, "          audited by %s\n", p)
		}
		if a.Guess {
			fmt.Fprintf(b, "          judged by what is replicated here; %s may have policies that stay home\n", a.Cluster)
		}
	}
	if c.Application != nil && c.Application.TLS != nil {
		c.Application.TLS.narrate(b, c.Application.Protocol)
	}
	if c.Outcome.Answer != Forwarded {
		fmt.Fprintf(b, "          %s\n", c.Outcome)
	}
}

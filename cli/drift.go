package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/cli/drain"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/core/drift"
)

// differencesMax bounds what is listed of one pair of clusters.
const differencesMax = 1000

// statusAnswer is what one cluster says of itself.
type statusAnswer struct {
	status *api.Status
	// said is nil where it does not say, for silence.
	said    *drift.Said
	silence string
	drains  []drains.State
	returns []returns.Return
}

// statusAndDigests asks a cluster for both. Digests that it does not have cost it nothing but a line.
func statusAndDigests(ctx context.Context, t target) (statusAnswer, error) {
	s, err := t.client.Status(ctx)
	if err != nil {
		return statusAnswer{}, err
	}
	out := statusAnswer{status: s, drains: drain.Known(ctx, t.client)}
	var back struct{ Returns []returns.Return }
	if t.client.Do(ctx, http.MethodGet, "/v1/returns", nil, "", &back) == nil { // an older control plane has none
		out.returns = back.Returns
	}
	out.said, err = t.client.Digests(ctx)
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusNotImplemented):
		out.said, out.silence = nil, "its version tells no digests"
	case err != nil:
		out.said, out.silence = nil, err.Error()
	}
	return out, nil
}

// drifted compares what clusters said. Clusters that were not asked are not in it.
func drifted(answers []answer[statusAnswer]) drift.Report {
	var asked []drift.Cluster
	for _, r := range answers {
		c := drift.Cluster{Name: r.cluster, Said: r.value.said, Reason: r.value.silence}
		if r.err != nil {
			c.Said, c.Reason = nil, "its control plane does not answer"
		}
		asked = append(asked, c)
	}
	return drift.Compare(asked)
}

// detail asks for the objects behind the pairs that differ: of the buckets that differ only.
func (a *app) detail(ctx context.Context, answers []answer[statusAnswer], r *drift.Report) {
	at := map[string]target{}
	for _, x := range answers {
		at[x.cluster] = x.target
		if x.err == nil && x.value.said != nil {
			r.Differences = append(r.Differences, drift.Proxies(x.value.said)...)
		}
	}
	for i := range r.Pairs {
		p := &r.Pairs[i]
		if p.State != drift.Differs {
			continue
		}
		found, err := differences(ctx, at[p.Origin], at[p.Cluster], *p)
		if err != nil {
			p.Reason += "; which objects differ is not known: " + err.Error()
		}
		r.Differences = append(r.Differences, found[:min(len(found), differencesMax)]...)
	}
	slices.SortStableFunc(r.Differences, func(x, y drift.Difference) int {
		return cmp.Or(cmp.Compare(x.Origin, y.Origin), cmp.Compare(x.Cluster, y.Cluster))
	})
}

func differences(ctx context.Context, origin, cluster target, p drift.Pair) ([]drift.Difference, error) {
	look := func(buckets string) (intended, stored *consistency.Objects, err error) {
		if intended, err = origin.client.DigestObjects(ctx, "tells", p.Cluster, buckets); err == nil {
			stored, err = cluster.client.DigestObjects(ctx, "holds", p.Origin, buckets)
		}
		return intended, stored, err
	}
	intended, stored, err := look("")
	if err != nil {
		return nil, err
	}
	odd := stored.Objects
	if buckets := consistency.Differ(intended, stored); buckets != "" {
		if intended, stored, err = look(buckets); err != nil {
			return nil, err
		}
		return drift.Objects(p, intended.Objects, stored.Objects), nil
	}
	// All is stored: what differs is not in force.
	return drift.Objects(p, withoutReasons(odd), odd), nil
}

// withoutReasons are objects as their origin has them: those that are stored there.
func withoutReasons(stored []drift.Object) (out []drift.Object) {
	for _, o := range stored {
		if o.NotInForce = ""; o.Version != "" {
			out = append(out, o)
		}
	}
	return out
}

// printDrift prints the report: pairs that are not equal, then objects.
func (a *app) printDrift(r drift.Report) error {
	if a.output == "json" || a.output == "yaml" {
		return a.printValue(r)
	}
	fmt.Fprintln(a.Out, r.Line())
	pairs := &table.Table{Head: []string{"ORIGIN", "CLUSTER", "STATE", "INTENDED", "STORED", "HEARD"}}
	for _, p := range r.Pairs {
		if p.State == drift.Equal && a.output != "wide" {
			continue
		}
		state := string(p.State)
		if p.State != drift.Equal {
			state = red + state
		}
		pairs.Add(p.Origin, p.Cluster, state, digestText(p.Intended), digestText(p.Stored), heardText(p.Stored))
	}
	if len(pairs.Rows) > 0 {
		fmt.Fprintln(a.Out)
		if err := pairs.Print(a.Out, a.colour()); err != nil {
			return err
		}
		for _, p := range r.Pairs {
			if p.State != drift.Equal {
				fmt.Fprintf(a.Out, "%s at %s: %s; %s\n", p.Origin, p.Cluster, p.Reason, p.Remedy)
			}
		}
	}
	if len(r.Differences) == 0 {
		return nil
	}
	fmt.Fprintln(a.Out)
	t := &table.Table{Head: []string{"ORIGIN", "CLUSTER", "OBJECT", "INTENDED", "STORED", "PROXY", "REASON", "REMEDY"}}
	for _, d := range r.Differences {
		object := d.Kind + " " + d.Name
		if d.Namespace != "" {
			object = d.Kind + " " + d.Namespace + "/" + d.Name
		}
		if d.Proxy != "" {
			t.Add(d.Origin, d.Cluster, object, "-", "-", d.Proxy, d.Reason, d.Remedy)
			continue
		}
		t.Add(d.Origin, d.Cluster, object, cmp.Or(d.Intended, "absent"), cmp.Or(d.Stored, "absent"), "-", d.Reason, d.Remedy)
	}
	return t.Print(a.Out, a.colour())
}

func digestText(s *drift.Summary) string {
	if s == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.8s (%d)", s.Digest, s.Objects)
}

// heardText is how old what is stored is.
func heardText(s *drift.Summary) string {
	switch {
	case s == nil:
		return "unknown"
	case s.AgeSeconds < 0:
		return "never"
	}
	return ageOf(s.AgeSeconds) + " ago"
}

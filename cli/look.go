package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/cli/drain"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/core/drift"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// clusterStatus is one row of isthmus status.
type clusterStatus struct {
	Cluster   string      `json:"cluster"`
	Reachable bool        `json:"reachable"`
	InSync    bool        `json:"inSync"`
	Problem   string      `json:"problem,omitempty"`
	Status    *api.Status `json:"status,omitempty"`
	// Drains are those that it knows.
	Drains []drains.State `json:"drains,omitempty"`
	// Returns are clusters on their way back, for its callers.
	Returns []returns.Return `json:"returns,omitempty"`
}

func (a *app) statusCommand() *cobra.Command {
	var drifts bool
	c := &cobra.Command{Use: "status", GroupID: groupLook, Args: cobra.NoArgs, Short: "how every cluster stands",
		Long: "One row a cluster: whether its control plane answers (within 2 s, unless --timeout says otherwise), is\n" +
			"in sync with every other and with its proxies. A peer that was not heard of for 3 s is not in sync.\n" +
			"Exit code 1 when any is not.\n\n" +
			"VERDICT is what the others say of it: Alive, StaleServing, Unreachable or Dead, with the reason below where it is\n" +
			"not Alive for all (wide: always, and each change). It moves no request: what each proxy's own cluster reaches does.\n\n" +
			"Below stand which cluster reaches which, and whether every cluster has stored what every other intends and\n" +
			"proxies have acknowledged it; --drift lists what differs, object by object, with the reason and the remedy,\n" +
			"and exits with 1 when anything does or is not known.",
		Example: "  isthmus status\n  isthmus status --drift\n  isthmus status -o json --cluster eu-west",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			targets, err := a.targets(ctx, true)
			if err != nil {
				return err
			}
			var rows []clusterStatus
			fine := true
			answers := askAll(ctx, a, targets, statusAndDigests)
			report := drifted(answers)
			if drifts {
				a.detail(ctx, answers, &report)
				if err := a.printDrift(report); err != nil {
					return err
				}
				if !report.Fine() {
					return errFindings
				}
				return nil
			}
			for _, r := range answers {
				row := clusterStatus{Cluster: r.cluster, Reachable: r.err == nil}
				if r.err != nil {
					row.Problem = r.err.Error()
				} else {
					row.Drains, row.Returns = r.value.drains, r.value.returns
					row.Status, row.InSync, row.Problem = r.value.status, r.value.status.InSync(), r.value.status.Problem
				}
				fine = fine && row.InSync
				rows = append(rows, row)
			}
			if err := a.printStatus(rows, report); err != nil {
				return err
			}
			if !fine {
				return errFindings
			}
			return nil
		}}
	c.Flags().BoolVar(&drifts, "drift", false, "list what differs between what clusters intend, others have stored and proxies have acknowledged")
	a.clusterFlags(c, true)
	a.outputFlag(c, "table", "wide", "json", "yaml")
	return c
}

func status(ctx context.Context, t target) (*api.Status, error)  { return t.client.Status(ctx) }
func proxies(ctx context.Context, t target) ([]api.Proxy, error) { return t.client.Proxies(ctx) }

// roleText is "primary", or "remote of" the primary that is followed.
func roleText(u *api.Uplink) string {
	switch {
	case u == nil:
		return "primary"
	case u.Primary == "":
		return red + "remote of none"
	}
	return "remote of " + string(u.Primary)
}

func (a *app) printStatus(rows []clusterStatus, report drift.Report) error {
	if a.output == "json" || a.output == "yaml" {
		return a.printValue(rows)
	}
	t := &table.Table{Head: []string{"CLUSTER", "REACHABLE", "IN SYNC", "PEERS", "PROXIES", "VERSION", "CERTIFICATES", "GATEWAYS", "ROLE", "VERDICT"}}
	for _, r := range rows {
		if r.Status == nil {
			t.Add(r.Cluster, red+"no", red+"unknown", "-", "-", "-", "-", "-", "-", verdictText(verdictsOf(rows, r.Cluster)))
			continue
		}
		t.Add(r.Cluster, "yes", yesNo(r.InSync), peersText(r.Status.Peers), proxiesText(r.Status.Proxies), r.Status.Version,
			certificatesText(r.Status.Certificates), gatewaysText(r.Status.Proxies), roleText(r.Status.Uplink), verdictText(verdictsOf(rows, r.Cluster)))
	}
	if err := t.Print(a.Out, a.colour()); err != nil {
		return err
	}
	if err := a.matrix(rows); err != nil {
		return err
	}
	a.verdictLines(rows)
	var all []drains.State
	for _, r := range rows {
		all = append(all, r.Drains...)
	}
	drain.Lines(a.Out, all, a.Now())
	back := map[string][]returns.Return{}
	for _, r := range rows {
		back[r.Cluster] = r.Returns
	}
	returns.Lines(a.Out, back)
	if err := a.replicas(rows); err != nil {
		return err
	}
	if a.output == "wide" {
		if err := a.verdictEvents(rows); err != nil {
			return err
		}
	}
	if len(rows) > 1 {
		fmt.Fprintf(a.Out, "\n%s\n", report.Line())
	}
	for _, r := range rows {
		if r.Problem != "" {
			fmt.Fprintf(a.Err, "%s: %s\n", r.Cluster, r.Problem)
		}
		if r.Status == nil {
			continue
		}
		if u := r.Status.Uplink; u != nil && u.Primary == "" {
			fmt.Fprintf(a.Err, "%s: follows no primary since %s: %s\n", r.Cluster, u.Since.Format(time.TimeOnly), u.Problem)
		}
		for _, p := range r.Status.Peers {
			if !p.InSync || a.output == "wide" {
				fmt.Fprintf(a.Err, "%s: peer %s is %s, in sync: %v, silent for %.1f s, rtt %.0f ms\n", r.Cluster, p.Cluster, p.State, p.InSync, p.AgeSeconds, p.RTTMillis)
			}
			if !p.InSync && p.Problem != "" {
				fmt.Fprintf(a.Err, "%s: peer %s: %s\n", r.Cluster, p.Cluster, p.Problem)
			}
		}
		for _, x := range r.Status.Replicas {
			if x.Problem != "" {
				fmt.Fprintf(a.Err, "%s: proxies that follow replica %s are not listed: %s\n", r.Cluster, x.Name, x.Problem)
			}
		}
		for _, p := range r.Status.Refused {
			fmt.Fprintf(a.Err, "%s: proxy %s is not served: %s\n", r.Cluster, p.ID, p.Problem)
		}
	}
	return nil
}

func peersText(peers []api.Peer) string {
	n := 0
	for _, p := range peers {
		if p.InSync {
			n++
		}
	}
	return share(n, len(peers))
}

func proxiesText(proxies []api.Proxy) string {
	n := 0
	for _, p := range proxies {
		if p.InSync {
			n++
		}
	}
	return share(n, len(proxies))
}

// share is "n/of", marked when it is not all.
func share(n, of int) string {
	text := fmt.Sprintf("%d/%d", n, of)
	if n < of {
		return red + text
	}
	return text
}

func gatewaysText(proxies []api.Proxy) string {
	var gateways []api.Proxy
	for _, p := range proxies {
		if p.Mode == "gateway" || p.Mode == "ingress" {
			gateways = append(gateways, p)
		}
	}
	return proxiesText(gateways)
}

func certificatesText(c api.Certificates) string {
	if c.TrustDomain == "" {
		return ""
	}
	text := fmt.Sprintf("%s generation %d", c.TrustDomain, c.Generation)
	if !c.Expires.IsZero() {
		text += " until " + c.Expires.UTC().Format("2006-01-02")
	}
	return text
}

func (a *app) proxyStatusCommand() *cobra.Command {
	c := &cobra.Command{Use: "proxy-status", Aliases: []string{"ps"}, GroupID: groupLook, Args: cobra.NoArgs, Short: "what each proxy was sent and has accepted",
		Long:    "One row a proxy of every cluster: resources sent and accepted, and versions it refuses (wide: by type,\nwith the reasons).",
		Example: "  isthmus proxy-status\n  isthmus ps --cluster us-east -o wide",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			targets, err := a.targets(ctx, true)
			if err != nil {
				return err
			}
			var all []api.Proxy
			answers := askAll(ctx, a, targets, proxies)
			for _, r := range answers {
				all = append(all, r.value...)
			}
			if err := a.printProxies(all); err != nil {
				return err
			}
			return failures(answers)
		}}
	a.clusterFlags(c, true)
	a.outputFlag(c, "table", "wide", "json", "yaml")
	return c
}

func (a *app) printProxies(all []api.Proxy) error {
	if a.output == "json" || a.output == "yaml" {
		return a.printValue(all)
	}
	t := &table.Table{Head: []string{"CLUSTER", "PROXY", "MODE", "ZONE", "IN SYNC", "SENT", "ACCEPTED", "REFUSED", "VERSION"}}
	if a.output == "wide" {
		t.Head = append(t.Head, "TYPE", "DIGEST SENT", "DIGEST ACCEPTED")
	}
	var refused []string
	for _, p := range all {
		state := yesNo(p.InSync)
		if p.Waiting != "" {
			state = red + p.Waiting
		}
		nacks := fmt.Sprint(p.Nacks)
		if p.Nacks > 0 {
			nacks = red + nacks
		}
		row := []string{string(p.Cluster), p.ID, p.Mode, string(p.Zone), state, fmt.Sprint(p.Sent), fmt.Sprint(p.Acked), nacks, p.Version}
		if a.output == "wide" {
			row = append(row, "all", "-", "-")
		}
		t.Add(row...)
		for _, y := range p.Types {
			if a.output == "wide" {
				t.Add("", "", "", "", yesNo(y.InSync), fmt.Sprint(y.Sent), fmt.Sprint(y.Acked), fmt.Sprint(len(y.Refused)), "-", y.Type, y.SentDigest, y.AckedDigest)
				for i := range 4 {
					t.Rows[len(t.Rows)-1][i] = "\u00b7"
				}
			}
			for _, r := range y.Refused {
				refused = append(refused, fmt.Sprintf("%s refuses %s %s: %s", p.ID, y.Type, r.Name, r.Message))
			}
		}
	}
	if err := t.Print(a.Out, a.colour()); err != nil {
		return err
	}
	for _, r := range refused {
		fmt.Fprintln(a.Err, r)
	}
	return nil
}

func (a *app) proxyConfigCommand() *cobra.Command {
	var namespace string
	c := &cobra.Command{Use: "proxy-config WORKLOAD[.NAMESPACE][@CLUSTER]", Aliases: []string{"pc"}, GroupID: groupLook, Args: cobra.ExactArgs(1), Short: "what a proxy runs",
		Long:    "Prints the configuration that a proxy has in force, as the proxy itself says it.",
		Example: "  isthmus proxy-config catalog-0.shop@eu-west\n  isthmus pc gateway -n isthmus-system --cluster us-east -o yaml", ValidArgsFunction: a.completeProxies,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			word, cluster, at := strings.Cut(args[0], "@")
			if at {
				a.cluster = cluster
			}
			workload, ns, dotted := strings.Cut(word, ".")
			if before, after, slash := strings.Cut(word, "/"); slash {
				ns, workload = before, after
			} else if !dotted {
				ns = namespace
			}
			targets, err := a.targets(ctx, !at)
			if err != nil {
				return err
			}
			var missing, failed error
			for _, r := range askAll(ctx, a, targets, func(ctx context.Context, t target) (json.RawMessage, error) {
				return t.client.ProxyConfig(ctx, ns+"/"+workload)
			}) {
				var refused *api.Error
				switch {
				case r.err == nil: // where it is
					return a.printValue(r.value)
				case errors.As(r.err, &refused) && refused.Status == http.StatusNotFound:
					missing = r.err
				case failed == nil: // it may be there
					failed = r.err
				}
			}
			return cmp.Or(failed, missing)
		}}
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the workload")
	a.clusterFlags(c, false)
	a.outputFlag(c, "json", "yaml")
	return c
}

// clusterOf is the cluster of a source, as far as it says.
func clusterOf(source string) string {
	if id, err := mesh.ParseIdentity(source); err == nil {
		return string(id.TrustDomain.Cluster())
	}
	_, at, _ := strings.Cut(source, "@")
	return at
}

func (a *app) explainCommand() *cobra.Command {
	var q api.ExplainRequest
	c := &cobra.Command{Use: "explain SRC DST", GroupID: groupLook, Args: cobra.ExactArgs(2), Short: "what would become of a request, and why",
		Long: "Follows a request hop by hop: name, route, backends, clusters and endpoints with the reason each is kept\n" +
			"or dropped, and who lets it in; with the object and rule behind each step. The functions that answer are\n" +
			"those that the proxies run. Exit code 1 when the request would be refused.\n\n" +
			"SRC is WORKLOAD[.NAMESPACE]@CLUSTER or a SPIFFE ID, or outside@CLUSTER for who comes to an ingress gateway there\n" +
			"(with the port of the listener); DST a URL, HOST[:PORT] or SERVICE[.NAMESPACE]. Of a source\n" +
			"in another mesh, which calls by HBONE, ask the cluster that is called, with --cluster; DST may be ADDRESS:PORT of a workload there.",
		Example:           "  isthmus explain frontend.shop@eu-west catalog.shop\n  isthmus explain shell@us-east http://catalog.shop.svc.clusterset.local/items --method POST --header 'x-beta: yes'",
		ValidArgsFunction: a.completeExplain,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			q.Source, q.Destination = args[0], args[1]
			if !cmd.Flags().Changed("cluster") {
				a.cluster = clusterOf(q.Source)
			}
			targets, err := a.targets(ctx, false)
			if err != nil {
				return err
			}
			e, err := targets[0].client.Explain(ctx, q)
			if err != nil {
				return err
			}
			if a.output == "json" || a.output == "yaml" {
				err = a.printValue(e)
			} else {
				err = e.Narrate(a.Out)
			}
			if err == nil && e.Outcome.Answer == api.Refusal {
				return errFindings
			}
			return err
		}}
	f := c.Flags()
	f.StringVar(&q.Method, "method", "GET", "method of the request")
	f.StringVar(&q.Path, "path", "", "path, with query (default that of the URL)")
	f.StringArrayVar(&q.Headers, "header", nil, "header, NAME: VALUE; may be repeated")
	f.StringVarP(&q.Namespace, "namespace", "n", "default", "namespace of a source that names none")
	a.clusterFlags(c, false)
	a.outputFlag(c, "table", "json", "yaml")
	return c
}

// quick bounds what completion may take: a shell waits for it.
func (a *app) quick(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, completionMax)
}

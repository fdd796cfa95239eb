package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/cli/events"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func (a *app) eventsCommand() *cobra.Command {
	var f event.Filter
	var about, since string
	var kinds []string
	var follow bool
	c := &cobra.Command{Use: "events", GroupID: groupLook, Args: cobra.NoArgs, Short: "what the mesh did by itself, and why",
		Long: "Each event says what happened, because of what, and what follows for requests; the oldest come first. Each control\n" +
			"plane writes down its own and keeps the newest 2,048 until it ends. All are asked, and their events are ordered by\n" +
			"their clocks. Exit code 1 when one does not answer.\n\n" +
			"With --service the events that those of the service follow from are shown too. --about is a cluster that an event\n" +
			"concerns or that wrote it down; --cluster says who is asked.",
		Example: "  isthmus events --since 10m\n  isthmus events --service catalog.shop\n  isthmus events --about us-east --kind path,verdict --follow\n  isthmus events -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Cluster = mesh.ClusterName(about)
			f.Kinds = nil
			for _, k := range kinds {
				f.Kinds = append(f.Kinds, event.Kind(k))
			}
			if err := events.Check(f, since, a.Now()); err != nil {
				return err
			}
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			targets, err := a.targets(ctx, true)
			if err != nil {
				return err
			}
			err = events.Run(cmd.Context(), &events.Terms{Out: a.Out, Err: a.Err, Plain: a.output == "table", Value: a.printValue, Follow: follow,
				Ask: func(ctx context.Context, query func(string) url.Values) []events.Said {
					return a.askEvents(ctx, targets, query)
				}}, f, since)
			if errors.Is(err, events.ErrFindings) {
				return errFindings
			}
			return err
		}}
	c.Flags().StringVar(&f.Service, "service", "", "only of this service: NAME.NAMESPACE, or NAME for any namespace")
	c.Flags().StringVar(&about, "about", "", "only what concerns this cluster")
	c.Flags().StringSliceVar(&kinds, "kind", nil, "only of these kinds: "+events.KindNames())
	c.Flags().StringVar(&since, "since", "", "only since then: how long ago (10m), or a time (2026-07-01T12:00:00Z)")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what happens")
	_ = c.RegisterFlagCompletionFunc("service", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.services(cmd), noFiles
	})
	_ = c.RegisterFlagCompletionFunc("about", a.completeClusters)
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(strings.Split(events.KindNames(), ", "), noFiles))
	_ = c.RegisterFlagCompletionFunc("since", cobra.FixedCompletions([]string{"1m", "10m", "1h"}, noFiles))
	a.clusterFlags(c, false)
	c.Flag("cluster").Usage = "the cluster to ask (default all)"
	a.outputFlag(c, "table", "json", "yaml")
	return c
}

// askEvents asks all at once.
func (a *app) askEvents(ctx context.Context, targets []target, query func(string) url.Values) (out []events.Said) {
	for _, r := range askAll(ctx, a, targets, func(ctx context.Context, t target) (said events.Answer, err error) {
		err = t.client.Do(ctx, http.MethodGet, "/v1/events?"+query(t.cluster).Encode(), nil, "", &said)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			err = errors.New("its version tells no events")
		}
		return said, err
	}) {
		out = append(out, events.Said{Cluster: r.cluster, Answer: r.value, Err: r.err})
	}
	return out
}

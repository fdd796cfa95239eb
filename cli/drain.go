package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/cli/drain"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const drainTargets = "Targets are CLUSTER, zone/ZONE@CLUSTER, gateway/N@CLUSTER (counted from 0) and\nWORKLOAD[.NAMESPACE]@CLUSTER."

func (a *app) drainCommand() *cobra.Command {
	ask := drains.Ask{Goal: mesh.GoalDrained}
	c := &cobra.Command{Use: "drain TARGET", GroupID: groupRun, Args: cobra.ExactArgs(1), Short: "take a cluster, zone, gateway or workload out of use",
		Long: "Looks first whether others can take over, and then sends the target less and less, until nothing is sent there\n" +
			"any more while another can serve. What is in progress ends there. It is refused (exit code 1) where nobody else\n" +
			"serves, or somebody would have more than 85 % of what it can serve to do; and it is given up, and turned round,\n" +
			"when that happens while it goes on. --force does neither.\n\n" +
			"The command follows the drain and may be stopped: the drain goes on, without it and without a control plane,\n" +
			"and the same command finds it again. isthmus undrain takes the target back into use.\n\n" + drainTargets,
		Example:           "  isthmus drain eu-west --dry-run\n  isthmus drain eu-west --over 2m\n  isthmus drain zone/a@eu-west\n  isthmus drain catalog-0.shop@eu-west\n  isthmus drain gateway/1@eu-west",
		ValidArgsFunction: a.completeDrain}
	c.Flags().BoolVar(&ask.Force, "force", false, "drain whatever becomes of who takes over")
	c.Flags().BoolVar(&ask.DryRun, "dry-run", false, "say who would take over, and change nothing")
	a.drainFlags(c, &ask)
	return c
}

func (a *app) undrainCommand() *cobra.Command {
	ask := drains.Ask{Goal: mesh.GoalServing}
	c := &cobra.Command{Use: "undrain TARGET", GroupID: groupRun, Args: cobra.ExactArgs(1), Short: "take back into use what was drained",
		Long: "The target gets a tenth of its part at once, or what it still has, and the rest little by little.\n" +
			"The command follows that and may be stopped: it goes on.\n\n" + drainTargets,
		Example:           "  isthmus undrain eu-west\n  isthmus undrain catalog-0.shop@eu-west --over 2m",
		ValidArgsFunction: a.completeUndrain}
	a.drainFlags(c, &ask)
	return c
}

func (a *app) drainFlags(c *cobra.Command, ask *drains.Ask) {
	wait := true
	over := c.Flags().Duration("over", drains.DefaultOver, "how long it takes")
	c.Flags().BoolVar(&wait, "wait", true, "follow it to its end")
	c.Flags().StringVar(&a.cluster, "cluster", "", "the cluster to ask (default the target's)")
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if ask.Target = args[0]; *over <= 0 {
			return fmt.Errorf("--over %v: write a time such as 30s", *over)
		}
		ask.Over = over.String()
		t, err := a.drainKeeper(cmd.Context(), ask.Target)
		if err != nil {
			return err
		}
		err = drain.Run(cmd.Context(), &drain.Terms{Out: a.Out, Err: a.Err, Progress: a.ErrTerminal, Plain: a.output == "table", Value: a.printValue, Bad: red,
			Table: func(head []string, rows [][]string) error {
				return (&table.Table{Head: head, Rows: rows}).Print(a.Out, a.colour())
			},
			Now: a.Now, Timeout: a.timeout}, drain.Keeper{Cluster: t.cluster, Client: t.client}, *ask, wait)
		if errors.Is(err, drain.ErrFindings) {
			return errFindings
		}
		return err
	}
	a.outputFlag(c, "table", "json", "yaml")
}

// completeDrain completes what may be drained.
func (a *app) completeDrain(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	targets, err := a.targets(ctx, false)
	if err != nil {
		return nil, noFiles
	}
	k, _ := manifest.KindNamed("clusters")
	items, err := targets[0].client.List(ctx, k, api.ListOptions{})
	if err != nil {
		return nil, noFiles
	}
	var out []string
	for _, i := range items {
		c := read(i)
		out = append(out, c.Metadata.Name)
		for _, z := range c.Spec.Zones {
			out = append(out, "zone/"+z+"@"+c.Metadata.Name)
		}
		for n := range c.Spec.Gateways {
			out = append(out, "gateway/"+strconv.Itoa(n)+"@"+c.Metadata.Name)
		}
	}
	return append(out, a.workloads(cmd)...), noFiles
}

// completeUndrain completes what is drained.
func (a *app) completeUndrain(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	targets, err := a.targets(ctx, false)
	if err != nil {
		return nil, noFiles
	}
	var out []string
	for _, d := range drain.Known(ctx, targets[0].client) {
		if d.Goal == mesh.GoalDrained || !d.Done {
			out = append(out, d.Target)
		}
	}
	return out, noFiles
}

// drainKeeper is the cluster that is asked: the one that the user names, or the target's own.
func (a *app) drainKeeper(ctx context.Context, text string) (target, error) {
	what, err := drains.ParseTarget(text)
	if err != nil {
		return target{}, err
	}
	ctx, cancel := a.bound(ctx)
	defer cancel()
	all, err := a.all(ctx)
	switch {
	case err != nil:
		return target{}, err
	case a.cluster != "":
		return named(all, a.cluster)
	case len(all) == 1:
		return all[0], nil
	}
	return named(all, string(what.Cluster))
}

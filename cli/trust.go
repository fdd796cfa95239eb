package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/cli/authority"
	"github.com/isthmus-mesh/isthmus/cli/table"
)

func (a *app) trustCommand() *cobra.Command {
	return authority.Command(groupRun, &authority.Terms{In: a.In, Out: a.Out, Err: a.Err, Value: a.printValue, Bad: red, Findings: errFindings,
		Plain: func() bool { return a.output == "table" },
		Table: func(head []string, rows [][]string) error {
			return (&table.Table{Head: head, Rows: rows}).Print(a.Out, a.colour())
		},
		Timeout: func() time.Duration { return a.timeout },
		Output:  func(c *cobra.Command) { a.outputFlag(c, "table", "json", "yaml") },
		Cluster: func(c *cobra.Command, says string) {
			a.clusterFlags(c, false)
			c.Flag("cluster").Usage = says
		},
		Clusters: func(ctx context.Context) (out []authority.Cluster, err error) {
			ctx, cancel := a.bound(ctx)
			defer cancel()
			targets, err := a.targets(ctx, true)
			for _, t := range targets {
				out = append(out, authority.Cluster{Name: t.cluster, Client: t.client})
			}
			return out, err
		}})
}

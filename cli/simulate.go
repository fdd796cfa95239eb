package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api/forecast"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// SimulateOptions are the flags of isthmus simulate.
type SimulateOptions struct {
	// Scenario is what was read, with Policies and Seeds as the flags have them.
	Scenario *manifest.Simulation
	// JSON asks for figures for machines; Events for what control planes did.
	JSON, Events bool
	// CSV and SVG name files for raw figures and a plot, "" for none.
	CSV, SVG string
}

func (a *app) simulateCommand() *cobra.Command {
	var files, policies, lost []string
	var seeds int
	var users string
	var o SimulateOptions
	c := &cobra.Command{Use: "simulate -f SCENARIO | --fail CLUSTER|REGION", GroupID: groupLook, Args: cobra.NoArgs, Short: "what would happen: a scenario on virtual time, or the loss of clusters",
		Long: "With --fail, asks a control plane what the loss of clusters or regions would do, from its newest load reports and by\n" +
			"the code that makes splits: for each service that is asked for, what each cluster would serve, how full it would be,\n" +
			"how long its callers would wait, what would be shed, and what residency would refuse. Nothing is changed or sent.\n" +
			"Exit code 1 where requests would be shed or refused. What is not exported only its own cluster knows (--cluster).\n\n" +
			"With -f, runs a scenario (kind: Simulation) on the balancer, the split, the breakers and the budgets that proxies\n" +
			"and control planes run, beside the policies of others and two oracles, in virtual time: nothing is sent. A\n" +
			"scenario with faults is refused as a whole, and every fault is listed with file, line and field.\n\n" +
			"Policies: isthmus, round-robin, local, istio, l3, p2c, waterfall (0.8 of the capacity, waterfall-0.6,\n" +
			"waterfall-0.95), oracle-fluid, oracle-queue. Ratios are to the better oracle that was run.",
		Example: "  isthmus simulate --fail eu-west\n  isthmus simulate --fail us-east-1 --users gone -o json\n  isthmus simulate -f scenario.yaml\n  isthmus simulate -f scenario.yaml --policy isthmus --policy istio --seeds 10\n" +
			"  isthmus simulate -f scenario.yaml -o json --csv raw.csv --svg plot.svg",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(lost) > 0 {
				return a.foresee(cmd.Context(), lost, users)
			}
			if a.output == "yaml" {
				return errors.New("a scenario's figures are printed as a table or JSON; write -o json")
			}
			scenario, err := a.readScenario(files)
			if err != nil {
				return err
			}
			if len(policies) > 0 {
				scenario.Policies = policies
			}
			if seeds < 0 || seeds > 1000 {
				return fmt.Errorf("--seeds=%d is out of range; write 1 to 1000", seeds)
			}
			if seeds > 0 {
				scenario.Seeds = seeds
			}
			o.Scenario, o.JSON = scenario, a.output == "json"
			return a.Simulate(cmd.Context(), o)
		}}
	f := c.Flags()
	f.StringSliceVarP(&files, "filename", "f", nil, "the scenario, or - for standard input")
	_ = c.MarkFlagFilename("filename", "yaml", "yml", "json")
	f.StringSliceVar(&lost, "fail", nil, "a cluster or region of the live mesh to take for lost; may be repeated")
	_ = c.RegisterFlagCompletionFunc("fail", a.completeClusters)
	f.StringVar(&users, "users", forecast.UsersMove, "what becomes of the users of a cluster that is lost: move (they come in by the nearest) or gone")
	_ = c.RegisterFlagCompletionFunc("users", cobra.FixedCompletions([]string{forecast.UsersMove, forecast.UsersGone}, cobra.ShellCompDirectiveNoFileComp))
	f.StringSliceVar(&policies, "policy", nil, "a policy to run instead of the scenario's; may be repeated")
	f.IntVar(&seeds, "seeds", 0, "how many seeds, instead of the scenario's")
	f.BoolVar(&o.Events, "events", false, "print what control planes did in the first seed")
	f.StringVar(&o.CSV, "csv", "", "file for raw figures, by policy, seed and second")
	f.StringVar(&o.SVG, "svg", "", "file for a plot of p99 and errors over time")
	c.MarkFlagsOneRequired("filename", "fail")
	for _, name := range []string{"filename", "policy", "seeds", "events", "csv", "svg"} {
		c.MarkFlagsMutuallyExclusive("fail", name)
	}
	a.outputFlag(c, "table", "json", "yaml")
	a.clusterFlags(c, false)
	return c
}

// readScenario reads one Simulation; its faults are listed as apply lists them.
func (a *app) readScenario(files []string) (*manifest.Simulation, error) {
	if len(files) != 1 {
		return nil, errors.New("want one scenario: write -f once")
	}
	inputs, err := a.readFiles(files, false)
	if err != nil {
		return nil, err
	}
	if len(inputs) != 1 {
		return nil, fmt.Errorf("read %s: want a file, not a folder of %d", files[0], len(inputs))
	}
	r := manifest.Parse(inputs[0].Name, inputs[0].Text, manifest.Options{})
	for _, w := range r.Warnings {
		fmt.Fprintln(a.Err, "warning:", w)
	}
	for _, f := range r.Faults {
		fmt.Fprintln(a.Err, f)
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(a.Err, "%s: %d faults; nothing was simulated\n", files[0], len(r.Faults))
		return nil, errFindings
	}
	if len(r.Objects) == 1 {
		if m, ok := r.Objects[0].Value.(*manifest.Simulation); ok {
			return m, nil
		}
	}
	return nil, fmt.Errorf("read %s: want one Simulation and nothing else", files[0])
}

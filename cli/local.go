package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
)

// local are the commands of a mesh on this machine.
func (a *app) local() []*cobra.Command {
	var out []*cobra.Command
	if a.Up != nil {
		out = append(out, a.upCommand())
	}
	if a.Down != nil {
		out = append(out, a.downCommand())
	}
	return append(out, a.drillCommand())
}

func (a *app) upCommand() *cobra.Command {
	var o UpOptions
	c := &cobra.Command{Use: "up", GroupID: groupMesh, Args: cobra.NoArgs, Short: "run a whole multi-cluster mesh on this machine",
		Long: "Runs three clusters, or those of a mesh file, on this machine: without root, without Kubernetes.\n" +
			"It prints addresses and three commands worth trying once every part works. Ctrl-C ends every process.",
		Example: "  isthmus up\n  isthmus up --detach\n  isthmus up -f mesh.yaml --state-dir ./mesh --address-base 30",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.StateDir, err = a.directory(); err != nil {
				return err
			}
			o.Args = []string{"up", "--state-dir", o.StateDir, "--topology", o.Topology}
			if o.File != "" {
				o.Args = append(o.Args, "--file", o.File)
			}
			if o.AddressBase != 0 {
				o.Args = append(o.Args, "--address-base", strconv.Itoa(o.AddressBase))
			}
			return a.Up(cmd.Context(), o)
		}}
	f := c.Flags()
	f.StringVarP(&o.File, "file", "f", "", "mesh file (default: eu-west, us-east and ap-south with a shop)")
	f.StringVar(&o.Topology, "topology", "multi-primary", "multi-primary, or primary-remote: the first cluster is primary, the others remote, but for those whose role the mesh file says")
	f.BoolVar(&o.Detach, "detach", false, "return once the mesh is ready")
	f.IntVar(&o.AddressBase, "address-base", 0, "cluster n gets 127.(BASE+n).0.0/16 (default 10)")
	_ = c.MarkFlagFilename("file", "yaml", "yml")
	return c
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{Use: "down", GroupID: groupMesh, Args: cobra.NoArgs, Short: "end the mesh on this machine",
		Long:    "Ends every process of the mesh and returns when the last has ended. Objects stay in the state\ndirectory for the next up.",
		Example: "  isthmus down\n  isthmus down --state-dir ./mesh",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.directory()
			if err != nil {
				return err
			}
			return a.Down(cmd.Context(), dir)
		}}
}

// drill is the body of POST /v1/local/drill.
type drill struct {
	Verb    string       `json:"verb"`
	Targets []string     `json:"targets"`
	Options drillOptions `json:"options"`
}

type drillOptions struct {
	Direction string `json:"direction,omitempty"`
	Only      string `json:"only,omitempty"`
	RTT       string `json:"rtt,omitempty"`
	Jitter    string `json:"jitter,omitempty"`
	Loss      string `json:"loss,omitempty"`
	Bandwidth string `json:"bandwidth,omitempty"`
}

func (a *app) drillCommand() *cobra.Command {
	c := &cobra.Command{Use: "drill", GroupID: groupMesh, Short: "break the local mesh on purpose",
		Long: "Kills, stops and cuts parts of the local mesh, and tells the mesh nothing of it. Targets are\n" +
			"CLUSTER, CLUSTER--CLUSTER, control-plane@CLUSTER, store@CLUSTER, gateway@CLUSTER, ingress@CLUSTER,\n" +
			"control-plane/N@CLUSTER and store/N@CLUSTER where a cluster has several (replicas in mesh.yaml),\n" +
			"SERVICE[.NAMESPACE]@CLUSTER and SERVICE[.NAMESPACE]/N@CLUSTER; sidecar: or app: in front names one of the two.",
		Example: "  isthmus drill kill catalog.shop@eu-west\n  isthmus drill partition eu-west--us-east\n  isthmus drill resume catalog.shop@eu-west"}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("there is no drill %q; see isthmus drill -h", args[0])
	}
	for _, v := range []struct{ verb, short, example string }{
		{"kill", "kill processes and keep them down until resume", "  isthmus drill kill store@eu-west"},
		{"pause", "stop processes as they stand (SIGSTOP)", "  isthmus drill pause control-plane@eu-west"},
		{"resume", "start or continue what was killed or paused", "  isthmus drill resume eu-west"},
		{"partition", "cut links", "  isthmus drill partition eu-west--us-east --direction a-to-b"},
		{"heal", "undo partition and slow", "  isthmus drill heal eu-west--us-east"},
		{"slow", "make links slower or lossy", "  isthmus drill slow eu-west--us-east --rtt 400ms --loss 2%"},
	} {
		c.AddCommand(a.drillVerb(v.verb, v.short, v.example))
	}
	return c
}

func (a *app) drillVerb(verb, short, example string) *cobra.Command {
	var o drillOptions
	c := &cobra.Command{Use: verb + " TARGET...", Short: short, Example: example, Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeDrills,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			client, _, err := a.console()
			if err != nil {
				return err
			}
			body, err := json.Marshal(drill{verb, args, o})
			if err != nil {
				return err
			}
			err = client.Do(ctx, http.MethodPost, "/v1/local/drill", bytes.NewReader(body), "application/json", nil)
			var refused *api.Error
			if errors.As(err, &refused) {
				refused.Op, refused.Object = "", "" // the mesh says both
				return err
			}
			if err != nil {
				return fmt.Errorf("drill %s: %w; does the mesh run? see isthmus status", verb, err)
			}
			for _, t := range args {
				fmt.Fprintf(a.Out, "%s: %s delivered\n", t, verb)
			}
			return nil
		}}
	f := c.Flags()
	switch verb {
	case "partition", "heal":
		f.StringVar(&o.Direction, "direction", "", "a-to-b, from the cluster named first, or b-to-a (default both)")
		f.StringVar(&o.Only, "only", "", "data, what requests need, or control, what control planes tell each other (default both)")
	case "slow":
		f.StringVar(&o.RTT, "rtt", "", "round-trip time, such as 400ms")
		f.StringVar(&o.Jitter, "jitter", "", "variation of it, such as 20ms")
		f.StringVar(&o.Loss, "loss", "", "share lost, such as 2%")
		f.StringVar(&o.Bandwidth, "bandwidth", "", "such as 10Mbps")
	}
	return c
}

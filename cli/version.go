package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/core/skew"
)

// versions is the answer of isthmus version.
type versions struct {
	Version string `json:"version"`
	// Parts are those of the mesh, this program the first.
	Parts []versionOf `json:"parts,omitempty"`
	// Upgrade is the safe order in which what is behind is upgraded.
	Upgrade []skew.Step `json:"upgrade,omitempty"`
	// Unknown are clusters that did not say.
	Unknown []string `json:"unknown,omitempty"`
}

// versionOf is one part of a mesh.
type versionOf struct {
	// Part is "ROLE" or "NAME@CLUSTER".
	Part    string     `json:"part"`
	Role    skew.Role  `json:"role"`
	Cluster string     `json:"cluster,omitempty"`
	Name    string     `json:"name,omitempty"`
	Version string     `json:"version"`
	State   skew.State `json:"state"`
	Why     string     `json:"why,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	var whole bool
	c := &cobra.Command{Use: "version", GroupID: groupLook, Args: cobra.NoArgs, Short: "versions of this program and of the mesh",
		Long: "Prints this program's version; with --mesh those of every control plane, relay and proxy of all clusters, how each\n" +
			"stands (two minor versions back are served, and proxies one minor version newer than their control plane), and\n" +
			"what to upgrade in which order. Exit code 1 when a part is beyond what is served.",
		Example: "  isthmus version\n  isthmus version --mesh -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			out := versions{Version: a.Version}
			if !whole {
				return a.printVersions(out)
			}
			targets, err := a.targets(ctx, true)
			if err != nil {
				return err
			}
			answers := askAll(ctx, a, targets, status)
			parts := []skew.Part{{Role: skew.CLI, Version: skew.Parse(a.Version), Build: a.Version}}
			texts := []string{a.Version}
			for _, r := range answers {
				if r.err != nil {
					out.Unknown = append(out.Unknown, r.cluster)
					continue
				}
				p, t := partsOf(r.cluster, r.value)
				parts, texts = append(parts, p...), append(texts, t...)
			}
			served := true
			report := skew.Judge(parts)
			for i, p := range parts {
				v := report.Verdicts[i]
				served = served && v.State != skew.Unsupported
				out.Parts = append(out.Parts, versionOf{partName(p), p.Role, p.Cluster, p.Name, texts[i], v.State, v.Why})
			}
			out.Upgrade = report.Steps
			if err := a.printVersions(out); err != nil {
				return err
			}
			if err := failures(answers); err != nil {
				return err
			}
			if !served {
				return errFindings
			}
			return nil
		}}
	c.Flags().BoolVar(&whole, "mesh", false, "ask the mesh too")
	a.outputFlag(c, "table", "json", "yaml")
	return c
}

// partsOf are the control plane or relay of a cluster and its proxies, with their versions as they say them.
func partsOf(cluster string, s *api.Status) (parts []skew.Part, texts []string) {
	add := func(role skew.Role, name, version string) {
		parts = append(parts, skew.Part{Role: role, Cluster: cluster, Name: name, Version: skew.Parse(version), Build: version})
		texts = append(texts, version)
	}
	role := skew.ControlPlane
	if s.Uplink != nil {
		role = skew.Relay
	}
	if len(s.Replicas) == 0 {
		add(role, "", s.Version)
	}
	for _, r := range s.Replicas {
		if r.Problem != "" && r.Version == "" {
			r.Version = "no answer"
		}
		add(role, r.Name, r.Version)
	}
	for _, p := range s.Proxies {
		role := skew.Sidecar
		if p.Mode == "gateway" {
			role = skew.Gateway
		}
		add(role, p.ID, p.Version)
	}
	return parts, texts
}

func partName(p skew.Part) string {
	switch {
	case p.Role == skew.CLI:
		return string(p.Role)
	case p.Name == "":
		return string(p.Role) + "@" + p.Cluster
	case p.Role.Proxy():
		return p.Name + "@" + p.Cluster
	}
	return string(p.Role) + "/" + p.Name + "@" + p.Cluster
}

func (a *app) printVersions(v versions) error {
	if a.output != "table" {
		return a.printValue(v)
	}
	if v.Parts == nil {
		_, err := fmt.Fprintln(a.Out, v.Version)
		return err
	}
	t := &table.Table{Head: []string{"PART", "ROLE", "VERSION", "SKEW"}}
	for _, p := range v.Parts {
		state := string(p.State)
		if p.State == skew.Unsupported {
			state = red + state
		}
		t.Add(p.Part, string(p.Role), p.Version, state)
	}
	for _, c := range v.Unknown {
		t.Add("control-plane@"+c, string(skew.ControlPlane), red+"no answer", string(skew.Unknown))
	}
	if err := t.Print(a.Out, a.colour()); err != nil {
		return err
	}
	for _, p := range v.Parts {
		if p.State == skew.Unsupported || p.State == skew.Early {
			fmt.Fprintf(a.Err, "%s: %s: %s\n", p.Part, p.State, p.Why)
		}
	}
	for i, s := range v.Upgrade {
		fmt.Fprintf(a.Out, "%d. %s\n", i+1, s)
	}
	return nil
}

package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// completionMax is how long a shell waits for names.
const completionMax = 2 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// Completion never reports errors: a mesh that does not answer has no names.

func (a *app) completeClusters(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	all, err := a.all(ctx)
	if err != nil {
		return nil, noFiles
	}
	var out []string
	for _, t := range all {
		out = append(out, t.cluster)
	}
	return out, noFiles
}

// names lists the names of a kind in the cluster that is asked.
func (a *app) names(cmd *cobra.Command, kind manifest.Kind, namespace string) []string {
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	targets, err := a.targets(ctx, false)
	if err != nil {
		return nil
	}
	items, err := targets[0].client.List(ctx, kind, api.ListOptions{Namespace: namespace})
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range items {
		out = append(out, read(i).Metadata.Name)
	}
	return out
}

func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	k, _ := manifest.KindNamed("namespaces")
	return append(a.names(cmd, k, ""), "default"), noFiles
}

// completeObjects completes KIND NAME… and KIND/NAME.
func (a *app) completeObjects(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	namespace, _ := cmd.Flags().GetString("namespace")
	word, _, slash := strings.Cut(typed, "/")
	if len(args) == 0 && !slash {
		return plurals(), noFiles
	}
	if !slash {
		word = args[0]
	}
	k, ok := manifest.KindNamed(word)
	if !ok {
		return nil, noFiles
	}
	if !k.Namespaced {
		namespace = ""
	}
	names := a.names(cmd, k, namespace)
	if slash {
		for i := range names {
			names[i] = word + "/" + names[i]
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), noFiles
}

// workloads lists WORKLOAD.NAMESPACE@CLUSTER of the proxies of all clusters.
func (a *app) workloads(cmd *cobra.Command) []string {
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	targets, err := a.targets(ctx, true)
	if err != nil {
		return nil
	}
	var out []string
	for _, r := range askAll(ctx, a, targets, proxies) {
		for _, p := range r.value {
			namespace, workload, _ := strings.Cut(p.ID, "/")
			out = append(out, workload+"."+namespace+"@"+r.cluster)
		}
	}
	return out
}

func (a *app) completeProxies(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, noFiles
	}
	return a.workloads(cmd), noFiles
}

// completeExplain completes a source, then a service.
func (a *app) completeExplain(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.workloads(cmd), noFiles
	case 1:
		return a.services(cmd), noFiles
	}
	return nil, noFiles
}

// services lists SERVICE.NAMESPACE of the first cluster.
func (a *app) services(cmd *cobra.Command) []string {
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	targets, err := a.targets(ctx, false)
	if err != nil {
		return nil
	}
	k, _ := manifest.KindNamed("services")
	items, err := targets[0].client.List(ctx, k, api.ListOptions{})
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range items {
		m := read(i).Metadata
		out = append(out, m.Name+"."+m.Namespace)
	}
	return out
}

// completeDrills completes what a drill may hit.
func (a *app) completeDrills(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := a.quick(cmd.Context())
	defer cancel()
	all, err := a.all(ctx)
	if err != nil {
		return nil, noFiles
	}
	var out []string
	services := a.services(cmd)
	for i, t := range all {
		out = append(out, t.cluster, "control-plane@"+t.cluster, "store@"+t.cluster, "gateway@"+t.cluster, "ingress@"+t.cluster)
		for _, other := range all[i+1:] {
			out = append(out, t.cluster+"--"+other.cluster)
		}
		for _, s := range services {
			out = append(out, s+"@"+t.cluster)
		}
	}
	return slices.DeleteFunc(out, func(n string) bool { return slices.Contains(args, n) }), noFiles
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// doomed is one object to delete.
type doomed struct {
	kind            manifest.Kind
	namespace, name string
}

func (a *app) deleteCommand() *cobra.Command {
	var s scope
	var files []string
	var recursive, ignore, every bool
	var dry string
	c := &cobra.Command{Use: "delete KIND NAME... | KIND/NAME... | -f FILE|DIR|-", GroupID: groupObjects, Short: "delete objects",
		Long:    "Deletes objects of a cluster: those named, those of a file, or those that a label selects.",
		Example: "  isthmus delete httproute split -n shop\n  isthmus delete -f policy.yaml\n  isthmus delete services -n shop -l team=a", ValidArgsFunction: a.completeObjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			if dry != "none" && dry != "server" {
				return fmt.Errorf("--dry-run=%s is not known; write --dry-run=server", dry)
			}
			if len(files) == 0 && len(args) == 0 || len(files) > 0 && len(args) > 0 {
				return errors.New("write either KIND NAME or -f FILE")
			}
			targets, err := a.targets(ctx, false)
			if err != nil {
				return err
			}
			var fromFiles []doomed
			if len(files) > 0 {
				if fromFiles, err = a.doomedIn(files, recursive, s.namespace); err != nil {
					return err
				}
			}
			for _, t := range targets {
				list := fromFiles
				if len(args) > 0 {
					if list, err = a.doomedBy(ctx, t, args, s, every); err != nil {
						return err
					}
				}
				if err := a.deleteAll(ctx, t, list, dry == "server", ignore); err != nil {
					return err
				}
			}
			return nil
		}}
	fileFlags(c, &files, &recursive)
	a.scopeFlags(c, &s)
	dryRunFlag(c, &dry)
	c.Flags().BoolVar(&ignore, "ignore-not-found", false, "objects that are not there are no error")
	c.Flags().BoolVar(&every, "all", false, "all objects of the kind in the namespace")
	a.clusterFlags(c, true)
	a.outputFlag(c, "table", "name")
	return c
}

// doomedIn reads the objects of files, in the order of deletes: what refers to others
// first.
func (a *app) doomedIn(paths []string, recursive bool, namespace string) ([]doomed, error) {
	inputs, err := a.readFiles(paths, recursive)
	if err != nil {
		return nil, err
	}
	var all []manifest.Result
	for _, f := range inputs {
		all = append(all, manifest.Parse(f.Name, f.Text, manifest.Options{Namespace: namespace}))
	}
	r := manifest.Join(all...)
	if n := len(r.Faults); n > 0 {
		return nil, a.printFaults(&api.ApplyResult{Faults: r.Faults}, fmt.Sprintf("%d faults in the input, nothing was deleted", n))
	}
	var out []doomed
	for _, o := range r.Objects {
		k, _ := manifest.KindNamed(o.Kind)
		out = append(out, doomed{k, o.Namespace, o.Name})
	}
	slices.SortStableFunc(out, func(x, y doomed) int { return y.kind.Order - x.kind.Order })
	return out, nil
}

// doomedBy finds the objects that arguments name.
func (a *app) doomedBy(ctx context.Context, t target, args []string, s scope, every bool) ([]doomed, error) {
	wants, err := parseObjects(args)
	if err != nil {
		return nil, err
	}
	var out []doomed
	for _, w := range wants {
		for _, n := range w.names {
			out = append(out, doomed{w.kind, s.namespace, n})
		}
		if len(w.names) > 0 {
			continue
		}
		if s.labels == "" && !every {
			return nil, fmt.Errorf("delete %s: which? write names, -l SELECTOR or --all", w.kind.Plural)
		}
		items, err := t.client.List(ctx, w.kind, s.list())
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			if o := read(i); o.Metadata.UID != "" { // another cluster's have none
				out = append(out, doomed{w.kind, o.Metadata.Namespace, o.Metadata.Name})
			}
		}
	}
	return out, nil
}

// deleteAll goes on after an object that is not there, and reports it last.
func (a *app) deleteAll(ctx context.Context, t target, list []doomed, dry, ignore bool) error {
	var missing error
	for _, d := range list {
		err := t.client.Delete(ctx, d.kind, d.namespace, d.name, dry)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			if !ignore && missing == nil {
				missing = err
			}
			continue
		}
		if err != nil {
			return err
		}
		resource := strings.ToLower(d.kind.Kind)
		if g := d.kind.Group(); g != "" {
			resource += "." + g
		}
		line := fmt.Sprintf("%s %q deleted", resource, d.name)
		if a.output == "name" {
			line = resource + "/" + d.name
		}
		if a.allClusters {
			line = t.cluster + ": " + line
		}
		if dry {
			line += " (server dry run)"
		}
		if _, err := fmt.Fprintln(a.Out, line); err != nil {
			return err
		}
	}
	return missing
}

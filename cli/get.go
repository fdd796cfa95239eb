package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// scope are the flags that say which objects.
type scope struct {
	namespace string
	all       bool
	labels    string
}

func (a *app) scopeFlags(c *cobra.Command, s *scope) {
	c.Flags().StringVarP(&s.namespace, "namespace", "n", "default", "namespace")
	c.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "all namespaces")
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "label selector, such as app=catalog,tier!=web")
	_ = c.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
}

func (s scope) list() api.ListOptions {
	o := api.ListOptions{Namespace: s.namespace, Labels: s.labels}
	if s.all {
		o.Namespace = ""
	}
	return o
}

// wanted is one kind and the names asked for, none for all.
type wanted struct {
	kind  manifest.Kind
	names []string
}

// parseObjects reads KIND[,KIND…] [NAME…] or KIND/NAME….
func parseObjects(args []string) ([]wanted, error) {
	var out []wanted
	kindNamed := func(word string) (manifest.Kind, error) {
		k, ok := manifest.KindNamed(word)
		if !ok || k.File {
			return k, fmt.Errorf("there is no kind %q; write one of %s", word, strings.Join(plurals(), ", "))
		}
		return k, nil
	}
	if strings.Contains(args[0], "/") {
		for _, arg := range args {
			word, name, ok := strings.Cut(arg, "/")
			if !ok || name == "" {
				return nil, fmt.Errorf("%q: write KIND/NAME as the others are", arg)
			}
			k, err := kindNamed(word)
			if err != nil {
				return nil, err
			}
			out = append(out, wanted{k, []string{name}})
		}
		return out, nil
	}
	for word := range strings.SplitSeq(args[0], ",") {
		k, err := kindNamed(word)
		if err != nil {
			return nil, err
		}
		out = append(out, wanted{k, args[1:]})
	}
	return out, nil
}

func plurals() []string {
	var out []string
	for _, k := range manifest.Kinds() {
		if !k.File {
			out = append(out, k.Plural)
		}
	}
	slices.Sort(out)
	return out
}

// found is one object as a cluster shows it.
type found struct {
	cluster string
	kind    manifest.Kind
	text    json.RawMessage
}

// fetch reads the objects of one cluster.
func fetch(ctx context.Context, t target, w wanted, s scope) ([]found, error) {
	var out []found
	if len(w.names) == 0 {
		items, err := t.client.List(ctx, w.kind, s.list())
		for _, i := range items {
			out = append(out, found{t.cluster, w.kind, i})
		}
		return out, err
	}
	for _, n := range w.names {
		text, err := t.client.Get(ctx, w.kind, s.namespace, n)
		if err != nil {
			return out, err
		}
		out = append(out, found{t.cluster, w.kind, text})
	}
	return out, nil
}

func (a *app) getCommand() *cobra.Command {
	var s scope
	var watch bool
	c := &cobra.Command{Use: "get KIND[,KIND] [NAME...] | KIND/NAME...", GroupID: groupObjects, Short: "list objects", Args: cobra.MinimumNArgs(1),
		Long:    "Lists the objects of a cluster, and those of other clusters that hold in it.\nKinds: " + strings.Join(plurals(), ", ") + ".",
		Example: "  isthmus get services -A --all-clusters\n  isthmus get httproute split -n shop -o yaml\n  isthmus get workloads -n shop -l app=catalog -w", ValidArgsFunction: a.completeObjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			wants, err := parseObjects(args)
			if err != nil {
				return err
			}
			if watch {
				return a.watch(cmd.Context(), wants, s)
			}
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			targets, err := a.targets(ctx, false)
			if err != nil {
				return err
			}
			return a.get(ctx, targets, wants, s)
		}}
	a.scopeFlags(c, &s)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print changes")
	a.clusterFlags(c, true)
	a.outputFlag(c, "table", "wide", "json", "yaml", "name")
	return c
}

// fetched is what one cluster has of several kinds.
type fetched struct {
	items   [][]found // by kind
	missing error     // a name that it does not have
}

// fetchAll asks clusters at once, each for one kind after the other.
func (a *app) fetchAll(ctx context.Context, targets []target, wants []wanted, s scope) []answer[fetched] {
	return askAll(ctx, a, targets, func(ctx context.Context, t target) (fetched, error) {
		out := fetched{items: make([][]found, len(wants))}
		for i, w := range wants {
			items, err := fetch(ctx, t, w, s)
			out.items[i] = items
			var refused *api.Error
			if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
				out.missing = err
			} else if err != nil {
				return out, err
			}
		}
		return out, nil
	})
}

// get prints what the clusters that answered have, and fails afterwards if one did not.
func (a *app) get(ctx context.Context, targets []target, wants []wanted, s scope) error {
	single := len(targets) == 1 && len(wants) == 1 && len(wants[0].names) == 1
	var all []found
	var missing error
	answers := a.fetchAll(ctx, targets, wants, s)
	for i := range wants {
		for _, r := range answers {
			all = append(all, r.value.items[i]...)
		}
	}
	for _, r := range answers {
		if r.err != nil && len(targets) == 1 {
			return r.err
		}
		if r.value.missing != nil && !a.allClusters {
			missing = r.value.missing
		}
	}
	if missing != nil && single {
		return missing
	}
	failed := failures(answers)
	if len(all) > 0 || failed == nil {
		if err := a.printObjects(all, s, single); err != nil {
			return err
		}
	}
	return cmp.Or(failed, missing)
}

func (a *app) printObjects(all []found, s scope, single bool) error {
	switch a.output {
	case "json", "yaml":
		if single {
			return a.printValue(all[0].text)
		}
		list := api.List{APIVersion: "v1", Kind: "List", Items: []json.RawMessage{}}
		for _, f := range all {
			text, err := a.withCluster(f)
			if err != nil {
				return err
			}
			list.Items = append(list.Items, text)
		}
		return a.printValue(list)
	case "name":
		for _, f := range all {
			if _, err := fmt.Fprintln(a.Out, strings.ToLower(f.kind.Kind)+"/"+read(f.text).Metadata.Name); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		where := "in namespace " + s.namespace + "; try -A for all namespaces"
		if s.all {
			where = "in any namespace"
		}
		_, err := fmt.Fprintf(a.Err, "no resources found %s\n", where)
		return err
	}
	for i := 0; i < len(all); {
		last := i
		for last < len(all) && all[last].kind.Kind == all[i].kind.Kind {
			last++
		}
		if i > 0 {
			fmt.Fprintln(a.Out)
		}
		if err := a.printKind(all[i:last], s); err != nil {
			return err
		}
		i = last
	}
	return nil
}

// withCluster adds the cluster that showed the object, when several were asked.
func (a *app) withCluster(f found) (json.RawMessage, error) {
	if !a.allClusters {
		return f.text, nil
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(f.text, &top); err != nil {
		return nil, fmt.Errorf("read an object of cluster %s: %w", f.cluster, err)
	}
	name, err := json.Marshal(f.cluster)
	if err != nil {
		return nil, err
	}
	top["cluster"] = name
	return json.Marshal(top)
}

// watch prints objects as they are and as they change, until it is interrupted.
func (a *app) watch(ctx context.Context, wants []wanted, s scope) error {
	if len(wants) != 1 {
		return errors.New("-w follows one kind")
	}
	targets, err := a.targets(ctx, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards what is printed
	head := true
	print := func(t target, e api.Event) error {
		mu.Lock()
		defer mu.Unlock()
		name := read(e.Object).Metadata.Name
		if e.Object == nil || len(wants[0].names) > 0 && !slices.Contains(wants[0].names, name) {
			return nil
		}
		f := found{t.cluster, wants[0].kind, e.Object}
		switch a.output {
		case "json":
			_, err := fmt.Fprintf(a.Out, "%s\n", e.Object)
			return err
		case "yaml":
			fmt.Fprintln(a.Out, "---")
			return printYAML(a.Out, e.Object)
		case "name":
			_, err := fmt.Fprintln(a.Out, strings.ToLower(f.kind.Kind)+"/"+name)
			return err
		}
		tab := a.tableOf([]found{f}, s)
		tab.Head = append([]string{"EVENT"}, tab.Head...)
		tab.Rows[0] = append([]string{e.Type}, tab.Rows[0]...)
		return tab.PrintRow(a.Out, a.colour(), &head)
	}
	errs := make(chan error, len(targets))
	for _, t := range targets {
		go func() {
			errs <- t.client.Watch(ctx, wants[0].kind, s.list(), func(e api.Event) error { return print(t, e) })
		}()
	}
	var first error
	for range targets {
		err := <-errs
		cancel() // one ended: all do
		if first == nil {
			first = err
		}
	}
	if errors.Is(first, context.Canceled) {
		return nil // interrupted
	}
	return first
}

func (a *app) describeCommand() *cobra.Command {
	var s scope
	c := &cobra.Command{Use: "describe KIND [NAME...] | KIND/NAME...", GroupID: groupObjects, Short: "show objects with what the mesh makes of them", Args: cobra.MinimumNArgs(1),
		Long:    "Shows objects whole: what their author wrote and the state of each thing they attach to.",
		Example: "  isthmus describe service catalog -n shop\n  isthmus describe httproute/split -n shop --all-clusters", ValidArgsFunction: a.completeObjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			wants, err := parseObjects(args)
			if err != nil {
				return err
			}
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			targets, err := a.targets(ctx, false)
			if err != nil {
				return err
			}
			first := true
			var missing error
			answers := a.fetchAll(ctx, targets, wants, s)
			for _, r := range answers {
				missing = cmp.Or(missing, r.value.missing)
				for _, f := range slices.Concat(r.value.items...) {
					if !first {
						fmt.Fprintln(a.Out)
					}
					first = false
					if err := a.describe(f); err != nil {
						return err
					}
				}
				if r.err != nil && len(targets) == 1 {
					return r.err
				}
			}
			return cmp.Or(failures(answers), missing)
		}}
	a.scopeFlags(c, &s)
	a.clusterFlags(c, true)
	return c
}

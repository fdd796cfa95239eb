package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var namespace, dry string
	var recursive bool
	c := &cobra.Command{Use: "apply -f FILE|DIR|-", GroupID: groupObjects, Args: cobra.NoArgs, Short: "create or change objects",
		Long: "Sends objects to a cluster. The whole input is checked first: with a fault anywhere nothing is\n" +
			"written, and every fault is listed with file, line and field. A reference that leads nowhere is a warning.",
		Example: "  isthmus apply -f policy.yaml\n  isthmus apply -f ./policies -n shop --cluster us-east\n  helm template ./chart | isthmus apply -f - --dry-run=server",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bound(cmd.Context())
			defer cancel()
			if dry != "none" && dry != "server" {
				return fmt.Errorf("--dry-run=%s is not known; write --dry-run=server", dry)
			}
			inputs, err := a.readFiles(files, recursive)
			if err != nil {
				return err
			}
			targets, err := a.targets(ctx, false)
			if err != nil {
				return err
			}
			for _, t := range targets {
				if err := a.applyTo(ctx, t, inputs, api.ApplyOptions{Namespace: namespace, DryRun: dry == "server"}); err != nil {
					return err
				}
			}
			return nil
		}}
	fileFlags(c, &files, &recursive)
	_ = c.MarkFlagRequired("filename")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of objects that name none")
	dryRunFlag(c, &dry)
	_ = c.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	a.clusterFlags(c, true)
	a.outputFlag(c, "table", "json", "yaml", "name")
	return c
}

func fileFlags(c *cobra.Command, files *[]string, recursive *bool) {
	c.Flags().StringSliceVarP(files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.Flags().BoolVarP(recursive, "recursive", "R", false, "read directories below too")
	_ = c.MarkFlagFilename("filename", "yaml", "yml", "json")
}

func dryRunFlag(c *cobra.Command, dry *string) {
	c.Flags().StringVar(dry, "dry-run", "none", "none|server: do everything but the write")
	_ = c.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "server"}, cobra.ShellCompDirectiveNoFileComp))
}

// readFiles reads what -f names, directories in order of name. Files are read to one byte
// beyond the limit, so that the server says what is wrong with a large one.
func (a *app) readFiles(paths []string, recursive bool) ([]api.File, error) {
	var out []api.File
	read := func(name string, r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, manifest.MaxInput+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		out = append(out, api.File{Name: name, Text: text})
		return nil
	}
	open := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return read(path, f)
	}
	for _, p := range paths {
		if p == "-" {
			if err := read("-", a.In); err != nil {
				return nil, err
			}
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("find the input: %w", err)
		}
		if !info.IsDir() {
			if err := open(p); err != nil {
				return nil, err
			}
			continue
		}
		before := len(out)
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && path != p && !recursive:
				return filepath.SkipDir
			case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
				return open(path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(out) == before {
			return nil, fmt.Errorf("directory %s holds no .yaml, .yml or .json file", p)
		}
	}
	return out, nil
}

func (a *app) applyTo(ctx context.Context, t target, files []api.File, o api.ApplyOptions) error {
	r, err := t.client.Apply(ctx, files, o)
	var refused *api.Error
	if errors.As(err, &refused) && refused.ApplyResult != nil {
		r = refused.ApplyResult
	} else if err != nil {
		return err
	}
	if len(r.Faults) > 0 {
		return a.printFaults(r, refused.Problem)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(a.Err, "warning: %s\n", w)
	}
	if perr := a.printApplied(t, r, o.DryRun); perr != nil {
		return perr
	}
	return err
}

// printFaults prints all faults: one a line on standard error with a summary last, or as an
// array on standard output.
func (a *app) printFaults(r *api.ApplyResult, summary string) error {
	if a.output == "json" {
		if err := printJSON(a.Out, r.Faults); err != nil {
			return err
		}
		return errFindings
	}
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintln(&b, summary)
	if _, err := io.WriteString(a.Err, b.String()); err != nil {
		return err
	}
	return errFindings
}

func (a *app) printApplied(t target, r *api.ApplyResult, dry bool) error {
	switch a.output {
	case "json":
		return printJSON(a.Out, r.Results)
	case "yaml":
		text, err := json.Marshal(r.Results)
		if err != nil {
			return err
		}
		return printYAML(a.Out, text)
	}
	where, how := "", ""
	if a.allClusters {
		where = t.cluster + ": "
	}
	if dry {
		how = " (server dry run)"
	}
	for _, x := range r.Results {
		line := x.Resource + "/" + x.Name
		if a.output != "name" {
			line = where + line + " " + x.Action + how
		}
		if _, err := fmt.Fprintln(a.Out, line); err != nil {
			return err
		}
	}
	return nil
}

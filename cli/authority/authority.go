// Package authority is isthmus trust: how the certificate authorities of the clusters stand, the replacement of a root, and the
// backup of a key. Its one idea is that the key is never in the clear outside the control plane and this process: what the API
// carries is sealed to the one or the other, and what is written to a file is sealed by a passphrase, or to a recipient, of the user.
//
// It finds no cluster (package cli does), and decides nothing about the mesh. Read Command.
package authority

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/authority"
)

// Terms are what the commands work with. All but Work are required.
type Terms struct {
	In       io.Reader
	Out, Err io.Writer
	// Plain says that people read Out; else Value prints what is for machines.
	Plain func() bool
	Value func(any) error
	// Table prints a head and rows; a cell that begins with Bad is marked.
	Table func(head []string, rows [][]string) error
	Bad   string
	// Clusters are those to ask: the one that the user names, else all.
	Clusters func(context.Context) ([]Cluster, error)
	// Output adds -o to a command, Cluster --cluster with what is said of it.
	Output  func(*cobra.Command)
	Cluster func(c *cobra.Command, says string)
	Timeout func() time.Duration
	// Work is the cost of a passphrase, as a power of two; 0 is that of age.
	Work int
	// Findings is what a command ends with that has printed what it found.
	Findings error
}

// Cluster is one that is asked.
type Cluster struct {
	Name   string
	Client *api.Client
}

// Every is how often a replacement that is followed is looked at.
const Every = 500 * time.Millisecond

// Command is isthmus trust, with what is below it.
func Command(group string, a *Terms) *cobra.Command {
	c := &cobra.Command{Use: "trust", GroupID: group, Args: cobra.NoArgs, Short: "certificate authorities: roots, their replacement, and the backup of their keys",
		Long: "Each cluster has a certificate authority of its own, whose root vouches for the proxies of that cluster and of no other.\n" +
			"isthmus trust says how they stand, as isthmus trust status does.",
		Example: "  isthmus trust\n  isthmus trust rotate --cluster eu-west\n  isthmus trust backup eu-west.age --cluster eu-west --passphrase-file secret\n  isthmus trust restore eu-west.age --cluster eu-west --passphrase-file secret"}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context()) }
	a.Cluster(c, "the cluster to ask (default all)")
	a.Output(c)
	c.AddCommand(a.statusCommand(), a.rotateCommand(), a.backupCommand(), a.restoreCommand())
	return c
}

func (a *Terms) statusCommand() *cobra.Command {
	c := &cobra.Command{Use: "status", Args: cobra.NoArgs, Short: "roots in force, who signs, and how far a replacement is",
		Long: "One row per root: its fingerprint (SHA-256 of its public key), what it does, when it ends, and how many certificates in use the\n" +
			"control plane has signed with it since it was started. Roles: signs; next (sent to all, does not sign yet); last (does not sign\n" +
			"any more, its certificates are good to their end); lost (should sign, and its key is not there). Exit code 1 when a cluster\n" +
			"cannot sign, or does not answer.",
		Example: "  isthmus trust status\n  isthmus trust status --cluster eu-west -o json"}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context()) }
	a.Cluster(c, "the cluster to ask (default all)")
	a.Output(c)
	return c
}

func (a *Terms) status(ctx context.Context) error {
	clusters, err := a.Clusters(ctx)
	if err != nil {
		return err
	}
	var all []authority.Status
	failed := false
	for _, t := range clusters {
		s, err := a.get(ctx, t)
		if err != nil {
			fmt.Fprintf(a.Err, "cluster %s: %v\n", t.Name, err)
			failed = true
			continue
		}
		all = append(all, s)
		failed = failed || !s.Signs
	}
	if !a.Plain() {
		err = a.Value(all)
	} else {
		err = a.print(all)
	}
	if err == nil && failed {
		return a.Findings
	}
	return err
}

// print says how authorities stand.
func (a *Terms) print(all []authority.Status) error {
	var rows [][]string
	var lines []string
	for _, s := range all {
		for _, r := range s.Roots {
			role := r.Role
			if r.Role == "lost" {
				role = a.Bad + role
			}
			rows = append(rows, []string{string(s.Cluster), fmt.Sprint(r.Number), r.Fingerprint[:min(16, len(r.Fingerprint))], role, r.Expires.Format("2006-01-02"), fmt.Sprint(r.Certificates)})
		}
		if t := Text(&s); t != "" {
			lines = append(lines, string(s.Cluster)+": "+t)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if err := a.Table([]string{"CLUSTER", "ROOT", "FINGERPRINT", "ROLE", "EXPIRES", "CERTIFICATES"}, rows); err != nil || len(lines) == 0 {
		return err
	}
	_, err := fmt.Fprintf(a.Out, "\n%s\n", strings.Join(lines, "\n"))
	return err
}

// Text is how far a replacement is and why nothing is signed, in words; "" where all is as ever.
func Text(s *authority.Status) string {
	var out []string
	if !s.Signs {
		out = append(out, "cannot sign: "+s.Problem+"; certificates in use are good to their end")
	}
	switch s.Phase {
	case "introduced":
		out = append(out, "the new root is sent to all who verify, and signs when they believe it")
	case "issuing":
		text := "the new root signs, the one before is still believed"
		if s.OldUntil != nil {
			text += ": its last certificate ends " + s.OldUntil.Format(time.RFC3339)
		}
		out = append(out, text)
	}
	if s.Waits != "" {
		out = append(out, "waits: "+s.Waits)
	}
	return strings.Join(out, "; ")
}

func (a *Terms) rotateCommand() *cobra.Command {
	var abandon, force, yes bool
	wait := "signs"
	c := &cobra.Command{Use: "rotate", Args: cobra.NoArgs, Short: "replace the root of a cluster, without a failed request",
		Long: "The new root is first sent to every proxy and every cluster. It signs when all of them have been seen to believe it, and the\n" +
			"one before is withdrawn when the last certificate that it signed has ended: with certificates of 24 hours, a day later. The\n" +
			"control plane does that by itself. The command follows it until the new root signs (--wait signs), to its end (--wait end), or\n" +
			"not at all (--wait no); it may be stopped, and finds a replacement in progress again.\n\n" +
			"Where the key of the root is lost, this rolls out a new one: certificates in use are good to their end, and half of their life\n" +
			"at least is left for it.\n\n" +
			"--abandon takes a new root back that does not sign yet. --force takes the next step without those it waits for: whoever is not\n" +
			"ready refuses connections, or is refused, until its certificate is renewed; it says who, and does it with --yes only.",
		Example: "  isthmus trust rotate --cluster eu-west\n  isthmus trust rotate --cluster eu-west --wait end\n  isthmus trust rotate --cluster eu-west --abandon"}
	c.Flags().BoolVar(&abandon, "abandon", false, "take the new root back, while it does not sign")
	c.Flags().BoolVar(&force, "force", false, "take the next step without those it waits for")
	c.Flags().BoolVar(&yes, "yes", false, "with --force: requests may fail")
	c.Flags().StringVar(&wait, "wait", wait, "follow it until the new root: signs|end|no")
	_ = c.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"signs", "end", "no"}, cobra.ShellCompDirectiveNoFileComp))
	c.MarkFlagsMutuallyExclusive("abandon", "force")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if wait != "signs" && wait != "end" && wait != "no" {
			return fmt.Errorf("--wait %s is not known; write signs, end or no", wait)
		}
		t, err := a.one(cmd.Context())
		if err != nil {
			return err
		}
		if force && !yes {
			return a.warn(cmd.Context(), t)
		}
		return a.rotate(cmd.Context(), t, authority.Ask{Abandon: abandon, Force: force}, wait)
	}
	a.Cluster(c, "the cluster whose root is replaced")
	a.Output(c)
	return c
}

// warn says what --force would do.
func (a *Terms) warn(ctx context.Context, t Cluster) error {
	s, err := a.get(ctx, t)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", t.Name, err)
	}
	switch s.Phase {
	case "introduced":
		fmt.Fprintf(a.Err, "the new root of %s would sign at once, and whoever does not believe it refuses its certificates: requests fail there\nit waits: %s\n", t.Name, s.Waits)
	case "issuing":
		fmt.Fprintf(a.Err, "the last root of %s would be withdrawn at once: who holds one of its certificates is refused, by proxies and by the control plane,\nand must join anew: requests fail there\nit waits: %s\n", t.Name, s.Waits)
	default:
		fmt.Fprintf(a.Err, "%s replaces no root: there is no step to force; begin with isthmus trust rotate --cluster %s\n", t.Name, t.Name)
		return a.Findings
	}
	fmt.Fprintln(a.Err, "nothing is done; add --yes to do it all the same")
	return a.Findings
}

func (a *Terms) rotate(ctx context.Context, t Cluster, ask authority.Ask, wait string) error {
	s, err := a.get(ctx, t)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", t.Name, err)
	}
	if !ask.Abandon && !ask.Force && inProgress(&s) {
		fmt.Fprintf(a.Err, "a replacement is in progress\n")
	} else if s, err = a.post(ctx, t, "rotate", ask); err != nil {
		return err
	}
	if !ask.Abandon && wait != "no" {
		if s, err = a.follow(ctx, t, s, wait); err != nil {
			return err
		}
	}
	if !a.Plain() {
		return a.Value(s)
	}
	return a.print([]authority.Status{s})
}

// inProgress reports whether there is a replacement to follow, as against one that a lost key made useless.
func inProgress(s *authority.Status) bool {
	switch s.Phase {
	case "introduced":
		for _, r := range s.Roots {
			if r.Role == "next" {
				return r.Key
			}
		}
	case "issuing":
		return s.Signs
	}
	return false
}

// follow returns when the new root signs, or the old one is withdrawn.
func (a *Terms) follow(ctx context.Context, t Cluster, s authority.Status, until string) (authority.Status, error) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	said := ""
	heard := time.Now()
	for {
		if s.Phase == "stable" || s.Phase == "issuing" && until == "signs" {
			return s, nil
		}
		if text := Text(&s); text != said {
			said = text
			fmt.Fprintf(a.Err, "%s: %s\n", t.Name, text)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			fmt.Fprintf(a.Err, "%s: this goes on; the same command follows it again\n", t.Name)
			return s, ctx.Err()
		}
		now, err := a.get(ctx, t)
		switch {
		case err == nil:
			s, heard = now, time.Now()
		case time.Since(heard) > a.Timeout() && ctx.Err() == nil:
			return s, fmt.Errorf("follow the replacement of the root of %s: %w; it goes on", t.Name, err)
		}
	}
}

// one is the cluster that a command changes.
func (a *Terms) one(ctx context.Context) (Cluster, error) {
	all, err := a.Clusters(ctx)
	if err != nil {
		return Cluster{}, err
	}
	if len(all) != 1 {
		var names []string
		for _, t := range all {
			names = append(names, t.Name)
		}
		return Cluster{}, fmt.Errorf("say which cluster: --cluster %s", strings.Join(names, "|"))
	}
	return all[0], nil
}

func (a *Terms) get(ctx context.Context, t Cluster) (s authority.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout())
	defer cancel()
	err = t.Client.Do(ctx, http.MethodGet, "/v1/trust", nil, "", &s)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		err = errors.New("its version does not say how its authority stands")
	}
	return s, err
}

func (a *Terms) post(ctx context.Context, t Cluster, what string, ask authority.Ask) (s authority.Status, err error) {
	err = a.send(ctx, t, what, ask, &s)
	return s, err
}

func (a *Terms) send(ctx context.Context, t Cluster, what string, ask authority.Ask, out any) error {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout())
	defer cancel()
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	if err := t.Client.Do(ctx, http.MethodPost, "/v1/trust/"+what, bytes.NewReader(body), "application/json", out); err != nil {
		return fmt.Errorf("cluster %s: %w", t.Name, err)
	}
	return nil
}

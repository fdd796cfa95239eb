// Package cli is the commands that people type, and how their answers are printed. Its one
// idea is that a command asks the API and prints: it holds no state, decides nothing about the
// mesh, and reads no store.
//
// It runs no part of the mesh itself: what starts processes (up, the control plane, a proxy)
// is given to it by the caller, because the local mesh stands above it. Exit codes are a promise: 0
// fine, 1 findings or a refused request, 2 could not run.
//
// Read Options, then Run.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api"
)

// UpOptions are the flags of isthmus up.
type UpOptions struct {
	File        string // mesh.yaml; empty is the default mesh
	Topology    string
	Detach      bool
	StateDir    string
	AddressBase int // 0 is the default
	// Args are those of the same command without --detach, to run it again in the background.
	Args []string
}

// Options are what commands work with. In, Out and Err are required.
type Options struct {
	// Name the program was called by: under kubectl-isthmus it is a kubectl plugin.
	Name    string
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Version string
	// Getenv reads the environment; nil is an empty one.
	Getenv func(string) string
	// Terminal says that Out is one: colours may be used.
	Terminal bool
	// ErrTerminal says that Err is one: progress is shown.
	ErrTerminal bool
	// StateDir finds the default state directory of the local mesh.
	StateDir func() (string, error)
	// Up runs a local mesh and returns when it has ended, or is ready with Detach; Down ends
	// one. Without them the commands do not exist.
	Up   func(ctx context.Context, o UpOptions) error
	Down func(ctx context.Context, stateDir string) error
	// Simulate runs a scenario of traffic and prints what came of it. Without it the command does not exist.
	Simulate func(ctx context.Context, o SimulateOptions) error
	// Extra are the long-running parts.
	Extra []*cobra.Command
	Now   func() time.Time // nil is time.Now
	HTTP  *http.Client     // nil is a client of its own
}

// Exit codes.
const (
	ExitFine     = 0
	ExitFindings = 1 // findings, or a refused request
	ExitFailed   = 2 // could not run
)

// errFindings ends a command that has printed what it found.
var errFindings = errors.New("findings")

// Run runs a command line, without the program's name, prints its error, and returns the
// exit code.
func Run(ctx context.Context, o Options, args []string) int {
	a := &app{Options: o}
	root := a.root()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err != nil && !errors.Is(err, errFindings) {
		if a.understood { // the error says what was attempted
			fmt.Fprintf(o.Err, "%s: %v\n", root.CommandPath(), err)
		} else {
			fmt.Fprintf(o.Err, "%s: %v; see %s -h\n", c.CommandPath(), err, c.CommandPath())
		}
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var refused *api.Error
	switch {
	case err == nil:
		return ExitFine
	case errors.Is(err, errFindings):
		return ExitFindings
	case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError:
		return ExitFindings
	}
	return ExitFailed
}

// app is what the commands share: options and flags.
type app struct {
	Options

	stateDir    string
	apiURL      string
	token       string
	cluster     string
	allClusters bool
	output      string
	noColor     bool
	timeout     time.Duration
	// timeoutGiven says that timeout is no default: then it holds for each of several clusters too.
	timeoutGiven bool

	// understood says that the command line was: what fails then is no matter of usage.
	understood bool
}

// New returns the root command. Errors are returned, not printed: see Run.
func New(o Options) *cobra.Command { return (&app{Options: o}).root() }

func (a *app) root() *cobra.Command {
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Getenv == nil {
		a.Getenv = func(string) string { return "" }
	}
	if a.HTTP == nil {
		a.HTTP = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	o := a.Options
	use, name := "isthmus", "isthmus"
	if strings.HasPrefix(filepath.Base(o.Name), "kubectl-") {
		use, name = "kubectl-isthmus", "kubectl isthmus"
	}
	root := &cobra.Command{Use: use, Short: "one mesh over many clusters", SilenceErrors: true, SilenceUsage: true,
		Long: "Isthmus joins clusters into one mesh: services that find each other, one policy, mutual TLS from\n" +
			"proxy to proxy, and traffic that survives the loss of a cluster.",
		Example:     "  isthmus up --detach\n  isthmus status\n  isthmus explain frontend.shop@eu-west catalog.shop",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: name},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups())
			a.understood = err == nil
			a.timeoutGiven = c.Flags().Changed("timeout")
			return err
		},
	}
	root.SetIn(o.In)
	root.SetOut(o.Out)
	root.SetErr(o.Err)
	f := root.PersistentFlags()
	f.StringVar(&a.stateDir, "state-dir", "", "state directory of a local mesh (default $XDG_STATE_HOME/isthmus/local)")
	f.StringVar(&a.apiURL, "api", "", "URL of an API or console, instead of the local mesh's")
	f.StringVar(&a.token, "token", "", "token for --api (default $ISTHMUS_TOKEN, then the state directory's)")
	f.BoolVar(&a.noColor, "no-color", false, "print without colours; so does $NO_COLOR")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer (2s for each where several clusters are asked)")
	root.AddGroup(&cobra.Group{ID: groupMesh, Title: "The local mesh:"}, &cobra.Group{ID: groupObjects, Title: "Objects:"},
		&cobra.Group{ID: groupLook, Title: "Looking into the mesh:"},
		&cobra.Group{ID: groupRun, Title: "Running the mesh:"}, &cobra.Group{ID: "parts", Title: "Long-running parts:"})
	root.AddCommand(a.local()...)
	root.AddCommand(a.applyCommand(), a.getCommand(), a.describeCommand(), a.deleteCommand(),
		a.statusCommand(), a.proxyStatusCommand(), a.proxyConfigCommand(), a.explainCommand(), a.eventsCommand(), a.versionCommand())
	root.AddCommand(a.drainCommand(), a.undrainCommand(), a.trustCommand())
	if a.Simulate != nil {
		root.AddCommand(a.simulateCommand())
	}
	root.AddCommand(o.Extra...)
	return root
}

// Groups of commands in help.
const (
	groupMesh    = "mesh"
	groupObjects = "objects"
	groupLook    = "look"
	groupRun     = "run"
)

// outputFlag adds -o.
func (a *app) outputFlag(c *cobra.Command, formats ...string) {
	var format string // of this command alone: defaults differ
	c.Flags().StringVarP(&format, "output", "o", formats[0], strings.Join(formats, "|"))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	check := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if a.output = format; slices.Contains(formats, format) {
			return check(cmd, args)
		}
		return fmt.Errorf("-o %s is not known here; write %s", format, strings.Join(formats, ", "))
	}
}

// clusterFlags adds --cluster and, for commands that read several, --all-clusters.
func (a *app) clusterFlags(c *cobra.Command, several bool) {
	c.Flags().StringVar(&a.cluster, "cluster", "", "the cluster to ask (default the first)")
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
	if several {
		c.Flags().BoolVar(&a.allClusters, "all-clusters", false, "ask every cluster")
		c.MarkFlagsMutuallyExclusive("cluster", "all-clusters")
	}
}

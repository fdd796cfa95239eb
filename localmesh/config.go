package localmesh

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// Topologies of a mesh.
const (
	MultiPrimary  = "multi-primary"
	PrimaryRemote = "primary-remote"
)

// ReadyTimeout is how long a mesh may take to be ready unless Config says otherwise.
const ReadyTimeout = 30 * time.Second

// Config is what Run is given.
type Config struct {
	// Mesh is the parsed mesh file, or Default; MeshDir is where the file lies: manifests
	// are relative to it, and commands run in it.
	Mesh    manifest.LocalMesh
	MeshDir string
	// StateDir keeps everything that outlives the mesh: stores, keys, logs. It is made with
	// mode 0700.
	StateDir string
	// RuntimeDir is where meshes of one user see which addresses are taken; see
	// DefaultRuntimeDir.
	RuntimeDir string
	// AddressBase is DefaultBase unless set.
	AddressBase int
	// Executable is the isthmus binary that every process runs.
	Executable string
	// Environ is the environment of the processes, as of os.Environ.
	Environ []string
	// Topology is MultiPrimary unless set: what the clusters are of which the mesh file does not say it.
	Topology string
	// ReadyTimeout is 30 s unless set.
	ReadyTimeout time.Duration
	// Out, where set, is told the summary for people once the mesh is ready.
	Out io.Writer `json:"-"`
	// Ready, where set, is called once the mesh is ready.
	Ready func(Summary) `json:"-"`
}

// DefaultStateDir is $XDG_STATE_HOME/isthmus/local, where XDG_STATE_HOME is
// ~/.local/state unless set (XDG Base Directory Specification).
func DefaultStateDir(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "isthmus", "local"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("find the state directory: neither XDG_STATE_HOME nor HOME is set; give --state-dir")
	}
	return filepath.Join(home, ".local", "state", "isthmus", "local"), nil
}

// DefaultRuntimeDir is $XDG_RUNTIME_DIR/isthmus, or a directory of the user below the
// temporary one.
func DefaultRuntimeDir(getenv func(string) string) string {
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "isthmus")
	}
	return filepath.Join(os.TempDir(), "isthmus-"+strconv.Itoa(os.Getuid()))
}

// withDefaults returns the configuration with absolute paths and defaults filled in.
func (c Config) withDefaults() (Config, error) {
	if c.AddressBase == 0 {
		c.AddressBase = DefaultBase
	}
	if c.Topology == "" {
		c.Topology = MultiPrimary
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = ReadyTimeout
	}
	var faults []error
	for _, path := range []struct {
		name  string
		value *string
	}{{"state directory", &c.StateDir}, {"runtime directory", &c.RuntimeDir}, {"executable", &c.Executable}} {
		if *path.value == "" {
			faults = append(faults, fmt.Errorf("%s: missing", path.name))
			continue
		}
		abs, err := filepath.Abs(*path.value)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", path.name, err))
		}
		*path.value = abs
	}
	if c.Executable != "" {
		real, err := filepath.EvalSymlinks(c.Executable)
		if err != nil {
			faults = append(faults, fmt.Errorf("executable: %w", err))
		}
		c.Executable = real
	}
	switch c.Topology {
	case MultiPrimary, PrimaryRemote:
	default:
		faults = append(faults, fmt.Errorf("topology %q: want %s or %s", c.Topology, MultiPrimary, PrimaryRemote))
	}
	return c, errors.Join(faults...)
}

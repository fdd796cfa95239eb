package localmesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// manifestFile is a file of the user's objects: those that one cluster tells the others, and
// those that each must be told itself.
type manifestFile struct{ replicated, local []byte }

// FaultsError are the faults of the files that the mesh file names.
type FaultsError struct{ Faults []manifest.Fault }

func (e *FaultsError) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// readManifests reads the files and folders of the mesh file before anything starts: what is
// wrong with them is said at once.
func readManifests(p *Plan, names []string) ([]manifestFile, error) {
	var out []manifestFile
	var faults FaultsError
	for _, name := range names {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.MeshDir, path)
		}
		files, err := manifestPaths(path)
		if err != nil {
			return nil, fmt.Errorf("read manifests %s: %w", name, err)
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				return nil, fmt.Errorf("read manifests %s: %w", name, err)
			}
			r, err := manifest.Read(file, f, manifest.Options{})
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, fmt.Errorf("read manifests %s: %w", name, err)
			}
			faults.Faults = append(faults.Faults, r.Faults...)
			split, err := splitByReach(r.Objects)
			if err != nil {
				return nil, fmt.Errorf("read manifests %s: %w", name, err)
			}
			out = append(out, split)
		}
	}
	if len(faults.Faults) > 0 {
		return nil, &faults
	}
	return out, nil
}

// manifestPaths are the YAML and JSON files at path, sorted.
func manifestPaths(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	var out []string
	err = filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)) {
			out = append(out, file)
		}
		return err
	})
	return out, err
}

// splitByReach tells apart what replicates by itself: stated by every cluster, it would be
// three policies of one name.
func splitByReach(objects []manifest.Object) (manifestFile, error) {
	var f manifestFile
	for _, o := range objects {
		yaml, err := manifest.Marshal(o)
		if err != nil {
			return f, err
		}
		to := &f.local
		if mesh.Kind(o.Kind).Replicated() && o.Labels[mesh.ScopeLabel] != mesh.ScopeHome {
			to = &f.replicated
		}
		*to = append(append(*to, "---\n"...), yaml...)
	}
	return f, nil
}

// applyManifests applies the user's files in their order: what replicates to the first
// cluster, everything else to each.
func (m *Mesh) applyManifests(ctx context.Context, files []manifestFile) error {
	for _, f := range files {
		err := m.everywhere(func(c *Cluster) error {
			text := f.local
			if c.N == 1 {
				text = append(slices.Clone(text), f.replicated...)
			}
			if len(text) == 0 {
				return nil
			}
			return m.apis[c.Name].apply(ctx, text)
		})
		if err != nil {
			return fmt.Errorf("apply manifests: %w", err)
		}
	}
	return nil
}

package peer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// The cache is a CachedPeer message behind its SHA-256. A file that does not match is no
// cache; what it says is checked again by the importer.

func readCache(path string, owner mesh.ClusterName) (*replica.Saved, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b) < sha256.Size || sha256.Sum256(b[sha256.Size:]) != [sha256.Size]byte(b[:sha256.Size]) {
		return nil, fmt.Errorf("read %s: damaged", path)
	}
	m := &wirepb.CachedPeer{}
	if err := proto.Unmarshal(b[sha256.Size:], m); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	saved, err := wire.DecodeSaved(owner, m)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return saved, nil
}

// writeCache replaces the file whole: what is there is always one saved state.
func writeCache(path string, s *replica.Saved) error {
	b, err := proto.Marshal(wire.EncodeSaved(s))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing to remove
	_, err = tmp.Write(append(sum[:], b...))
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

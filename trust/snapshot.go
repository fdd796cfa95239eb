package trust

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Snapshot is what a proxy needs to serve again without a control plane: who it is,
// whom it believes, and its last good configuration.
type Snapshot struct {
	// Generation grows strictly with each write. Whoever has seen a later one than a
	// proxy shows knows that its disk was rolled back; see CheckRollback.
	Generation uint64
	Created    time.Time
	Key        PrivateKey
	Chain      [][]byte // DER, leaf first
	Bundles    []mesh.Bundle
	// Sections are opaque parts of the configuration, by name.
	Sections map[string][]byte
	// FellBack says why the newest file was not used; nil if it was. Not stored.
	FellBack error
}

// SVID is the snapshot's certificate, checked as NewSVID does.
func (s Snapshot) SVID() (*SVID, error) { return NewSVID(s.Key, s.Chain) }

// Snapshot is m with sections, ready to be written. It needs a certificate.
func (m Material) Snapshot(sections map[string][]byte) (Snapshot, error) {
	if m.SVID == nil {
		return Snapshot{}, errors.New("make a snapshot: no certificate yet")
	}
	return Snapshot{Key: m.SVID.Key, Chain: m.SVID.Chain, Bundles: m.Bundles.All(), Sections: sections}, nil
}

// Restore puts the snapshot's certificate and bundles in force in source: the boot
// without a control plane. A Renewer then renews with the old certificate when that
// is due.
func (s Snapshot) Restore(source *Source) error {
	svid, err := s.SVID()
	if err != nil {
		return fmt.Errorf("restore snapshot generation %d: %w", s.Generation, err)
	}
	bundles, err := NewBundles(s.Bundles...)
	if err != nil {
		return fmt.Errorf("restore snapshot generation %d: %w", s.Generation, err)
	}
	return source.Update(svid, bundles)
}

// CheckRollback compares with the latest generation that another party, such as
// the control plane, has seen of this process.
func (s Snapshot) CheckRollback(seen uint64) error {
	if s.Generation < seen {
		return fmt.Errorf("snapshot generation %d is behind %d, which was seen: the disk was rolled back", s.Generation, seen)
	}
	return nil
}

// snapshotPurpose separates the keys of snapshots from those of other sealed files.
const snapshotPurpose = "snapshot"

// SnapshotFile is the sealed file of a snapshot at path.
func SnapshotFile(path string, key SealKey) *SealedFile {
	return &SealedFile{Path: path, Key: key, Purpose: snapshotPurpose}
}

// WriteSnapshot seals s into path and returns the generation it got: s.Generation
// if that is later than any on disk, otherwise one more than those. s.Created and
// s.FellBack are ignored; now is stored. See SealedFile.Write for what an error
// leaves.
func WriteSnapshot(file *SealedFile, s Snapshot, now time.Time) (generation uint64, err error) {
	payload, err := encodeSnapshot(s)
	if err != nil {
		return 0, fmt.Errorf("write snapshot %s: %w", file.Path, err)
	}
	return file.Write(payload, s.Generation, now)
}

// ReadSnapshot returns the newest authentic snapshot, of path or of the one it
// replaced (then FellBack says why). One that was written more than maxAge before
// now, or as far after it, is refused as a *SealError with SealAge: how far its
// policies may be out of date is bounded. A clock that is a little behind is not an
// error.
func ReadSnapshot(file *SealedFile, now time.Time, maxAge time.Duration) (Snapshot, error) {
	sealed, err := file.Read()
	if err != nil {
		return Snapshot{}, err
	}
	if age := now.Sub(sealed.Created); age.Abs() > maxAge {
		return Snapshot{}, &SealError{file.Path, SealAge, errors.Join(
			fmt.Errorf("generation %d was written %s before now, want at most %s", sealed.Generation, age.Round(time.Second), maxAge), sealed.FellBack)}
	}
	s, err := decodeSnapshot(sealed.Payload)
	if err != nil {
		return Snapshot{}, &SealError{file.Path, SealContent, err}
	}
	s.Generation, s.Created, s.FellBack = sealed.Generation, sealed.Created, sealed.FellBack
	return s, nil
}

// The payload, every string and count led by a uvarint, every part once and in this
// order: version, key, chain, bundles (domain, generation, roots), sections sorted
// by name (name, bytes).
const snapshotVersion = 1

func encodeSnapshot(s Snapshot) ([]byte, error) {
	key, err := s.Key.Reveal()
	if err != nil {
		return nil, err
	}
	b := []byte{snapshotVersion}
	b = appendBytes(b, key)
	b = appendList(b, s.Chain)
	b = binary.AppendUvarint(b, uint64(len(s.Bundles)))
	for _, bundle := range s.Bundles {
		b = appendBytes(b, []byte(bundle.TrustDomain))
		b = binary.AppendUvarint(b, bundle.Generation)
		b = appendList(b, bundle.Roots)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Sections)))
	for _, name := range slices.Sorted(maps.Keys(s.Sections)) {
		b = appendBytes(b, []byte(name))
		b = appendBytes(b, s.Sections[name])
	}
	return b, nil
}

func decodeSnapshot(payload []byte) (Snapshot, error) {
	if len(payload) == 0 || payload[0] != snapshotVersion {
		return Snapshot{}, errors.New("snapshot of an unknown version")
	}
	d := decoder{rest: payload[1:]}
	keyDER := d.bytes()
	s := Snapshot{Chain: d.list(), Sections: map[string][]byte{}}
	for range d.count() {
		s.Bundles = append(s.Bundles, mesh.Bundle{
			TrustDomain: mesh.TrustDomain(d.bytes()), Generation: d.uvarint(), Roots: d.list(),
		})
	}
	last := ""
	for i := range d.count() {
		name := string(d.bytes())
		if i > 0 && name <= last {
			d.bad = true
		}
		s.Sections[name], last = d.bytes(), name
	}
	if d.bad || len(d.rest) != 0 {
		return Snapshot{}, errors.New("snapshot content is malformed")
	}
	var err error
	s.Key, err = ParsePrivateKey(keyDER)
	return s, err
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendList(b []byte, list [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, v := range list {
		b = appendBytes(b, v)
	}
	return b
}

// decoder reads what append* wrote. After the first fault bad is set and every
// read returns nothing, so that callers check once.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.rest)
	if d.bad || size <= 0 || size > 1 && d.rest[size-1] == 0 { // one spelling a number
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

// count is a number of things of at least one byte each, so that a hostile count
// allocates no more than the input is long.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) bytes() []byte {
	n := d.count()
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) list() [][]byte {
	var list [][]byte
	for range d.count() {
		if list = append(list, d.bytes()); d.bad {
			return nil
		}
	}
	return list
}

package replica

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Name names a resource within its owner's partition. It is a tuple and is never
// compared as a joined string.
type Name struct {
	Kind            mesh.Kind
	Namespace, Name string
}

// NameOf is the name of a fact within its origin's partition.
func NameOf(k mesh.Key) Name { return Name{k.Kind, k.Namespace, k.Name} }

// Key is the name as a fact of an origin.
func (n Name) Key(origin mesh.ClusterName) mesh.Key {
	return mesh.Key{Kind: n.Kind, Origin: origin, Namespace: n.Namespace, Name: n.Name}
}

// Compare orders by kind, namespace, then name.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Kind, o.Kind), cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// String is "kind/namespace/name", the resource name on the wire; the namespace is
// empty where there is none.
func (n Name) String() string { return string(n.Kind) + "/" + n.Namespace + "/" + n.Name }

// check bounds a name that came from outside.
func (n Name) check() error {
	if len(n.Kind) == 0 || len(n.Kind) > 63 || len(n.Namespace) > 63 || len(n.Name) == 0 || len(n.Name) > 253 {
		return fmt.Errorf("resource name of %d, %d, %d bytes: want 1–63, 0–63, 1–253", len(n.Kind), len(n.Namespace), len(n.Name))
	}
	if n.Namespace != "" && !mesh.IsLabel(n.Namespace) || !mesh.IsSubdomain(n.Name) {
		return fmt.Errorf("resource name %q: want kind/namespace/name of DNS names", n)
	}
	return nil
}

// bucket spreads names evenly; it is part of the protocol, for both sides must put
// a name into the same bucket (FNV-1a, 32 bits, folded to 8).
func (n Name) bucket() uint8 {
	h := uint32(2166136261)
	for _, part := range [...]string{string(n.Kind), n.Namespace, n.Name} {
		for i := range len(part) {
			h = (h ^ uint32(part[i])) * 16777619
		}
		h = (h ^ '/') * 16777619
	}
	return uint8(h ^ h>>8 ^ h>>16 ^ h>>24)
}

// Digest is the first half of a SHA-256.
type Digest [16]byte

// String is the first four bytes in hexadecimal: for people, never for comparison.
func (d Digest) String() string { return hex.EncodeToString(d[:4]) }

// Resource is one fact as it travels. It is immutable.
type Resource struct {
	Name
	// Version is equal exactly for equal name, stamp, digest and body, whichever
	// replica states it. It leaves the position out: a restarted history with the same
	// content sends nothing twice.
	Version Digest
	// Position is where the owner's history last changed it; provenance only.
	Position mesh.Position
	// Stamp decides between unequal objects of several origins.
	Stamp mesh.Stamp
	// Digest is that of the fact: equal for equal specs whatever the origin.
	Digest [16]byte
	// Gone states that the object was deleted at Stamp. Owners state it of policies that
	// their present epoch deleted, so that nobody who comes from an earlier one holds
	// them over; it has no body and is never in force.
	Gone bool
	// Body is the canonical encoding of the value, opaque here.
	Body []byte
}

// NewResource fills in the version. The caller gives the body away.
func NewResource(n Name, at mesh.Position, stamp mesh.Stamp, digest [16]byte, body []byte) *Resource {
	r := &Resource{Name: n, Position: at, Stamp: stamp, Digest: digest, Body: body}
	r.Version = r.version()
	return r
}

// NewGone states a deletion.
func NewGone(n Name, at mesh.Position, stamp mesh.Stamp) *Resource {
	r := &Resource{Name: n, Position: at, Stamp: stamp, Gone: true}
	r.Version = r.version()
	return r
}

// version hashes length-prefixed fields, so that no two tuples share an encoding.
func (r *Resource) version() Digest {
	h := sha256.New()
	hashString(h, string(r.Kind))
	hashString(h, r.Namespace)
	hashString(h, r.Name.Name)
	hashUint(h, uint64(r.Stamp.WallMillis))
	hashUint(h, uint64(r.Stamp.Counter))
	hashString(h, string(r.Stamp.Origin))
	h.Write(r.Digest[:])
	if r.Gone {
		hashString(h, "gone")
	} else {
		hashString(h, "")
	}
	h.Write(r.Body)
	return sum(h)
}

func hashString(h hash.Hash, s string) {
	hashUint(h, uint64(len(s)))
	h.Write([]byte(s))
}

func hashUint(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

func sum(h hash.Hash) Digest {
	var full [sha256.Size]byte
	return Digest(h.Sum(full[:0])[:16])
}

// resourceOverhead is what a resource costs on the wire and in memory beside its
// body, generously.
const resourceOverhead = 160

// size is what the resource counts against the bounds, in bytes.
func (r *Resource) size() int {
	return len(r.Body) + len(r.Kind) + len(r.Namespace) + len(r.Name.Name) + len(r.Stamp.Origin) + resourceOverhead
}

// check verifies what may be verified without knowing the owner: bounds and the
// version, which detects a garbled body end to end.
func (r *Resource) check() error {
	if err := r.Name.check(); err != nil {
		return err
	}
	if len(r.Body) > MaxBody || len(r.Stamp.Origin) > 63 || len(r.Position.Epoch.ID) > 63 {
		return fmt.Errorf("resource %s: %d bytes: at most %d", r.Name, len(r.Body), MaxBody)
	}
	if r.Gone && len(r.Body) > 0 {
		return fmt.Errorf("resource %s: gone and with a body", r.Name)
	}
	if r.Version != r.version() {
		return fmt.Errorf("resource %s: %w", r.Name, errGarbled)
	}
	return nil
}

var errGarbled = errors.New("the version does not match the content")

// Travels reports whether facts of the kind leave their cluster at all.
func Travels(k mesh.Kind) bool {
	return k.Replicated() || k == mesh.KindRemoteService || k == mesh.KindBundle || k == mesh.KindCluster
}

// Tightens reports whether the absence of an object of the kind may allow what its
// presence forbids. Allow policies are among them: the last one going away may
// return a workload to an open default.
func Tightens(k mesh.Kind) bool {
	return k == mesh.KindAccessPolicy || k == mesh.KindResidencyPolicy
}

// rank orders what is referred to before what refers to it.
func rank(k mesh.Kind) int {
	switch k {
	case mesh.KindCluster:
		return 0
	case mesh.KindBundle:
		return 1
	case mesh.KindAccessPolicy, mesh.KindResidencyPolicy:
		return 2 // before the services that they guard
	case mesh.KindRemoteService, mesh.KindReferenceGrant:
		return 3
	}
	return 4
}

package replica

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"iter"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Buckets is the width of the digest tree. With 10,000 resources a bucket holds
// about 40, so that a difference of one costs 4 KiB of digests and 40 names.
const Buckets = 256

// Partition is one owner's whole exported state at one position. It is immutable;
// With shares every bucket that it does not change, so that keeping several costs
// little and comparing relatives costs what differs.
type Partition struct {
	// Owner is the cluster whose facts these are.
	Owner mesh.ClusterName
	// Position is the point of the owner's history that this state is of.
	Position mesh.Position
	// Lineage is how much of the owner's earlier histories the state takes into account.
	Lineage Lineage

	buckets [Buckets]*bucket
	count   int
	bytes   int
	root    Digest
}

// bucket holds resources sorted by name. A nil bucket is empty.
type bucket struct {
	items  []*Resource
	digest Digest
}

// NewPartition is the state of an owner of whom nothing is known.
func NewPartition(owner mesh.ClusterName) *Partition {
	p := &Partition{Owner: owner}
	p.root = p.sum()
	return p
}

// Len is the number of resources.
func (p *Partition) Len() int { return p.count }

// Bytes is what the resources count against Limits.
func (p *Partition) Bytes() int { return p.bytes }

// Root is equal exactly for equal content and lineage, whatever the position.
func (p *Partition) Root() Digest { return p.root }

// Get returns the resource of the name, or nil.
func (p *Partition) Get(n Name) *Resource {
	b := p.buckets[n.bucket()]
	if b == nil {
		return nil
	}
	if i, ok := b.find(n); ok {
		return b.items[i]
	}
	return nil
}

// All yields every resource, in an order that is the same for equal content.
func (p *Partition) All() iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		for _, b := range p.buckets {
			if b == nil {
				continue
			}
			for _, r := range b.items {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Live is the partition without statements of deletion.
func (p *Partition) Live() *Partition {
	var gone []Name
	for r := range p.All() {
		if r.Gone {
			gone = append(gone, r.Name)
		}
	}
	return p.With(nil, gone)
}

// Digests are those of the buckets; an empty bucket's is zero.
func (p *Partition) Digests() [Buckets]Digest {
	var ds [Buckets]Digest
	for i, b := range p.buckets {
		if b != nil {
			ds[i] = b.digest
		}
	}
	return ds
}

// At is the same content at another point of the owner's history.
func (p *Partition) At(pos mesh.Position, l Lineage) *Partition { return p.Next(nil, nil, pos, l) }

// With is the state after some resources were stated and some names removed. Of
// several resources of one name the last counts; a name both set and removed is removed.
// What changes nothing gives p itself.
func (p *Partition) With(set []*Resource, removed []Name) *Partition {
	return p.Next(set, removed, p.Position, p.Lineage)
}

// Next is With and At in one step. One that is stated again in the version that is here stays the one that is here.
func (p *Partition) Next(set []*Resource, removed []Name, pos mesh.Position, l Lineage) *Partition {
	changes := p.changes(set, removed)
	same := maps.Equal(l, p.Lineage)
	if len(changes) == 0 && same && pos == p.Position {
		return p
	}
	q := *p
	q.Position, q.Lineage = pos, l
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].bucket == changes[0].bucket {
			n++
		}
		q.replace(changes[0].bucket, changes[:n])
		changes = changes[n:]
	}
	if q.buckets != p.buckets || !same {
		q.root = q.sum()
	}
	return &q
}

// edit is what becomes of a name; nil is its removal.
type edit struct {
	bucket   uint8
	name     Name
	resource *Resource
}

// changes are the edits that change something, sorted by bucket and name, one for each name.
func (p *Partition) changes(set []*Resource, removed []Name) []edit {
	if len(set) == 0 && len(removed) == 0 {
		return nil
	}
	all := make([]edit, 0, len(set)+len(removed))
	for _, r := range set {
		all = append(all, edit{r.Name.bucket(), r.Name, r})
	}
	for _, n := range removed {
		all = append(all, edit{n.bucket(), n, nil})
	}
	slices.SortStableFunc(all, func(a, b edit) int { return cmp.Or(cmp.Compare(a.bucket, b.bucket), a.name.Compare(b.name)) })
	kept := all[:0]
	for i, e := range all {
		if i+1 < len(all) && all[i+1].name == e.name {
			continue
		}
		if have := p.Get(e.name); have == nil && e.resource == nil || have != nil && e.resource != nil && have.Version == e.resource.Version {
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// replace swaps bucket i for one with the edits, which are sorted by name.
func (p *Partition) replace(i uint8, edits []edit) {
	var old []*Resource
	if b := p.buckets[i]; b != nil {
		old = b.items
	}
	items := make([]*Resource, 0, len(old)+len(edits))
	for len(old) > 0 || len(edits) > 0 {
		c := -1
		if len(old) == 0 {
			c = 1
		} else if len(edits) > 0 {
			c = old[0].Name.Compare(edits[0].name)
		}
		if c < 0 {
			items, old = append(items, old[0]), old[1:]
			continue
		}
		if c == 0 {
			p.count--
			p.bytes -= old[0].size()
			old = old[1:]
		}
		if r := edits[0].resource; r != nil {
			p.count++
			p.bytes += r.size()
			items = append(items, r)
		}
		edits = edits[1:]
	}
	if len(items) == 0 {
		p.buckets[i] = nil
		return
	}
	h := sha256.New()
	for _, r := range items {
		h.Write(r.Version[:])
	}
	p.buckets[i] = &bucket{items, sum(h)}
}

// sum is the root: over the buckets' digests, then the lineage.
func (p *Partition) sum() Digest {
	h := sha256.New()
	var all [Buckets * len(Digest{})]byte
	for i, b := range p.buckets {
		if b != nil {
			copy(all[i*len(b.digest):], b.digest[:])
		}
	}
	h.Write(all[:])
	for _, e := range p.Lineage.epochs() {
		hashString(h, e.String())
		hashUint(h, uint64(p.Lineage[e]))
	}
	return sum(h)
}

func (b *bucket) find(n Name) (int, bool) {
	return slices.BinarySearchFunc(b.items, n, func(r *Resource, n Name) int { return r.Name.Compare(n) })
}

// Held is what a peer says that it has: a name and its version.
type Held struct {
	Name
	Version Digest
}

// Bucket lists bucket i, by name.
func (p *Partition) Bucket(i uint8) []Held { return p.held(i) }

// held lists bucket i.
func (p *Partition) held(i uint8) []Held {
	b := p.buckets[i]
	if b == nil {
		return nil
	}
	hs := make([]Held, len(b.items))
	for j, r := range b.items {
		hs[j] = Held{r.Name, r.Version}
	}
	return hs
}

// Diff says what turns from into to: resources to state, ordered so that what is
// referred to comes first, and names to remove, in the opposite order.
func Diff(from, to *Partition) (set []*Resource, removed []Name) {
	for i := range Buckets {
		a, b := from.buckets[i], to.buckets[i]
		if a == b || a != nil && b != nil && a.digest == b.digest {
			continue
		}
		set, removed = diffBucket(from.held(uint8(i)), b, set, removed)
	}
	return order(set, removed)
}

// diffBucket appends what turns a holding into a bucket; the holding is sorted by
// name.
func diffBucket(held []Held, to *bucket, set []*Resource, removed []Name) ([]*Resource, []Name) {
	var items []*Resource
	if to != nil {
		items = to.items
	}
	for len(held) > 0 || len(items) > 0 {
		var c int
		switch {
		case len(held) == 0:
			c = 1
		case len(items) == 0:
			c = -1
		default:
			c = held[0].Name.Compare(items[0].Name)
		}
		switch {
		case c < 0:
			removed = append(removed, held[0].Name)
			held = held[1:]
		case c > 0:
			set = append(set, items[0])
			items = items[1:]
		default:
			if held[0].Version != items[0].Version {
				set = append(set, items[0])
			}
			held, items = held[1:], items[1:]
		}
	}
	return set, removed
}

func order(set []*Resource, removed []Name) ([]*Resource, []Name) {
	slices.SortFunc(set, func(a, b *Resource) int {
		return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), a.Name.Compare(b.Name))
	})
	slices.SortFunc(removed, func(a, b Name) int {
		return cmp.Or(cmp.Compare(rank(b.Kind), rank(a.Kind)), b.Compare(a))
	})
	return set, removed
}

// Lineage says of each earlier epoch up to which revision its content has been
// taken into account by a later one. Within an epoch an absent object was
// deleted; across epochs it may have been lost, and only the lineage tells.
type Lineage map[mesh.Epoch]int64

// maxEpochs bounds a lineage; the oldest epochs are forgotten first.
const maxEpochs = 16

// Covers reports whether l takes into account all that o does.
func (l Lineage) Covers(o Lineage) bool {
	for e, r := range o {
		if have, ok := l[e]; !ok || have < r {
			return false
		}
	}
	return true
}

// Knows reports whether l takes the position into account.
func (l Lineage) Knows(p mesh.Position) bool {
	r, ok := l[p.Epoch]
	return ok && r >= p.Revision
}

// Union is the least lineage that covers both, bounded to the 16 latest epochs.
func (l Lineage) Union(o Lineage) Lineage {
	u := make(Lineage, len(l)+len(o))
	maps.Copy(u, l)
	for e, r := range o {
		if have, ok := u[e]; !ok || have < r {
			u[e] = r
		}
	}
	es := u.epochs()
	for len(es) > maxEpochs {
		delete(u, es[0])
		es = es[1:]
	}
	return u
}

// epochs are sorted, the oldest first.
func (l Lineage) epochs() []mesh.Epoch {
	return slices.SortedFunc(maps.Keys(l), func(a, b mesh.Epoch) int {
		switch {
		case a == b:
			return 0
		case a.Newer(b):
			return 1
		}
		return -1
	})
}

// Equal reports whether two partitions state the same, whatever the position.
func (p *Partition) Equal(q *Partition) bool {
	return p.Owner == q.Owner && bytes.Equal(p.root[:], q.root[:])
}

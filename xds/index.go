package xds

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// groupKey names the resources that nodes of one scope share.
type groupKey struct{ scope, typ string }

// group is what the server knows of one type in one scope, and who follows it.
// Everything in it is guarded by the server's mutex.
type group struct {
	groupKey
	rank    int // in Config.Order; unordered if the type is not named there
	entries map[string]*entry
	list    []*entry // by ID; may hold entries that were dropped
	nextID  uint32
	shape   []uint32 // a list of IDs, ascending, that subscriptions share (names.go)
	sums    sums     // of what streams were sent

	members  map[uint32]*sub // subscriptions of streams that are open, by number
	lastNo   uint32          // of them; none is used again
	wilds    []*sub          // subscribers of everything
	broad    []*sub          // subscribers of so many names that no entry lists them: each change looks at all of them
	watched  bool            // the source watches everything
	complete bool            // everything has been published
	idle     uint64          // changes whenever wilds does; tells a linger that it is stale
	lingers  bool            // it is queued in Server.lingers
}

const unordered = -1

// entry is one name of a group.
type entry struct {
	name    string
	id      uint32
	cur     *piece // nil if it does not exist, or is not known yet
	known   bool   // the source has spoken of it since it watches the name
	watched bool   // the source watches the name
	dropped bool
	refs    int      // marks of streams
	live    int      // subscribers by name
	listed  int      // of them, those that are not broad
	subs    []uint32 // the numbers of these, and some of those that have gone: half of what pointers take, and nothing for the collector
	idle    uint64
	lingers bool
}

// piece is one version of a resource, encoded once for all streams.
type piece struct {
	version    string
	sum        uint64 // of name and version: equal sums are equal resources
	no         uint32 // that sums held it by last
	size       int
	head, body mem.Buffer
}

// Sums that stand for no resource. sumOf returns neither.
const (
	sumNone   = 0 // the stream was told nothing
	sumAbsent = 1 // the stream was told that there is none
)

// sumOf names a version of a resource in 64 bits. Sums of a set are added up to compare
// sets: the same set has the same digest at a server and at its clients.
func sumOf(name, version string) uint64 {
	h := sha256.Sum256([]byte(name + "\x00" + version))
	return max(binary.BigEndian.Uint64(h[:]), sumAbsent+1)
}

// countable is a sum as digests of sets count it.
func countable(sum uint64) uint64 {
	if sum <= sumAbsent {
		return 0
	}
	return sum
}

func newPiece(r *Resource) *piece {
	head := appendResource(nil, r)
	return &piece{version: r.Version, sum: sumOf(r.Name, r.Version), size: len(head) + len(r.Body),
		head: mem.SliceBuffer(head), body: mem.SliceBuffer(r.Body)}
}

func removedSize(name string) int {
	return protowire.SizeTag(respRemoved) + protowire.SizeBytes(len(name))
}

// add makes the entry of a name.
func (g *group) add(name string) *entry {
	g.nextID++
	e := &entry{name: strings.Clone(name), id: g.nextID} // it may be a part of a request
	g.entries[e.name] = e
	g.list = append(g.list, e)
	return e
}

// entry returns the entry of a name, made if there is none.
func (g *group) entry(name string) *entry {
	if e := g.entries[name]; e != nil {
		return e
	}
	return g.add(name)
}

// after is the entry of a name, made if there is none, which likely is the next after e, or with a nil one the first: clients that ask for
// many names ask for them in the order of those before.
func (g *group) after(e *entry, name string) *entry {
	i := 0
	if e != nil {
		i = int(e.id) // IDs count from one; where entries were dropped it is another's place
	}
	if i < len(g.list) && g.list[i].name == name && !g.list[i].dropped {
		return g.list[i]
	}
	return g.entry(name)
}

// byID is the entry of an ID, nil if it was dropped.
func (g *group) byID(id uint32) *entry {
	i := int(id) - 1
	if i >= len(g.list) || g.list[i].id != id {
		i, _ = slices.BinarySearchFunc(g.list, id, func(e *entry, id uint32) int { return cmp.Compare(e.id, id) })
	}
	if i < len(g.list) && g.list[i].id == id && !g.list[i].dropped {
		return g.list[i]
	}
	return nil
}

// release drops an entry that nothing holds.
func (g *group) release(e *entry) {
	if e.refs > 0 || e.watched || e.dropped || (e.cur != nil && g.watched) {
		return
	}
	e.dropped = true
	delete(g.entries, e.name)
	if len(g.list) > 2*len(g.entries)+16 {
		g.list = slices.DeleteFunc(g.list, func(e *entry) bool { return e.dropped })
	}
}

// subscribed makes b a subscriber of the entry by name.
func (e *entry) subscribed(b *sub) {
	e.live++
	e.idle++
	if !b.broad {
		e.listed++
		e.subs = append(e.subs, b.no)
	}
}

// unsubscribed takes b away. A closed stream's b stays in the list until enough of it
// has gone, so that closing a stream with n names takes n steps.
func (e *entry) unsubscribed(b *sub) {
	e.live--
	e.idle++
	if b.broad {
		return
	}
	e.listed--
	if !b.st.closed {
		if i := slices.Index(e.subs, b.no); i >= 0 {
			e.subs = slices.Delete(e.subs, i, i+1)
		}
	}
	if len(e.subs) > 2*e.listed+8 || e.listed == 0 {
		e.subs = slices.DeleteFunc(e.subs, func(no uint32) bool { return b.g.members[no] == nil })
	}
}

// join makes b one of the group's, leave none of them.
func (g *group) join(b *sub) {
	g.lastNo++
	b.no = g.lastNo
	g.members[b.no] = b
}

func (g *group) leave(b *sub) {
	delete(g.members, b.no)
	if i := slices.Index(g.broad, b); i >= 0 {
		g.broad = slices.Delete(g.broad, i, i+1)
	}
}

// broaden makes b, which is about to ask for n names more, a broad one if it then has half of all: a thousand proxies that follow a thousand names
// would be in a thousand lists each. One that is broad stays so: it costs others' changes a search each.
func (g *group) broaden(b *sub, n, least int) {
	if n += b.named; b.broad || n < least || 2*n < len(g.entries) {
		return
	}
	b.broad = true
	g.broad = append(g.broad, b)
	for i, m := range b.marks {
		if e := g.byID(b.ids[i]); m.is(isNamed) {
			e.listed--
			if i := slices.Index(e.subs, b.no); i >= 0 {
				e.subs = slices.Delete(e.subs, i, i+1)
			}
		}
	}
}

// named calls do with the subscribers of an entry by name, of which none may come or go meanwhile.
func (g *group) named(e *entry, do func(b *sub)) {
	for _, no := range e.subs {
		if b := g.members[no]; b != nil {
			do(b)
		}
	}
	for _, b := range g.broad {
		if i, ok := b.find(e.id); ok && b.marks[i].is(isNamed) {
			do(b)
		}
	}
}

func (g *group) addWild(b *sub) {
	g.idle++
	g.wilds = append(g.wilds, b)
}

func (g *group) dropWild(b *sub) {
	g.idle++
	if i := slices.Index(g.wilds, b); i >= 0 {
		g.wilds = slices.Delete(g.wilds, i, i+1)
	}
}

// linger is a name, or with a nil entry a whole group, that lost its last subscriber.
type linger struct {
	g    *group
	e    *entry
	idle uint64
	end  time.Time
}

// item is one resource of a response; the piece of a removed one is nil.
type item struct {
	e *entry
	p *piece
}

// frame is a response, encoded once. Streams that are to be sent the same share it, its
// nonce included, which is why nonces are unique in a server and not in a stream.
type frame struct {
	nonce   uint64
	items   []item
	buffers mem.BufferSlice
	size    int
}

// frameKey finds a frame; hash is over the items.
type frameKey struct {
	g     *group
	hash  uint64
	whole bool
}

// Bounds of the frames that are kept for other streams until the next publish.
const framesMax = 512

// joinMax is up to which size a frame is one buffer; beyond, copying costs more than
// many buffers do.
const joinMax = 32 << 10

// frame returns the response of these items, made if no other stream was sent the same
// since the last publish.
func (s *Server) frame(g *group, items []item, whole bool) *frame {
	key := frameKey{g: g, whole: whole, hash: uint64(len(items))}
	for _, it := range items {
		sum := uint64(it.e.id)
		if it.p != nil {
			sum = it.p.sum
		}
		key.hash = key.hash*0x9E3779B97F4A7C15 + sum
	}
	if f := s.frames[key]; f != nil && slices.Equal(f.items, items) {
		return f
	}
	s.nonce++
	f := &frame{nonce: s.nonce, items: slices.Clone(items)}
	f.encode(s.vectorText, g.typ, whole)
	if len(s.frames) >= framesMax {
		clear(s.frames)
	}
	s.frames[key] = f
	s.counters.Frames++
	return f
}

func (f *frame) encode(vector, typ string, whole bool) {
	var removed []string
	size := 0
	for _, it := range f.items {
		if it.p == nil {
			removed = append(removed, it.e.name)
		} else {
			size += it.p.size
		}
	}
	head := appendHeader(nil, vector, typ, f.nonce, removed, whole)
	f.size = len(head) + size
	if f.size <= joinMax {
		head = slices.Grow(head, size)
		for _, it := range f.items {
			if it.p != nil {
				head = append(append(head, it.p.head.ReadOnlyData()...), it.p.body.ReadOnlyData()...)
			}
		}
		f.buffers = mem.BufferSlice{mem.SliceBuffer(head)}
		return
	}
	f.buffers = make(mem.BufferSlice, 1, 1+2*len(f.items))
	f.buffers[0] = mem.SliceBuffer(head)
	for _, it := range f.items {
		if it.p != nil {
			f.buffers = append(f.buffers, it.p.head, it.p.body)
		}
	}
}

// headerSize bounds what a response takes beside resources and removed names.
func (s *Server) headerSize(typ string) int { return len(s.vectorText) + len(typ) + 64 }

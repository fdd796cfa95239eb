package xds

import "slices"

// The names that a subscription has marks of are a list of IDs beside the marks, and not a part of each: a thousand streams that ask for
// the same have one such list (group.shape), as long as nothing tells them apart, and a search in it meets what the stream before left in the cache.

// insert makes place i of the marks that of an ID.
func (b *sub) insert(i int, id uint32) {
	b.marks = slices.Insert(b.marks, i, 0)
	if !b.own {
		g := b.g
		n := len(b.ids)
		if i == n && g.begins(b.ids) {
			if len(g.shape) == n {
				g.shape = append(g.shape, id) // nobody's list reaches so far
			}
			if g.shape[n] == id {
				b.ids = g.shape[:n+1]
				return
			}
		}
		b.ids, b.own = append(make([]uint32, 0, n+8), b.ids...), true
	}
	b.ids = slices.Insert(b.ids, i, id)
}

// begins reports whether the group's list begins with these.
func (g *group) begins(ids []uint32) bool {
	n := len(ids)
	return n == 0 || len(g.shape) >= n && (&g.shape[0] == &ids[0] || slices.Equal(g.shape[:n], ids))
}

// remove takes the mark at i away.
func (b *sub) remove(i int) {
	b.marks = slices.Delete(b.marks, i, i+1)
	if n := len(b.ids) - 1; !b.own {
		if i == n {
			b.ids = b.ids[:n]
			return
		}
		b.ids, b.own = append(make([]uint32, 0, n+1), b.ids...), true
	}
	b.ids = slices.Delete(b.ids, i, i+1)
}

// share gives up a list of one's own for the group's, which is the last that somebody gave up. It is for who has changed what it follows, and is done.
func (b *sub) share() {
	if !b.own || len(b.ids) < b.st.s.manyNames {
		return
	}
	if !slices.Equal(b.ids, b.g.shape) {
		b.g.shape = slices.Clip(b.ids)
	}
	b.ids, b.own = b.g.shape, false
}

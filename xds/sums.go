package xds

// sums are the sums that marks of a group stand at, each once: of a thousand streams that hold a version, each mark
// has a number of four bytes and not the sum. Guarded by the server's mutex.
type sums struct {
	of   []uint64 // by number; the first two are sumNone and sumAbsent
	refs []uint32
	free []uint32
	no   map[uint64]uint32
}

func newSums() sums {
	return sums{of: []uint64{sumNone, sumAbsent}, refs: []uint32{1, 1}, no: map[uint64]uint32{}}
}

// hold is the number of a sum, for one more mark.
func (s *sums) hold(sum uint64) uint32 {
	if sum <= sumAbsent {
		return uint32(sum)
	}
	no, ok := s.no[sum]
	if !ok {
		if k := len(s.free); k > 0 {
			no, s.free = s.free[k-1], s.free[:k-1]
			s.of[no] = sum
		} else {
			no = uint32(len(s.of))
			s.of, s.refs = append(s.of, sum), append(s.refs, 0)
		}
		s.no[sum] = no
	}
	s.refs[no]++
	return no
}

// again is hold of a sum that had the number no once, 0 for never.
func (s *sums) again(sum uint64, no uint32) uint32 {
	if no > sumAbsent && s.of[no] == sum && s.refs[no] > 0 {
		s.refs[no]++
		return no
	}
	return s.hold(sum)
}

// drop is a mark less that stands at a number.
func (s *sums) drop(no uint32) {
	if no <= sumAbsent {
		return
	}
	if s.refs[no]--; s.refs[no] == 0 {
		delete(s.no, s.of[no])
		s.free = append(s.free, no)
	}
}

// mark is how far a stream is with one name: above three flags, the number of the sum of what was sent last.
type mark uint32

type flags = mark

const (
	isNamed flags = 1 << iota
	inUps
	inDowns
	flagBits = 3
)

func (m mark) is(f flags) bool     { return m&f != 0 }
func (m mark) plain() bool         { return m&(1<<flagBits-1) == 0 }
func (m *mark) mark(f flags)       { *m |= f }
func (m *mark) unmark(f flags)     { *m &^= f }
func (m mark) number() uint32      { return uint32(m >> flagBits) }
func (m *mark) move(no uint32)     { *m = mark(no)<<flagBits | *m&(1<<flagBits-1) }
func (g *group) sum(m mark) uint64 { return g.sums.of[m.number()] }

package socket

import (
	"io"
	"slices"
)

// gathered is what Gather has read, and what it is to read.
type gathered struct {
	b     []byte
	total func(b []byte) int
	need  int // what total said last
	err   error
}

// gatherFirst is how much there is room for at first, in bytes. There is more when that has come: who announces 16 KiB and
// sends none of them holds none.
const gatherFirst = 512

// Ready readies Gather. total says how many bytes are wanted in all, given those that are there; no more than there are is
// the end.
func (g *gathered) Ready(total func(b []byte) int) {
	g.b, g.total = make([]byte, 0, gatherFirst), total
}

// Gathered is what has come.
func (g *gathered) Gathered() []byte { return g.b }

// wants reports whether there is to be more, which need then says.
func (g *gathered) wants() bool {
	if len(g.b) < g.need {
		return true
	}
	g.need = g.total(g.b)
	return len(g.b) < g.need
}

// room is where to read.
func (g *gathered) room() []byte {
	if len(g.b) == cap(g.b) {
		g.b = slices.Grow(g.b, min(len(g.b), g.need-len(g.b)))
	}
	return g.b[len(g.b):min(cap(g.b), g.need)]
}

// early is the error of a peer who ended before all was there.
func (g *gathered) early() error {
	if len(g.b) == 0 {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

// gatherFrom is Gather by plain reads.
func (g *gathered) gatherFrom(r io.Reader) error {
	for g.wants() {
		n, err := r.Read(g.room())
		g.b = g.b[:len(g.b)+n]
		switch {
		case n > 0:
		case err == io.EOF:
			return g.early()
		case err != nil:
			return err
		}
	}
	return nil
}

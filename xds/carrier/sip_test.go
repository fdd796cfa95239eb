package carrier

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

// TestASipGivesARecordAtATime: whatever pieces records come in and whatever room the reader has, what is given is what was sent, no piece
// reaches over a record's header or end, and nothing is held when all was given. Its control is the connection itself, which gives whatever is there.
func TestASipGivesARecordAtATime(t *testing.T) {
	over := 0 // reads of the control that a sip would not make
	rapid.Check(t, func(t *rapid.T) {
		var sent []byte
		ends := []int{0} // of headers and records
		for range rapid.IntRange(1, 8).Draw(t, "records") {
			n := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 16<<10)).Draw(t, "length")
			sent = binary.BigEndian.AppendUint16(append(sent, 23, 3, 3), uint16(n))
			ends = append(ends, len(sent))
			for range n {
				sent = append(sent, byte(len(sent)))
			}
			ends = append(ends, len(sent))
		}
		room := rapid.IntRange(1, 20<<10).Draw(t, "room")
		piece := rapid.IntRange(1, 9000).Draw(t, "piece")
		read := func(r io.Reader, from net.Conn, each func(at, n int)) []byte {
			go func() {
				for b := range slices.Chunk(sent, piece) {
					if _, err := from.Write(b); err != nil {
						return
					}
				}
				from.Close()
			}()
			var got []byte
			for p := make([]byte, room); ; {
				n, err := r.Read(p)
				each(len(got), n)
				got = append(got, p[:n]...)
				if err == io.EOF {
					return got
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		within := func(at, n int) bool {
			i, _ := slices.BinarySearch(ends, at+1)
			return n == 0 || i < len(ends) && at+n <= ends[i]
		}
		here, there := net.Pipe()
		s := &sip{Outlet: direct.NewOutlet(here)}
		if got := read(s, there, func(at, n int) {
			if !within(at, n) {
				t.Fatalf("%d bytes at %d reach over one of %v", n, at, ends)
			}
		}); !bytes.Equal(got, sent) || s.buf != nil {
			t.Fatalf("%d bytes of %d were given, and %d are held", len(got), len(sent), len(s.buf)-s.at)
		}
		here, there = net.Pipe()
		read(here, there, func(at, n int) {
			if !within(at, n) {
				over++
			}
		})
	})
	if over == 0 {
		t.Error("no read of the connection itself reaches over a record: this proves nothing")
	}
}

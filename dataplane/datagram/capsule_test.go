package datagram_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
)

// decode feeds b in pieces of size and returns copies of the datagrams.
func decode(b []byte, size int) (out [][]byte, err error) {
	var d datagram.Decoder
	for len(b) > 0 {
		p := b[:min(size, len(b))]
		b = b[len(p):]
		for {
			got, rest, ok, err := d.Next(p)
			if err != nil {
				return out, err
			}
			if !ok {
				break
			}
			p, out = rest, append(out, bytes.Clone(got))
		}
	}
	return out, nil
}

func TestCapsulesOnTheWire(t *testing.T) {
	for _, c := range []struct{ name, wire, want string }{
		{"one byte of length", "0003616263", "abc"},
		{"none of value", "0000", ""},
		{"a length that is longer than need be", "004003616263", "abc"},
		{"a type that is longer than need be", "400003616263", "abc"},
		{"eight bytes of length", "00c000000000000003616263", "abc"},
		{"an unknown type is passed over", "2904deadbeef" + "0003616263", "abc"},
		{"an unknown type without value is too", "2900" + "0003616263", "abc"},
	} {
		wire, err := hex.DecodeString(c.wire)
		if err != nil {
			t.Fatal(err)
		}
		for size := 1; size <= len(wire); size++ {
			got, err := decode(wire, size)
			if err != nil || len(got) != 1 || string(got[0]) != c.want {
				t.Errorf("%s, in pieces of %d: %q, %v: want %q", c.name, size, got, err, c.want)
			}
		}
	}
	if _, err := decode([]byte{0, 0x80, 1, 0, 0}, 1); err == nil || !strings.Contains(err.Error(), "65536 bytes") {
		t.Errorf("a datagram above the largest: %v", err)
	}
}

func TestWhatIsFramedIsFound(t *testing.T) {
	var wire []byte
	sizes := []int{0, 1, 63, 64, 1200, 16383, 16384, 65507, datagram.MaxSize}
	for _, n := range sizes {
		wire = datagram.Append(wire, bytes.Repeat([]byte{byte(n)}, n))
	}
	for _, piece := range []int{1, 7, 1500, 16 << 10, len(wire)} {
		got, err := decode(wire, piece)
		if err != nil || len(got) != len(sizes) {
			t.Fatalf("in pieces of %d: %d datagrams, %v", piece, len(got), err)
		}
		for i, n := range sizes {
			if !bytes.Equal(got[i], bytes.Repeat([]byte{byte(n)}, n)) {
				t.Errorf("in pieces of %d: datagram %d has %d bytes, want %d", piece, i, len(got[i]), n)
			}
		}
	}
}

// FuzzCapsules: what is found does not depend on where the stream was cut, and framed again it is
// found again.
func FuzzCapsules(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c', 0x29, 1, 0, 0, 0}, uint8(1))
	f.Add(datagram.Append(nil, make([]byte, 300)), uint8(9))
	f.Add([]byte{0xc0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint8(3))
	f.Fuzz(func(t *testing.T, wire []byte, size uint8) {
		whole, err := decode(wire, len(wire)+1)
		cut, cutErr := decode(wire, int(size)+1)
		if (err == nil) != (cutErr == nil) || len(whole) != len(cut) {
			t.Fatalf("whole: %d datagrams, %v; cut: %d, %v", len(whole), err, len(cut), cutErr)
		}
		var again []byte
		for i := range whole {
			if !bytes.Equal(whole[i], cut[i]) {
				t.Fatalf("datagram %d: %x whole, %x cut", i, whole[i], cut[i])
			}
			again = datagram.Append(again, whole[i])
		}
		if got, err := decode(again, int(size)+1); err != nil || len(got) != len(whole) {
			t.Fatalf("framed again: %d datagrams, %v: want %d", len(got), err, len(whole))
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	wire := datagram.Append(nil, make([]byte, 1200))
	var d datagram.Decoder
	for b.Loop() {
		for p := wire; ; {
			_, rest, ok, err := d.Next(p)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			p = rest
		}
	}
}

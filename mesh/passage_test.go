package mesh

import (
	"bytes"
	"testing"
)

func TestPassOnComesBackAsItWas(t *testing.T) {
	for _, td := range []TrustDomain{"a", "ap-south.isthmus.local"} {
		b := append(PassOn(td), 22, 3, 1)
		if by, n := PassedBy(b); by != td || n != len(b)-3 || PassOnSize(b[:5]) != n {
			t.Errorf("%q came back as %q, %d of %d octets", td, by, n, len(b))
		}
		for i := range len(b) - 3 { // as it comes, piece by piece
			if by, n := PassedBy(b[:i]); by != "" || n != 0 {
				t.Errorf("%d octets of %q are taken for all: %q", i, td, by)
			}
		}
	}
}

func TestWhatAsksNobodyToPassItOn(t *testing.T) {
	for what, b := range map[string][]byte{
		"nothing":                   nil,
		"a ClientHello":             {22, 3, 1, 0, 200, 1},
		"another version":           {'I', 2, 0, 0, 1, 'a'},
		"a reserved octet":          {'I', 1, 1, 0, 1, 'a'},
		"nobody":                    {'I', 1, 0, 0, 0, 'a'},
		"a name that is too long":   append([]byte{'I', 1, 0, 0, 254}, bytes.Repeat([]byte{'a'}, 254)...),
		"a name that is not one":    {'I', 1, 0, 0, 2, 'a', ' '},
		"a name with an upper case": {'I', 1, 0, 0, 1, 'A'},
	} {
		if by, n := PassedBy(b); by != "" || n != 0 {
			t.Errorf("%s: %q, %d octets", what, by, n)
		}
	}
}

func FuzzPassedBy(f *testing.F) {
	f.Add(PassOn("ap-south.isthmus.local"))
	f.Add([]byte{'I', 1, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		by, n := PassedBy(b)
		if (by == "") != (n == 0) || n > len(b) {
			t.Fatalf("%q, %d of %d octets", by, n, len(b))
		}
		if n > 0 && !bytes.Equal(PassOn(by), b[:n]) {
			t.Fatalf("%x is written as %x", b[:n], PassOn(by))
		}
	})
}

package trace

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTraceparentIsReadStrictly(t *testing.T) {
	for _, v := range []string{parent,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes-later",
	} {
		if _, ok := Parse([]byte(v)); !ok {
			t.Errorf("%s: refused", v)
		}
	}
	for _, v := range []string{"", "00", parent[:54], parent + "-", parent + "x",
		"ff" + parent[2:],
		"00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		strings.ToUpper(parent), strings.Replace(parent, "-", "_", 1),
		"0x" + parent[2:], parent[:53] + "0g",
		"cc" + parent[2:] + ".later",
	} {
		if _, ok := Parse([]byte(v)); ok {
			t.Errorf("%q: taken", v)
		}
	}
}

func TestTracestateIsReadStrictly(t *testing.T) {
	for v, want := range map[string]bool{
		"a=1": true, "a=1,b=2": true, " a=1 ,\tb=2": true, "a=1,,b=2": true, "": true, "tenant@sys=x y": true, "0a/b*c-d_e=!~": true,
		"a": false, "a=": false, "=1": false, "A=1": false, "a=1=2": false, "a=\x7f": false, "*a=1": false, "a=1;b=2,c": false,
		strings.Repeat("a=1,", 32): true, strings.Repeat("a=1,", 33): false,
		strings.Repeat("a", 256) + "=1": true, strings.Repeat("a", 257) + "=1": false, "a=" + strings.Repeat("b", 257): false,
		strings.Repeat("a="+strings.Repeat("b", 200)+",", 11): false,
	} {
		var h message.Head
		h.Add(FieldState, v)
		if got := ValidState(&h); got != want {
			t.Errorf("%.60q: %v, want %v", v, got, want)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add([]byte(parent))
	f.Add([]byte("cc" + parent[2:] + "-x"))
	f.Fuzz(func(t *testing.T, v []byte) {
		c, ok := Parse(v)
		if !ok {
			return
		}
		out := c.Append(nil)
		again, ok := Parse(out)
		c.Flags &= Sampled | Random
		if !ok || again != c {
			t.Errorf("%q → %q → %+v, want %+v", v, out, again, c)
		}
		if v[0] == '0' && v[1] == '0' && string(out[:53]) != string(v[:53]) {
			t.Errorf("%q → %q", v, out)
		}
	})
}

package golden_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/internal/golden"
)

type word string

type name struct{ Space, Name string }

func (n name) String() string { return n.Space + "/" + n.Name }

type part struct {
	RTT   time.Duration
	Count uint32
	Tags  []word
}

type whole struct {
	name
	ID       string
	TLSRoute *part
	Addr     netip.AddrPort
	Parts    []part
	Names    []name
	Nested   []whole
	Raw      []byte
	Labels   map[string]int
	Zero     []part
	At       time.Time
	hidden   int
}

func TestTextLeavesOutWhatIsZero(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
		want  string
	}{
		{"nothing", whole{}, "{}\n"},
		{"nil", (*whole)(nil), "null\n"},
		{"a scalar", 7, "7\n"},
		{"a list", []word{"a", "b, c", ""}, "- a\n- \"b, c\"\n- \"\"\n"},
		{"an empty list", []word{}, "[]\n"},
		{"odd text is quoted", []string{"a: b", " x", "{", "a\nb", "http://x"}, "- \"a: b\"\n- \" x\"\n- \"{\"\n- \"a\\nb\"\n- http://x\n"},
		{"octets", []any{[]byte("text"), []byte{0xff, 0}, [2]byte{'o', 'k'}}, "- text\n- 0xff00\n- ok\n"},
		{"a structure", &whole{ID: "x", TLSRoute: &part{RTT: 80 * time.Millisecond, Tags: []word{"a", "b"}}, Addr: netip.MustParseAddrPort("127.0.0.1:80"),
			Names: []name{{"a", "b"}}, Raw: []byte("raw"), Labels: map[string]int{"b": 0, "a": 1}, At: time.Unix(0, 0).UTC(), hidden: 1},
			"id: x\ntlsRoute: {rtt: 80ms, tags: [a, b]}\naddr: 127.0.0.1:80\nnames: [a/b]\nraw: raw\nlabels: {a: 1, b: 0}\nat: 1970-01-01 00:00:00 +0000 UTC\n"},
		{"lists of structures stand in lines", whole{Parts: []part{{Count: 1}, {}}, Nested: []whole{{ID: "y", Parts: []part{{Count: 2}}}}},
			"parts:\n- {count: 1}\n- {}\nnested:\n- id: y\n  parts:\n  - {count: 2}\n"},
		{"what is long stands in a block", whole{TLSRoute: &part{Count: 1, Tags: []word{word(strings.Repeat("x", 120))}}},
			"tlsRoute:\n  count: 1\n  tags:\n  - " + strings.Repeat("x", 120) + "\n"},
	} {
		if diff := cmp.Diff(c.want, golden.Text(c.value)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

package regions_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/regions"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestTheLongestPrefixSays(t *testing.T) {
	table, err := regions.Parse(strings.NewReader("# who is where\n10.0.0.0/8, eu\n10.1.0.0/16,us\n\n10.1.2.3/32,in\n2001:db8::/32,eu\n10.1.0.0/16,us\n0.0.0.0/0,world\n"))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]mesh.Region{"10.9.9.9": "eu", "10.1.9.9": "us", "10.1.2.3": "in", "::ffff:10.1.2.3": "in", "192.0.2.1": "world", "2001:db8::1": "eu", "2001:db9::1": ""} {
		if got := table.Of(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
	if got := (*regions.Table)(nil).Of(netip.MustParseAddr("10.0.0.1")); got != "" || table.Of(netip.Addr{}) != "" {
		t.Errorf("nothing says %q", got)
	}
}

func TestTablesWithFaults(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "line 1", "\n10.0.0.0/33,eu": "line 2", "10.0.0.0/8,": "line 1", "10.0.0.0/8,a,b": "line 1",
		"10.0.0.0/8,eu\n10.0.0.1/8,us": "line 2: 10.0.0.0/8 is in eu and in us", "::ffff:10.0.0.0/104,eu": "IPv4", strings.Repeat("x", 600): "read the table",
	} {
		if _, err := regions.Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.0/8,eu\n::/0,world\n", []byte{10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, text string, address []byte) {
		table, err := regions.Parse(strings.NewReader(text))
		a, ok := netip.AddrFromSlice(address)
		if err != nil || !ok {
			return
		}
		if r := table.Of(a); r != "" && !strings.Contains(text, string(r)) {
			t.Errorf("%s is in %q", a, r)
		}
	})
}

func TestTheNearestComeFirst(t *testing.T) {
	at := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	mesh3 := func(change func(eu, us, in *ir.Cluster)) map[mesh.ClusterName]*ir.Cluster {
		eu := &ir.Cluster{Name: "eu", Region: "eu-1", Ingresses: at("127.0.0.1"), Reach: mesh.Alive}
		us := &ir.Cluster{Name: "us", Region: "us-1", Ingresses: at("127.0.0.2"), Reach: mesh.Alive, RTT: 80 * time.Millisecond}
		in := &ir.Cluster{Name: "in", Region: "in-1", Ingresses: at("127.0.0.3"), Reach: mesh.Alive, RTT: 120 * time.Millisecond}
		change(eu, us, in)
		return map[mesh.ClusterName]*ir.Cluster{"eu": eu, "us": us, "in": in}
	}
	for _, c := range []struct {
		name      string
		change    func(eu, us, in *ir.Cluster)
		region    mesh.Region
		withdrawn bool
		want      string
	}{
		{"nothing known", func(_, _, _ *ir.Cluster) {}, "", false, "123"},
		{"a client in india", func(_, _, _ *ir.Cluster) {}, "in-1", false, "312"},
		{"a client in nobody's region", func(_, _, _ *ir.Cluster) {}, "br-1", false, "123"},
		{"its region is unreachable", func(_, _, in *ir.Cluster) { in.Reach = mesh.Unreachable }, "in-1", false, "12"},
		{"one is dead", func(_, us, _ *ir.Cluster) { us.Reach = mesh.Dead }, "", false, "13"},
		{"one serves what it knew", func(_, us, _ *ir.Cluster) { us.Reach = mesh.StaleServing }, "", false, "123"},
		{"one has no ingress", func(_, us, _ *ir.Cluster) { us.Ingresses = nil }, "", false, "13"},
		{"this one leaves", func(_, _, _ *ir.Cluster) {}, "eu-1", true, "23"},
		{"this one leaves and is alone", func(_, us, in *ir.Cluster) { us.Reach, in.Reach = mesh.Unreachable, mesh.Unreachable }, "", true, "1"},
	} {
		got := ""
		for _, a := range regions.Nearest(mesh3(c.change), "eu", c.region, c.withdrawn) {
			b := a.As4()
			got += string('0' + rune(b[3]))
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := regions.Nearest(nil, "eu", "", false); !slices.Equal(got, nil) {
		t.Errorf("a mesh of nobody: %v", got)
	}
}

// TestWhoDoesNotServeIsLeftOut, by what it says itself; what is kept is not changed by that.
func TestWhoDoesNotServeIsLeftOut(t *testing.T) {
	all := map[mesh.ClusterName]*ir.Cluster{"eu": {Name: "eu"}, "us": {Name: "us", Unserved: []string{"shop/web/https", "shop/web/own"}}, "in": {Name: "in", Unserved: []string{"bank/web/https"}}, "gone": nil}
	for want, listeners := range map[string][]string{
		"eu gone in us": {"shop/web/http"},
		"eu gone in":    {"shop/web/http", "shop/web/https"},
		"eu gone us":    {"bank/web/https"},
		"eu gone":       {"shop/web/own", "bank/web/https"},
	} {
		var got []string
		for n := range regions.Serving(all, listeners) {
			got = append(got, string(n))
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%v are served by %v, want %s", listeners, got, want)
		}
	}
	if len(regions.Serving(all, nil)) != 4 || len(all) != 4 {
		t.Errorf("for no listener in particular somebody is left out, or was taken from what is kept: %v", all)
	}
}

package skew

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{"v0.3.1": "0.3", "0.3": "0.3", "v1.2.3-rc.1": "1.2", "v1.2.3-4-gabcdef-dirty": "1.2", "1.2.3+meta": "1.2",
		"dev": "", "1637067": "", "": "", "1": "", "1.2.3.4": "", "v1.x": "", "-1.2": ""} {
		v := Parse(text)
		if got := map[bool]string{true: v.Release()}[v.Known()]; got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestRefuseNamesWhoIsUpgradedFirst(t *testing.T) {
	for _, c := range []struct {
		ours, theirs Range
		want         string
	}{
		{Range{3, 5}, Range{1, 2}, "upgrade us-east first, to a version that speaks protocol 3"},
		{Range{1, 2}, Range{3, 5}, "upgrade eu-west first, to a version that speaks protocol 3"},
	} {
		if _, ok := c.ours.Common(c.theirs); ok {
			t.Errorf("%v and %v have a common protocol", c.ours, c.theirs)
		}
		got := Refuse("eu-west", c.ours, Parse("v0.5.0"), "us-east", c.theirs, Version{})
		if !strings.Contains(got, c.want) || !strings.HasPrefix(got, "eu-west (v0.5.0) speaks") {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
	if n, ok := (Range{1, 3}).Common(Range{2, 5}); !ok || n != 3 {
		t.Errorf("1 to 3 and 2 to 5: %d %v, want 3", n, ok)
	}
}

// read reads "ROLE CLUSTER VERSION" lines.
func read(text string) (out []Part) {
	for line := range strings.SplitSeq(text, ";") {
		f := strings.Fields(line)
		out = append(out, Part{Role: Role(f[0]), Cluster: f[1], Name: fmt.Sprint(len(out)), Version: Parse(f[2]), Build: f[2]})
	}
	return out
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct{ parts, verdicts, steps string }{
		"all alike":                 {"control-plane a 0.3.0; sidecar a 0.3.0; isthmus - 0.3.1", "current current current", ""},
		"a development build":       {"control-plane a dev; sidecar a dev", "unknown unknown", ""},
		"one commit everywhere":     {"control-plane a e043090; sidecar a e043090; isthmus - e043090", "current current current", ""},
		"two commits":               {"control-plane a e043090; sidecar a 1234567", "unknown unknown", ""},
		"control planes first":      {"control-plane a 0.3.0; control-plane b 0.2.0; sidecar b 0.2.0; gateway b 0.2.0", "current behind behind behind", "control-plane b 0.3.0; gateway b 0.3.0; sidecar b 0.3.0"},
		"a proxy before its plane":  {"control-plane a 0.3.0; control-plane b 0.2.0; sidecar b 0.3.0", "current behind early", "control-plane b 0.3.0"},
		"a proxy too far before":    {"control-plane a 0.4.0; control-plane b 0.2.0; sidecar b 0.4.0", "current behind unsupported", "control-plane b 0.4.0"},
		"a proxy three behind":      {"control-plane a 0.4.0; sidecar a 0.1.0", "current unsupported", "sidecar a 0.4.0"},
		"proxies hold a plane up":   {"control-plane a 0.5.0; control-plane b 0.3.0; sidecar b 0.1.0", "current behind behind", "sidecar b 0.3; control-plane b 0.5.0; sidecar b 0.5.0"},
		"replicas of one plane":     {"control-plane a 0.3.0; control-plane a 0.2.0", "current behind", "control-plane a 0.3.0"},
		"the furthest behind first": {"control-plane a 0.3.0; relay r 0.1.0; control-plane b 0.2.0", "current behind behind", "relay r 0.3.0; control-plane b 0.3.0"},
		"an old command":            {"isthmus - 0.1.0; control-plane a 0.3.0", "behind current", "isthmus - 0.3.0"},
		"a command too old":         {"isthmus - 0.1.0; control-plane a 0.4.0", "unsupported current", "isthmus - 0.4.0"},
		"another major version":     {"control-plane a 1.0.0; sidecar a 0.9.0", "current unsupported", "sidecar a 1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Judge(read(c.parts))
			var verdicts, steps []string
			for _, v := range r.Verdicts {
				verdicts = append(verdicts, string(v.State))
			}
			for _, s := range r.Steps {
				steps = append(steps, fmt.Sprintf("%s %s %s", s.Role, s.Cluster, s.To))
			}
			if got := strings.Join(verdicts, " "); got != c.verdicts {
				t.Errorf("verdicts %s, want %s", got, c.verdicts)
			}
			if got := strings.Join(steps, "; "); got != c.steps {
				t.Errorf("steps %s, want %s: %v", got, c.steps, r.Steps)
			}
		})
	}
}

// unserved lists the pairs of groups that do not serve each other, of which a step made one.
func unserved(parts []Part) (out []string) {
	for i, a := range parts {
		for j, b := range parts[:i] {
			if a.Role.Proxy() != b.Role.Proxy() && a.Cluster != b.Cluster || a.Role == CLI && b.Role.Proxy() || b.Role == CLI && a.Role.Proxy() {
				continue
			}
			if !Served(a.Role, a.Version, b.Role, b.Version) {
				out = append(out, fmt.Sprintf("%d %d", i, j))
			}
		}
	}
	return out
}

// TestPlansNeverLeaveAPartUnserved: from any mesh in which all serve each other, following the steps keeps it so at every
// step, halfway through it too, and ends with everything at the newest version.
func TestPlansNeverLeaveAPartUnserved(t *testing.T) {
	planned := 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var parts []Part
		for i := range 2 + r.IntN(8) {
			role := []Role{ControlPlane, ControlPlane, Relay, Gateway, Sidecar, Sidecar}[r.IntN(6)]
			cluster := string(rune('a' + r.IntN(3)))
			if role == Relay {
				cluster = "r"
			}
			parts = append(parts, Part{Role: role, Cluster: cluster, Name: fmt.Sprint(i), Version: Parse(fmt.Sprintf("0.%d.%d", 1+r.IntN(5), r.IntN(2)))})
		}
		if len(unserved(parts)) > 0 || slices.ContainsFunc(parts, func(p Part) bool { // a proxy without a plane has nothing to be judged by
			return p.Role.Proxy() && !slices.ContainsFunc(parts, func(q Part) bool { return !q.Role.Proxy() && q.Cluster == p.Cluster })
		}) {
			continue
		}
		steps := Judge(parts).Steps
		if len(steps) > 0 {
			planned++
		}
		for _, s := range steps {
			to := Parse(s.To)
			for i, p := range parts { // one part at a time, as a rollout does
				if p.Role == s.Role && p.Cluster == s.Cluster && p.Version.Compare(to) < 0 {
					parts[i].Version = to
					if bad := unserved(parts); len(bad) > 0 {
						t.Fatalf("seed %d: %v leaves pairs %v unserved: %+v", seed, s, bad, parts)
					}
				}
			}
		}
		newest := Version{}
		for _, p := range parts {
			if !p.Role.Proxy() && (!newest.Known() || p.Version.Compare(newest) > 0) {
				newest = p.Version
			}
		}
		for _, p := range parts {
			if newest.Known() && p.Version.Compare(newest) < 0 {
				t.Fatalf("seed %d: after all steps %+v is behind %s: %v", seed, p, newest.Text, steps)
			}
		}
	}
	if planned < 1000 {
		t.Fatalf("only %d plans had steps", planned)
	}
}

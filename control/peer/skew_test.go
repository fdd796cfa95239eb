package peer_test

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
)

// TestOlderAndNewerPeers lets control planes of several builds follow each other over mTLS: two minor versions back are in sync, in either
// direction, and three back are refused with the one to upgrade first, while what is known stays in force.
func TestOlderAndNewerPeers(t *testing.T) {
	t.Parallel()
	old, now := skew.Build{Version: "v0.1.0", Protocols: skew.Range{Min: 1, Max: 1}}, skew.Build{Version: "v0.3.0"}
	for _, c := range []struct {
		name         string
		owner, other skew.Build
		version      string // of the owner, as the other knows it
		protocol     int
		refused      string
	}{
		{"an old owner", old, now, "", 1, ""},
		{"an old follower", now, old, "", 1, ""},
		{"both new", now, now, "v0.3.0", 2, ""},
		{"an owner that is too new", skew.Build{Version: "v0.4.0", Protocols: skew.Range{Min: 2, Max: 4}}, old, "", 0, "upgrade this control plane first"},
		{"an owner that is too old", old, skew.Build{Version: "v0.4.0", Protocols: skew.Range{Min: 2, Max: 4}}, "", 0, "upgrade cluster a first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			a.configure = func(cfg *peer.ServerConfig) { cfg.Build = c.owner }
			b.build = c.other
			a.exports.Tell("b", []*replica.Resource{a.service("web", 8)}, nil)
			a.serve()
			f := b.follow(a)
			if c.refused != "" {
				f.until(t, "refused", func(s replica.Status) bool { return strings.Contains(s.Skew, c.refused) })
				if s := f.Status(); s.InSync || s.Protocol != 0 {
					t.Errorf("refused and %+v", s)
				}
				return
			}
			f.until(t, "in sync", inSync)
			b.has(a, "web", 8)
			if s := f.Status(); s.Protocol != c.protocol || s.Version != c.version || s.Skew != "" {
				t.Errorf("%+v, want protocol %d of %q", s, c.protocol, c.version)
			}
		})
	}
}

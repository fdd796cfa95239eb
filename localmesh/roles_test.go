package localmesh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestRolesFollowTopologyAndFile: what the file says of a cluster holds in both topologies.
func TestRolesFollowTopologyAndFile(t *testing.T) {
	for _, tt := range []struct {
		topology string
		roles    []mesh.Role // as the file says them
		want     string
	}{
		{MultiPrimary, []mesh.Role{"", "", ""}, "eu-west Primary, us-east Primary, ap-south Primary"},
		{PrimaryRemote, []mesh.Role{"", "", ""}, "eu-west Primary, us-east Remote of [eu-west], ap-south Remote of [eu-west]"},
		{MultiPrimary, []mesh.Role{"", "", mesh.RoleRemote}, "eu-west Primary, us-east Primary, ap-south Remote of [eu-west us-east]"},
		{PrimaryRemote, []mesh.Role{mesh.RoleRemote, "", mesh.RolePrimary}, "eu-west Remote of [us-east ap-south], us-east Primary, ap-south Primary"},
	} {
		p := planned(t, func(c *Config) {
			c.Topology = tt.topology
			for i := range c.Mesh.Clusters {
				c.Mesh.Clusters[i].Role = tt.roles[i]
			}
		})
		var got []string
		for _, c := range p.Clusters {
			text := string(c.Name) + " " + string(c.Role)
			if c.Remote() {
				text += fmt.Sprintf(" of %v", c.Primaries)
			}
			got = append(got, text)
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s of %q: %s, want %s", tt.topology, tt.roles, text, tt.want)
		}
	}
}

// TestRemoteClustersAreReachedByTheirGatewaysOnly: links carry the federation from a remote cluster to its primaries, and to a
// remote cluster nothing but what its gateway takes.
func TestRemoteClustersAreReachedByTheirGatewaysOnly(t *testing.T) {
	p := planned(t, func(c *Config) {
		c.Mesh.Clusters[2].Role, c.Mesh.Clusters[2].Primaries = mesh.RoleRemote, []mesh.ClusterName{"us-east"}
	})
	carried := map[string]bool{}
	for _, l := range p.Links {
		for _, f := range p.linkConfig(l).Forwards {
			from, to := l.A, l.B
			if f.Direction.String() == "b-to-a" {
				from, to = to, from
			}
			carried[fmt.Sprintf("%s %s to %s", f.Name, from.Name, to.Name)] = true
		}
	}
	for name, want := range map[string]bool{
		"federation eu-west to us-east": true, "federation ap-south to us-east": true, "federation ap-south to eu-west": false,
		"federation us-east to ap-south": false, "gateway us-east to ap-south": true, "gateway ap-south to eu-west": true,
	} {
		if carried[name] != want {
			t.Errorf("%s: carried %v, want %v", name, carried[name], want)
		}
	}
	for _, s := range p.Specs() {
		if config, ok := s.Config.(planeConfig); ok && config.Federation.IsValid() != (s.Role == RoleControlPlane) {
			t.Errorf("%s listens for the federation at %v", s.Name, config.Federation)
		}
	}
}

func TestDrillsOfRemoteClusters(t *testing.T) {
	p := planned(t, func(c *Config) { c.Topology = PrimaryRemote })
	if target, err := p.Target("relay@us-east"); err != nil || !slices.Equal(target.Processes, []string{"us-east.relay"}) {
		t.Errorf("relay@us-east is %+v, %v", target, err)
	}
	if target, err := p.Target("us-east"); err != nil || len(target.Stores) != 0 || !slices.Contains(target.Processes, "us-east.relay") {
		t.Errorf("us-east is %+v, %v", target, err)
	}
	for _, text := range []string{"control-plane@us-east", "store@us-east", "relay@eu-west"} {
		var unknown *UnknownTargetError
		if _, err := p.Target(text); !errors.As(err, &unknown) || !strings.Contains(unknown.Why, "it has no") {
			t.Errorf("%s: %v, want that the cluster has none", text, err)
		}
	}
	for _, text := range p.Targets() {
		if _, err := p.Target(text); err != nil {
			t.Errorf("%s is offered and refused: %v", text, err)
		}
	}
}

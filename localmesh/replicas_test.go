package localmesh

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestSeveralControlPlanes: they share a store, a seal key and nothing else; proxies know all of them, and so do other clusters.
func TestSeveralControlPlanes(t *testing.T) {
	p := planned(t, replicated)
	eu, us := p.Clusters[0], p.Clusters[1]
	var names []string
	dirs := map[string]bool{}
	for _, s := range p.Specs() {
		if s.Cluster != eu || s.Role != RoleControlPlane && s.Role != RoleStore {
			continue
		}
		names = append(names, s.Name)
		c, plane := s.Config.(planeConfig)
		if !plane {
			continue
		}
		if dirs[c.StateDir] || len(c.StoreEndpoints) != 3 || c.StoreTLS == nil || s.Seals != "eu-west.control-plane" {
			t.Errorf("%s: %+v, sealed by the key of %q", s.Name, c, s.Seals)
		}
		dirs[c.StateDir] = true
	}
	want := []string{"eu-west.store-0", "eu-west.store-1", "eu-west.store-2", "eu-west.control-plane", "eu-west.control-plane-1", "eu-west.control-plane-2"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("processes, in the order of their start (-want +got):\n%s", d)
	}
	if got := fmt.Sprint(p.controlPorts(eu)); got != "[127.11.0.2:15010 127.11.0.4:15010 127.11.0.5:15010]" {
		t.Errorf("proxies follow %s", got)
	}
	objects, err := p.Objects(us, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"127.12.255.1:15012", "127.12.255.1:15112", "127.12.255.1:15212"} {
		if !strings.Contains(string(objects), a) {
			t.Errorf("us-east does not know a control plane at %s:\n%s", a, objects)
		}
	}
	for _, s := range p.Specs() { // one of its own is as it was
		if c, ok := s.Config.(planeConfig); ok && s.Cluster == us && (len(c.StoreEndpoints) > 0 || s.Seals != "" || c.StateDir != p.clusterDir(us)) {
			t.Errorf("%s: %+v", s.Name, c)
		}
	}
}

func TestTargetsOfReplicas(t *testing.T) {
	p := planned(t, replicated)
	for text, want := range map[string][]string{
		"control-plane@eu-west":   {"eu-west.control-plane", "eu-west.control-plane-1", "eu-west.control-plane-2"},
		"control-plane/0@eu-west": {"eu-west.control-plane"},
		"control-plane/2@eu-west": {"eu-west.control-plane-2"},
		"store@eu-west":           {"eu-west.store-0", "eu-west.store-1", "eu-west.store-2"},
		"store/1@eu-west":         {"eu-west.store-1"},
		"gateway@eu-west":         {"eu-west.gateway"},
		"control-plane/3@eu-west": nil,
		"store/3@eu-west":         nil,
		"app:store/1@eu-west":     nil,
		"control-plane/0@us-east": nil, // it has one
		"store/0@us-east":         nil,
		"relay@eu-west":           nil,
	} {
		got, err := p.Target(text)
		if (err == nil) != (want != nil) || !slices.Equal(got.Processes, want) || len(got.Stores) > 0 {
			t.Errorf("%s: %+v, %v; want %v", text, got, err, want)
		}
	}
	valid := p.Targets()
	for _, text := range []string{"control-plane/1@eu-west", "store/2@eu-west", "control-plane@eu-west", "store@us-east"} {
		if !slices.Contains(valid, text) {
			t.Errorf("%s is not listed", text)
		}
	}
}

func TestARemoteClusterHasOneRelay(t *testing.T) {
	c := Config{Mesh: Default(), StateDir: "/s", AddressBase: DefaultBase, Topology: PrimaryRemote}
	c.Mesh.Clusters[1].Replicas = 2
	if _, err := NewPlan(c); err == nil || !strings.Contains(err.Error(), "a remote cluster has one relay") {
		t.Errorf("%v", err)
	}
	c.Mesh.Clusters[1].Role = mesh.RolePrimary
	if _, err := NewPlan(c); err != nil {
		t.Error(err)
	}
}

// TestAStoreIsNotReplacedByAnother: what the state directory holds of a cluster is in one kind of store, and the file that says another
// is refused before anything changes.
func TestAStoreIsNotReplacedByAnother(t *testing.T) {
	dir := t.TempDir()
	one, three := planned(t, nil), planned(t, replicated)
	one.StateDir, three.StateDir = filepath.Join(dir, "one"), filepath.Join(dir, "three")
	for _, p := range []*Plan{one, three, one, three} { // again over what is there
		if err := p.makeDirs(); err != nil {
			t.Fatal(err)
		}
	}
	var config struct {
		DataDir string
		Cluster struct{ Members map[string]string }
	}
	text, err := os.ReadFile(three.store(three.Clusters[0]).Config(three.store(three.Clusters[0]).Members[2]))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil || len(config.Cluster.Members) != 3 || config.Cluster.Members["store-2"] != "127.11.0.8:2380" {
		t.Errorf("a member is told %s, %v", text, err)
	}
	if err := os.Mkdir(filepath.Join(one.clusterDir(one.Clusters[0]), "store"), 0o700); err != nil { // the control plane made it
		t.Fatal(err)
	}
	one.StateDir, three.StateDir = three.StateDir, one.StateDir
	for what, p := range map[string]*Plan{"one over three": one, "three over one": three} {
		if err := p.makeDirs(); err == nil || !strings.Contains(err.Error(), "write what it was, or give another --state-dir") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestReplicasHaveOneSealKey: they start at the same time, and the key is made by the first. One that cannot be made is an error and nothing
// else.
func TestReplicasHaveOneSealKey(t *testing.T) {
	p := planned(t, replicated)
	p.StateDir = t.TempDir()
	if err := p.makeDirs(); err != nil {
		t.Fatal(err)
	}
	l := &launcher{plan: p, executable: "/nothing", log: slog.New(slog.DiscardHandler)}
	keys := make([]string, 16)
	var starting sync.WaitGroup
	for i := range keys {
		starting.Go(func() {
			spec := p.planeSpec(p.Clusters[0], i%3)
			_, ended, err := l.command(t.Context(), spec, io.Discard)
			if err != nil {
				t.Error(err)
				return
			}
			ended()
			f, err := l.sealKey(spec.Seals)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil {
				t.Error(err)
			}
			keys[i] = string(b)
		})
	}
	starting.Wait()
	for _, k := range keys {
		if k != keys[0] || len(k) == 0 {
			t.Fatalf("two replicas have different keys")
		}
	}
	p.StateDir = filepath.Join(p.StateDir, "gone")
	if cmd, ended, err := l.command(t.Context(), p.planeSpec(p.Clusters[0], 0), io.Discard); err == nil || cmd != nil || ended != nil {
		t.Errorf("a key that cannot be made: %v, %v", cmd, err)
	}
}

package api_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var update = flag.Bool("update", false, "write what the stories print into their files")

// TestExplainStories plays testdata/explain/*.txt. Files named *.yaml are the objects of the
// cluster they are named for; "questions" holds one explain a line, as a user types it; the rest of
// the archive is the answers, in order. The first cluster in alphabetical order is asked unless the
// source names another.
func TestExplainStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/explain/*.txt")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { playStory(t, path) })
	}
}

func playStory(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := txtar.Parse(text)
	objects := map[mesh.ClusterName][]manifest.Object{}
	out := &txtar.Archive{Comment: a.Comment}
	for _, f := range a.Files {
		if cluster, ok := strings.CutSuffix(f.Name, ".yaml"); ok {
			r := manifest.Parse(f.Name, f.Data, manifest.Options{Namespace: "shop", Stored: true})
			for _, o := range r.Objects {
				objects[mesh.ClusterName(cluster)] = append(objects[mesh.ClusterName(cluster)], o)
			}
		} else if f.Name != "questions" {
			continue
		}
		out.Files = append(out.Files, f)
		if f.Name != "questions" {
			continue
		}
		worlds := joined(t, objects)
		for line := range strings.Lines(string(f.Data)) {
			out.Files = append(out.Files, txtar.File{Name: strings.TrimSpace(line), Data: []byte(answerTo(t, worlds, strings.TrimSpace(line)))})
		}
	}
	got := txtar.Format(out)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// joined is the world of each cluster when all have told each other everything.
func joined(t *testing.T, objects map[mesh.ClusterName][]manifest.Object) map[mesh.ClusterName]*world.World {
	t.Helper()
	worlds := map[mesh.ClusterName]*world.World{}
	for _, n := range slices.Sorted(maps.Keys(objects)) {
		var edits []world.Edit
		for _, o := range objects[n] {
			if f, ok := o.Fact(n); ok {
				edits = append(edits, world.Put(&f))
			}
		}
		w, _ := world.New(n).Edit(edits)
		for _, o := range objects[n] {
			v, ok := o.Value.(*mesh.Service)
			if !ok {
				continue
			}
			ready, err := derive.Eval(w, compile.ReadyOf, v.ServiceName)
			if err != nil {
				t.Fatal(err)
			}
			if ready == nil {
				continue
			}
			table, _ := balance.NextSlots(mesh.SlotTable{Service: v.ServiceName}, *ready)
			w, _ = w.Edit([]world.Edit{world.Put(observed(mesh.KindSlotTable, n, v.ServiceName, &table))})
		}
		worlds[n] = w
	}
	out := map[mesh.ClusterName]*world.World{}
	for here, w := range worlds {
		for there := range worlds {
			if here != there {
				w = tell(t, w, worlds[there], objects[there])
			}
		}
		out[here] = w
	}
	return out
}

func observed(kind mesh.Kind, origin mesh.ClusterName, s mesh.ServiceName, v any) *mesh.Fact {
	return &mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Namespace: s.Namespace, Name: s.Name}, Value: v, Digest: ir.DigestOf(v)}
}

// tell adds to w what another cluster exports and replicates to it.
func tell(t *testing.T, w, other *world.World, objects []manifest.Object) *world.World {
	t.Helper()
	for _, o := range objects {
		f, ok := o.Fact(other.Self())
		if ok && f.Kind.Replicated() && !f.Home {
			w, _ = w.Edit([]world.Edit{world.Put(&f)})
		}
		v, ok := o.Value.(*mesh.Service)
		if !ok {
			continue
		}
		export, err := derive.Eval(other, compile.ExportOf, compile.Export{Service: v.ServiceName, Peer: w.Self()})
		if err != nil {
			t.Fatal(err)
		}
		if export != nil {
			w, _ = w.Edit([]world.Edit{world.Put(observed(mesh.KindRemoteService, other.Self(), v.ServiceName, export))})
		}
	}
	return w
}

// answerTo plays "SRC DST [--method M] [--path P] [--header H]… [--unreachable CLUSTER]… [--silent CLUSTER]…", of which the last
// was last heard twenty minutes ago.
func answerTo(t *testing.T, worlds map[mesh.ClusterName]*world.World, line string) string {
	t.Helper()
	words := strings.Fields(line)
	if len(words) < 2 {
		t.Fatalf("question %q is not understood", line)
	}
	q := api.ExplainRequest{Source: words[0], Destination: words[1]}
	here := slices.Sorted(maps.Keys(worlds))[0]
	if _, at, ok := strings.Cut(words[0], "@"); ok && worlds[mesh.ClusterName(at)] != nil {
		here = mesh.ClusterName(at)
	}
	if id, err := mesh.ParseIdentity(words[0]); err == nil && worlds[id.TrustDomain.Cluster()] != nil {
		here = id.TrustDomain.Cluster()
	}
	w := worlds[here]
	for i := 2; i+1 < len(words); i += 2 {
		switch words[i] {
		case "--method":
			q.Method = words[i+1]
		case "--path":
			q.Path = words[i+1]
		case "--header":
			q.Headers = append(q.Headers, words[i+1])
		case "--unreachable":
			n := mesh.ClusterName(words[i+1])
			f := observed(mesh.KindReach, here, mesh.ServiceName{Name: string(n)}, &mesh.Reach{Cluster: n, State: mesh.Unreachable, RTT: 80 * time.Millisecond})
			w, _ = w.Edit([]world.Edit{world.Put(f)})
		case "--silent":
			n := mesh.ClusterName(words[i+1])
			f := observed(mesh.KindReach, here, mesh.ServiceName{Name: string(n)}, &mesh.Reach{Cluster: n, State: mesh.StaleServing, RTT: 80 * time.Millisecond, StaleSinceMillis: noon.Add(-20 * time.Minute).UnixMilli()})
			w, _ = w.Edit([]world.Edit{world.Put(f)})
		default:
			t.Fatalf("question %q: %s is not known", line, words[i])
		}
	}
	e, err := api.Explain(w, ir.View{Cluster: here, Network: mesh.Network(here)}, noon, q)
	if err != nil {
		return err.Error() + "\n"
	}
	var b bytes.Buffer
	if err := e.Narrate(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestExplainAnswersOverHTTP holds the client's answer against the function's.
func TestExplainAnswersOverHTTP(t *testing.T) {
	s := newSite(t, func(c *api.Config) { c.Now = func() time.Time { return noon } })
	s.apply(shop + fmt.Sprintf(`---
apiVersion: isthmus.dev/v1alpha1
kind: Cluster
metadata: {name: eu-west}
spec: {network: eu, trustDomain: eu-west.isthmus.local}
---
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: catalog-0, labels: {app: catalog}}
spec: {address: 127.11.1.2, serviceAccount: catalog, proxy: "%s"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: catalog, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: catalog}]
  validation: {hostname: catalog.example.com, wellKnownCACertificates: System}
`, netip.MustParseAddrPort("127.11.1.1:15008")))
	q := api.ExplainRequest{Source: "catalog.shop@eu-west", Destination: "http://catalog/items?a=b", Method: "post", Headers: []string{"X-A: b"}}
	got, err := s.client.Explain(s.context(), q)
	if err != nil {
		t.Fatal(err)
	}
	want, err := api.Explain(s.world(), ir.View{Cluster: self, Network: "eu"}, noon, q)
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := want.Narrate(&a); err != nil {
		t.Fatal(err)
	}
	if err := got.Narrate(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.String(), b.String()); diff != "" || got.Outcome.Answer != api.Forwarded {
		t.Errorf("%s\n(-function +http):\n%s", b.String(), diff)
	}
	tls := &api.LastHopTLS{Object: "BackendTLSPolicy shop/catalog@eu-west", ServerName: "catalog.example.com", ALPN: []string{"http/1.1"},
		MustBe: []string{"Hostname catalog.example.com"}, Authorities: []string{"the host's"}}
	if diff := cmp.Diff(&api.LastHop{Protocol: "HTTP", TLS: tls}, got.Backends[0].Application); diff != "" {
		t.Errorf("the last hop (-want +got):\n%s", diff)
	}
	for _, bad := range []api.ExplainRequest{{Source: "a", Destination: "b"}, {Source: "a@eu-west", Destination: "ftp://x"}, {Source: "a@eu-west", Destination: ":0"},
		{Source: "spiffe://x", Destination: "b"}, {Source: "a@eu-west", Destination: "b", Headers: []string{"x"}}, {Source: "a@eu-west", Destination: "b", Path: "x"}} {
		_, err := s.client.Explain(s.context(), bad)
		if e := refusal(t, err); e.Status != 400 || e.Remedy == "" {
			t.Errorf("%+v: %d %v", bad, e.Status, e)
		}
	}
	_, err = s.client.Explain(s.context(), api.ExplainRequest{Source: "a@us-east", Destination: "b"})
	if e := refusal(t, err); e.Status != 421 || e.Remedy != "ask cluster us-east" {
		t.Errorf("source elsewhere: %d %v", e.Status, e)
	}
}

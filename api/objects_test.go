package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const shop = `# a chart's service, then a route to it, in the wrong order
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, labels: {team: a}}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, port: 80}]
  rules: [{backendRefs: [{name: catalog, port: 80, weight: 90}, {name: catalog-v2, port: 80, weight: 10}]}]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: catalog, labels: {team: a, tier: web}}
  spec: {ports: [{name: http, port: 80}], selector: {app: catalog}}
- apiVersion: v1
  kind: Service
  metadata: {name: catalog-v2, labels: {team: b}}
  spec: {ports: [{name: http, port: 80}], selector: {app: catalog-v2}, sessionAfinity: None}
`

func kind(t *testing.T, word string) manifest.Kind {
	t.Helper()
	k, ok := manifest.KindNamed(word)
	if !ok {
		t.Fatalf("no kind %s", word)
	}
	return k
}

func actions(r *api.ApplyResult) []string {
	var out []string
	for _, a := range r.Results {
		out = append(out, a.Resource+"/"+a.Name+" "+a.Action)
	}
	return out
}

func faults(list []manifest.Fault) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.String())
	}
	return out
}

// shown is an object as the API shows it, as far as the tests look.
type shown struct {
	Metadata struct {
		Name, Namespace, UID, ResourceVersion string
		CreationTimestamp                     time.Time
		Generation                            int64
	}
	Spec struct {
		ClusterIP string
		Type      string
	}
	Status struct {
		Origin     string
		Parents    []struct{ Conditions []api.Condition }
		Ancestors  []struct{ Conditions []api.Condition }
		Clusters   []api.ServiceCluster
		Conditions []api.Condition
	}
}

func (s *site) get(word, name string) shown {
	s.t.Helper()
	text, err := s.client.Get(s.context(), kind(s.t, word), "shop", name)
	if err != nil {
		s.t.Fatal(err)
	}
	return read(s.t, text)
}

func read(t *testing.T, text json.RawMessage) shown {
	t.Helper()
	var out shown
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return out
}

func conditions(list []api.Condition) []string {
	var out []string
	for _, c := range list {
		out = append(out, fmt.Sprint(c, " ", c.ObservedGeneration))
	}
	return out
}

func (s *site) names(word, namespace, labels string) []string {
	s.t.Helper()
	items, err := s.client.List(s.context(), kind(s.t, word), api.ListOptions{Namespace: namespace, Labels: labels})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, i := range items {
		out = append(out, read(s.t, i).Metadata.Name)
	}
	return out
}

func TestApplyGetDelete(t *testing.T) {
	s := newSite(t, func(c *api.Config) { c.Now = func() time.Time { return noon } })
	r := s.apply(shop)
	want := []string{"service/catalog created", "service/catalog-v2 created", "httproute.gateway.networking.k8s.io/split created"}
	if diff := cmp.Diff(want, actions(r)); diff != "" {
		t.Errorf("first apply (-want +got):\n%s", diff)
	}
	warned := []string{`in.yaml:19:72: Service shop/catalog-v2: spec.sessionAfinity: unknown field, ignored; did you mean sessionAffinity?`}
	if diff := cmp.Diff(warned, faults(r.Warnings)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	for _, a := range s.apply(shop).Results {
		if a.Action != api.Unchanged {
			t.Errorf("second apply: %v", a)
		}
	}
	first := s.get("svc", "catalog")
	if m := first.Metadata; m.Generation != 1 || len(m.UID) != 36 || !m.CreationTimestamp.Equal(noon) || m.ResourceVersion == "" {
		t.Errorf("metadata %+v", m)
	}
	if got := []string{s.get("svc", "catalog").Spec.ClusterIP, s.get("service", "catalog-v2").Spec.ClusterIP}; !cmp.Equal(got, []string{"127.11.0.10", "127.11.0.11"}) {
		t.Errorf("addresses %v", got)
	}
	again := s.apply(strings.Replace(shop, "tier: web", "tier: back", 1))
	if diff := cmp.Diff([]string{"service/catalog configured", "service/catalog-v2 unchanged", want[2][:len(want[2])-7] + "unchanged"}, actions(again)); diff != "" {
		t.Errorf("third apply (-want +got):\n%s", diff)
	}
	second := s.get("svc", "catalog")
	if second.Metadata.Generation != 2 || second.Metadata.UID != first.Metadata.UID || second.Metadata.ResourceVersion == first.Metadata.ResourceVersion || second.Spec.ClusterIP != "127.11.0.10" {
		t.Errorf("after the change %+v", second)
	}
	for _, q := range []struct {
		namespace, labels string
		want              []string
	}{
		{"", "", []string{"catalog", "catalog-v2"}}, {"shop", "team=a", []string{"catalog"}}, {"other", "", nil},
		{"", "team in (a, b),!tier", []string{"catalog-v2"}}, {"", "team!=a", []string{"catalog-v2"}}, {"", "tier notin (back)", []string{"catalog-v2"}},
	} {
		if got := s.names("services", q.namespace, q.labels); !cmp.Equal(got, q.want) {
			t.Errorf("list of %q with %q: %v, want %v", q.namespace, q.labels, got, q.want)
		}
	}
	if err := s.client.Delete(s.context(), kind(t, "svc"), "shop", "catalog-v2", true); err != nil {
		t.Errorf("delete that is a dry run: %v", err)
	}
	if err := s.client.Delete(s.context(), kind(t, "svc"), "shop", "catalog-v2", false); err != nil {
		t.Errorf("delete: %v", err)
	}
	e := refusal(t, s.client.Delete(s.context(), kind(t, "svc"), "shop", "catalog-v2", false))
	if e.Status != http.StatusNotFound || e.Remedy == "" || !strings.Contains(e.Error(), "delete Service shop/catalog-v2 in cluster eu-west: not found") {
		t.Errorf("second delete: %d %v", e.Status, e)
	}
	got := conditions(s.get("httproute", "split").Status.Parents[0].Conditions)
	wantConditions := []string{"Accepted=True (Accepted) 1", "ResolvedRefs=False (BackendNotFound) 1", "Programmed=True (Programmed) 1"}
	if diff := cmp.Diff(wantConditions, got); diff != "" {
		t.Errorf("conditions after the delete (-want +got):\n%s", diff)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	s := newSite(t)
	r, err := s.client.Apply(s.context(), []api.File{{Name: "-", Text: []byte(shop)}}, api.ApplyOptions{DryRun: true})
	if err != nil || len(r.Results) != 3 || r.Results[0].Action != api.Created || r.Warnings[0].File != "<stdin>" {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	if got := s.names("services", "", ""); len(got) != 0 {
		t.Errorf("stored after a dry run: %v", got)
	}
}

// manyFaults is n services without a port.
func manyFaults(n int) string {
	var b strings.Builder
	b.WriteString(shop)
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {ports: []}\n", i)
	}
	return b.String()
}

func TestBadInputIsListedAndWritesNothing(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		name, text string
		faults     int
		first      string
	}{
		{"broken YAML", shop + "---\n{a: [\n", 1, "in.yaml:21:"},
		{"wrong type", shop + "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 7}\n", 1, "spec.ports"},
		{"unknown kind", shop + "---\napiVersion: v1\nkind: Servize\nmetadata: {name: a}\n", 1, "unknown kind"},
		{"out of range", strings.Replace(shop, "port: 80}],", "port: 80000}],", 1), 1, "80000"},
		{"duplicate", shop + "---\napiVersion: v1\nkind: Service\nmetadata: {name: catalog}\nspec: {ports: [{port: 80}]}\n", 1, ""},
		{"a file that is no object", shop + "---\napiVersion: isthmus.dev/v1alpha1\nkind: LocalMesh\nclusters: [{name: a}]\n", 1, "isthmus up"},
		{"1,000 faults", manyFaults(1000), 1000, "in.yaml:24:15: Service shop/s0: spec.ports: missing"},
		{"10 MB", shop + "# " + strings.Repeat("x", 10<<20), 1, "10 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(c.text)}}, api.ApplyOptions{Namespace: "shop"})
			e := refusal(t, err)
			if e.Status != http.StatusUnprocessableEntity || e.ApplyResult == nil || len(e.Faults) != c.faults {
				t.Fatalf("%v: status %d, %d faults; want %d", e, e.Status, len(e.Faults), c.faults)
			}
			if line := e.Faults[0].String(); !strings.HasPrefix(line, "in.yaml:") || !strings.Contains(line, c.first) {
				t.Errorf("first fault %q, want %q in it", line, c.first)
			}
			if objects, _, err := s.store.List(s.context(), store.Scope{}); err != nil || len(objects) != 0 {
				t.Errorf("stored: %d objects, %v", len(objects), err)
			}
		})
	}
}

func TestWholeInputOfSeveralFilesIsValidatedFirst(t *testing.T) {
	s := newSite(t)
	_, err := s.client.Apply(s.context(), []api.File{{Name: "dir/good.yaml", Text: []byte(shop)}, {Name: "dir/b \"ad\".yaml", Text: []byte("kind: Service\n")}}, api.ApplyOptions{})
	e := refusal(t, err)
	if len(e.Faults) == 0 || e.Faults[0].File != `dir/b "ad".yaml` {
		t.Errorf("faults %v", e.Faults)
	}
	if got := s.names("services", "", ""); len(got) != 0 {
		t.Errorf("stored %v", got)
	}
}

func TestReferenceToNothingIsAcceptedAndWarned(t *testing.T) {
	s := newSite(t)
	r := s.apply(strings.ReplaceAll(shop, "name: catalog-v2, port: 80, weight", "name: nope, port: 80, weight") + `---
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p}
spec: {targetRefs: [{kind: Service, name: none}], rules: [{}]}
`)
	want := []string{
		"in.yaml:19:72: Service shop/catalog-v2: spec.sessionAfinity: unknown field, ignored; did you mean sessionAffinity?",
		"in.yaml:21:1: AccessPolicy shop/p: spec.targetRefs[0]: service shop/none does not exist in any cluster of the mesh; apply it too, or correct the reference; until then ResolvedRefs=False",
		"in.yaml:2:1: HTTPRoute shop/split: spec.rules[0].backendRefs[1]: service shop/nope does not exist in any cluster of the mesh; apply it too, or correct the reference; until then ResolvedRefs=False",
	}
	if diff := cmp.Diff(want, faults(r.Warnings)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	wantConditions := []string{"Accepted=True (Accepted) 1", "ResolvedRefs=False (BackendNotFound) 1", "Programmed=True (Programmed) 1"}
	if diff := cmp.Diff(wantConditions, conditions(s.get("httproutes", "split").Status.Parents[0].Conditions)); diff != "" {
		t.Errorf("route (-want +got):\n%s", diff)
	}
	wantConditions[1] = "ResolvedRefs=False (TargetNotFound) 1"
	if diff := cmp.Diff(wantConditions, conditions(s.get("ap", "p").Status.Ancestors[0].Conditions)); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	parent := strings.ReplaceAll(shop, "kind: Service, name: catalog, port: 80", "kind: Service, name: ghost")
	if w := faults(s.apply(parent).Warnings); len(w) != 2 || !strings.Contains(w[1], "spec.parentRefs[0]: service shop/ghost does not exist") {
		t.Errorf("warnings %v", w)
	}
}

// route is an HTTPRoute fact that another cluster states.
func route(t *testing.T, origin mesh.ClusterName, wall int64, text string) *mesh.Fact {
	t.Helper()
	r := manifest.Parse("peer", []byte(text), manifest.Options{Namespace: "shop"})
	if len(r.Objects) != 1 {
		t.Fatalf("%v", r.Faults)
	}
	f, ok := r.Objects[0].Fact(origin)
	if !ok {
		t.Fatal("no fact")
	}
	f.Raw, f.Stamp = r.Objects[0].JSON, mesh.Stamp{WallMillis: wall, Origin: origin}
	return &f
}

func TestAnotherClustersObject(t *testing.T) {
	s := newSite(t)
	text, _, _ := strings.Cut(shop, "---")
	theirs := route(t, "us-east", 1<<40, strings.Replace(text, "weight: 90", "weight: 50", 1))
	own := &mesh.Cluster{Name: self, Accepts: []mesh.Accept{{Origin: "*", Kind: "*", Namespace: "*"}}}
	s.extra = []*mesh.Fact{theirs, {Key: mesh.Key{Kind: mesh.KindCluster, Origin: self, Name: string(self)}, Value: own, Digest: ir.DigestOf(own)}}

	if got := s.get("httproute", "split"); got.Status.Origin != "us-east" || got.Metadata.ResourceVersion != "" {
		t.Errorf("theirs alone: %+v", got)
	}
	if got := s.names("httproutes", "", ""); !cmp.Equal(got, []string{"split"}) {
		t.Errorf("list %v", got)
	}
	e := refusal(t, s.client.Delete(s.context(), kind(t, "httproute"), "shop", "split", false))
	if e.Status != http.StatusConflict || e.Remedy != "add --cluster us-east" {
		t.Errorf("delete of theirs: %d %v", e.Status, e)
	}
	if w := faults(s.apply(shop).Warnings); len(w) != 2 || !strings.Contains(w[1], "cluster us-east states another object of this name") {
		t.Errorf("warnings %v", w)
	}
	got := conditions(s.get("httproute", "split").Status.Parents[0].Conditions)
	want := []string{"Accepted=False (Conflicted) 1", "ResolvedRefs=True (ResolvedRefs) 1", "Programmed=False (NotInForce) 1", "Conflict=True (Superseded) 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ours, stamped earlier (-want +got):\n%s", diff)
	}
	theirs = route(t, "us-east", -5, strings.Replace(text, "weight: 90", "weight: 50", 1))
	s.extra[0] = theirs
	got = conditions(s.get("httproute", "split").Status.Parents[0].Conditions)
	if want := "Conflict=True (Wins) 1"; len(got) != 4 || got[3] != want || got[0] != "Accepted=True (Accepted) 1" {
		t.Errorf("ours, stamped later: %v, want %s", got, want)
	}
	own.Accepts = nil
	s.extra[0] = route(t, "us-east", 9, strings.ReplaceAll(text, "split", "alone"))
	if got := conditions(s.get("httproute", "alone").Status.Parents[0].Conditions); !strings.HasPrefix(got[0], "Accepted=False (OriginNotAccepted)") {
		t.Errorf("origin that is not accepted: %v", got)
	}
}

func TestServiceAddresses(t *testing.T) {
	s := newSite(t, func(c *api.Config) { c.Addresses = pool(t, c.Objects.(*store.Store), "127.11.0.8/29") }) // .10 to .15
	service := func(name, spec string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80}]%s}\n", name, spec)
	}
	s.apply(service("a", "") + service("b", ", clusterIP: 127.11.0.11") + service("c", "") + service("none", ", clusterIP: None") + service("out", ", type: ExternalName, externalName: example.com"))
	got := map[string]string{}
	for _, n := range []string{"a", "b", "c", "none", "out"} {
		got[n] = s.get("svc", n).Spec.ClusterIP
	}
	want := map[string]string{"a": "127.11.0.10", "b": "127.11.0.11", "c": "127.11.0.12", "none": "None", "out": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	refuse := func(text, want string) {
		t.Helper()
		_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(text)}}, api.ApplyOptions{Namespace: "shop"})
		if e := refusal(t, err); e.Status != http.StatusUnprocessableEntity || !strings.Contains(e.Faults[0].String(), want) {
			t.Errorf("%v, want %q", e.Faults, want)
		}
	}
	refuse(service("d", ", clusterIP: 127.11.0.12"), "127.11.0.12 is the address of service shop/c")
	refuse(service("d", "")+service("e", "")+service("f", "")+service("g", ""), "no address is left in 127.11.0.8/29")
	if err := s.client.Delete(s.context(), kind(t, "svc"), "shop", "a", false); err != nil {
		t.Fatal(err)
	}
	s.apply(service("d", ""))
	if got := s.get("svc", "d").Spec.ClusterIP; got != "127.11.0.13" {
		t.Errorf("address after one was given back: %s, want the next, since the other is held back", got)
	}
	refuse(service("e", ", clusterIP: 127.11.0.10"), "127.11.0.10 is the address of service shop/a, which is gone: until 2026-03-02T18:00:00Z it is held back")
	refuse(service("e", ", clusterIP: 127.11.0.14")+service("f", ", clusterIP: 127.11.0.14"), "127.11.0.14 is the address of service shop/e")
	s.apply(service("a", ""))
	if got := s.get("svc", "a").Spec.ClusterIP; got != "127.11.0.10" {
		t.Errorf("address of a service that came back: %s, want the one it had", got)
	}
}

// TestAnImportedServiceKeepsItsAddressAsAnOwnOne walks a service that only other clusters had into this one.
func TestAnImportedServiceKeepsItsAddressAsAnOwnOne(t *testing.T) {
	var given *address.Pool
	s := newSite(t, func(c *api.Config) { given = c.Addresses })
	remote := mesh.ServiceName{Namespace: "shop", Name: "remote"}
	answers, err := given.Claim(s.context(), []address.Ask{{Service: remote}}, address.Options{})
	if err != nil || answers[0].Address.String() != "127.11.0.10" {
		t.Fatalf("the control plane's claim: %+v, %v", answers, err)
	}
	theirs := &mesh.RemoteService{ServiceName: remote, Ports: []mesh.ServicePort{{Port: 80, Protocol: mesh.ProtocolHTTP}}}
	us := &mesh.Cluster{Name: "us-east", TrustDomain: "us-east.isthmus.local"}
	s.extra = []*mesh.Fact{
		{Key: mesh.Key{Kind: mesh.KindCluster, Origin: self, Name: "us-east"}, Value: us, Digest: ir.DigestOf(us)},
		{Key: mesh.Key{Kind: mesh.KindRemoteService, Origin: "us-east", Namespace: "shop", Name: "remote"}, Value: theirs, Digest: ir.DigestOf(theirs)},
	}
	_, err = s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte("{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {clusterIP: 127.11.0.10, ports: [{port: 80}]}}")}}, api.ApplyOptions{Namespace: "shop"})
	if e := refusal(t, err); len(e.Faults) != 1 || e.Faults[0].Problem != "127.11.0.10 is the address of service shop/remote" {
		t.Errorf("another service that asks for it: %v", e.Faults)
	}
	_, err = s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte("{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceImport, metadata: {name: other}, spec: {type: ClusterSetIP, ips: [127.11.0.10], ports: [{port: 80}]}}")}}, api.ApplyOptions{Namespace: "shop"})
	if e := refusal(t, err); len(e.Faults) != 1 || e.Faults[0].Field != "spec.ips" {
		t.Errorf("another import that asks for it: %v", e.Faults)
	}
	if _, err = given.Claim(s.context(), []address.Ask{{Service: mesh.ServiceName{Namespace: "shop", Name: "unseen"}}}, address.Options{}); err != nil {
		t.Fatal(err)
	}

	// It is shown as the Service that proxies see, and is not this cluster's to delete.
	items, err := s.client.List(s.context(), kind(t, "services"), api.ListOptions{Namespace: "shop"})
	if err != nil || len(items) != 1 {
		t.Fatalf("services %s, %v: want the imported one", items, err)
	}
	want := `{"apiVersion":"v1","kind":"Service","metadata":{"name":"remote","namespace":"shop"},"spec":{"clusterIP":"127.11.0.10","ports":[{"appProtocol":"http","port":80,"protocol":"TCP"}]},` +
		`"status":{"origins":["us-east"],`
	if got := string(items[0]); !strings.HasPrefix(got, want) {
		t.Errorf("shown as %s\nwant %s…", got, want)
	}
	if got := s.get("svc", "remote"); got.Spec.ClusterIP != "127.11.0.10" {
		t.Errorf("get: %+v", got)
	}
	if e := refusal(t, s.client.Delete(s.context(), kind(t, "svc"), "shop", "remote", false)); e.Status != http.StatusConflict || e.Remedy != "add --cluster us-east" {
		t.Errorf("delete of theirs: %d %v", e.Status, e)
	}
	given.Note(remote, "no address is left in 127.11.0.0/24")
	if items, err = s.client.List(s.context(), kind(t, "services"), api.ListOptions{}); err != nil || !strings.Contains(string(items[0]), `{"type":"Addressed","status":"False","reason":"NotGiven","message":"no address is left in 127.11.0.0/24"}`) {
		t.Errorf("what it lacks is not said: %s, %v", items, err)
	}
	given.Note(remote, "")

	s.apply("{apiVersion: v1, kind: Service, metadata: {name: remote}, spec: {ports: [{port: 80}]}}")
	if got := s.get("svc", "remote").Spec.ClusterIP; got != "127.11.0.10" {
		t.Errorf("address as an own service: %s, want the one that it was imported at", got)
	}
	if items, err = s.client.List(s.context(), kind(t, "services"), api.ListOptions{}); err != nil || len(items) != 1 || !strings.Contains(string(items[0]), `"origins":["eu-west"]`) {
		t.Errorf("as an own service: %s, %v", items, err)
	}
}

// failing is a store that fails the n-th write.
type failing struct {
	*store.Store
	left int
}

func (f *failing) Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error) {
	if f.left--; f.left < 0 {
		return 0, &store.Error{Op: "put", Key: o.Key, Kind: store.ErrUnavailable}
	}
	return f.Store.Put(ctx, o, pre)
}

func TestFailureMidwaySaysWhatWasWritten(t *testing.T) {
	s := newSite(t, func(c *api.Config) { c.Objects = &failing{c.Objects.(*store.Store), 2} })
	_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(shop)}}, api.ApplyOptions{Namespace: "shop"})
	e := refusal(t, err)
	if e.Status != http.StatusServiceUnavailable || len(e.Results) != 2 ||
		!strings.Contains(e.Problem, "of 3 objects 2 were done, written: Service shop/catalog, Service shop/catalog-v2") || !strings.Contains(e.Problem, "HTTPRoute") {
		t.Errorf("%d %v, %v", e.Status, e, e.ApplyResult)
	}
}

// away is a store that is not there.
type away struct{ *store.Store }

func (away) List(context.Context, store.Scope) ([]store.Object, int64, error) {
	return nil, 0, &store.Error{Op: "list", Kind: store.ErrUnavailable, Cause: errors.New("dial store.sock: refused")}
}

func TestStoreThatIsAwayIsSaid(t *testing.T) {
	s := newSite(t, func(c *api.Config) { c.Objects = away{c.Objects.(*store.Store)} })
	_, err := s.client.List(s.context(), kind(t, "services"), api.ListOptions{})
	e := refusal(t, err)
	want := "list all services in cluster eu-west: store unavailable: dial store.sock: refused; see isthmus status; what the proxies run stays in force meanwhile"
	if e.Status != http.StatusServiceUnavailable || e.Error() != want {
		t.Errorf("%d %v\nwant %s", e.Status, e, want)
	}
	_, err = s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(shop)}}, api.ApplyOptions{})
	if e := refusal(t, err); e.Status != http.StatusServiceUnavailable {
		t.Errorf("apply: %d %v", e.Status, e)
	}
}

func TestDeliveryFactsDecideWhatIsProgrammed(t *testing.T) {
	s := newSite(t)
	s.apply(shop)
	d := &mesh.Delivery{Resource: "type.isthmus.dev/v1/Service/shop/catalog", Nacked: 2, Message: "bad"}
	s.extra = []*mesh.Fact{{Key: mesh.Key{Kind: mesh.KindDelivery, Origin: self, Name: "d"}, Value: d, Digest: ir.DigestOf(d)}}
	got := s.get("httproute", "split").Status.Parents[0].Conditions[2]
	if got.Status != "False" || got.Message != "2 proxies refuse type.isthmus.dev/v1/Service/shop/catalog: bad" {
		t.Errorf("programmed: %+v", got)
	}
}

func TestWatchTellsEverything(t *testing.T) {
	s := newSite(t)
	s.apply(shop)
	ctx, cancel := context.WithCancel(s.context())
	defer cancel()
	events := make(chan string, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- s.client.Watch(ctx, kind(t, "services"), api.ListOptions{Namespace: "shop", Labels: "team"}, func(e api.Event) error {
			name := ""
			if e.Object != nil {
				var o shown
				if err := json.Unmarshal(e.Object, &o); err != nil {
					return err
				}
				name = o.Metadata.Name
			}
			events <- strings.TrimSpace(e.Type + " " + name)
			return nil
		})
	}()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-events:
				if got != w {
					t.Errorf("event %q, want %q", got, w)
				}
			case err := <-ended:
				t.Fatalf("watch ended: %v", err)
			case <-time.After(waitMax):
				t.Fatalf("no event, want %q", w)
			}
		}
	}
	expect("ADDED catalog", "ADDED catalog-v2", "SYNCED")
	s.apply(strings.Replace(shop, "tier: web", "tier: back", 1))
	expect("MODIFIED catalog")
	s.apply(strings.Replace(shop, "team: b", "crew: b", 1)) // its label goes
	expect("MODIFIED catalog", "DELETED catalog-v2")
	if err := s.client.Delete(ctx, kind(t, "svc"), "shop", "catalog", false); err != nil {
		t.Fatal(err)
	}
	expect("DELETED catalog")
	s.server.Close()
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("watch ended with %v", err)
		}
	case <-time.After(waitMax):
		t.Error("the watch outlives the server")
	}
}

func TestLargestObjectFits(t *testing.T) {
	s := newSite(t)
	text := func(n int) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: big, annotations: {a: " + strings.Repeat("x", n) + "}}\n"
	}
	s.apply(text(255 << 10))
	_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte("apiVersion: isthmus.dev/v1alpha1\nkind: Rollout\nmetadata: {name: big}\nspec: {a: " + strings.Repeat("x", 1<<20-600) + "}\n")}}, api.ApplyOptions{})
	if e := refusal(t, err); !bytes.Contains([]byte(e.Faults[0].String()), []byte("1 MiB")) {
		t.Errorf("%v", e.Faults)
	}
}

func TestRouteOfAnotherKindIsSaidToConflict(t *testing.T) {
	s := newSite(t)
	s.apply(`apiVersion: v1
kind: Service
metadata: {name: calls}
spec: {ports: [{name: grpc, port: 80}, {name: tcp-db, port: 3306}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: first}
spec: {parentRefs: [{group: "", kind: Service, name: calls}], rules: [{backendRefs: [{name: calls, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: second}
spec: {parentRefs: [{group: "", kind: Service, name: calls, port: 80}], rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: nowhere, port: 80}}}], backendRefs: [{name: calls, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: third}
spec: {parentRefs: [{group: "", kind: Service, name: calls, port: 3306}], rules: [{backendRefs: [{name: calls, port: 3306}]}]}
`)
	for _, c := range []struct{ kind, name, accepted, resolved string }{
		{"grpcroutes", "first", "Accepted=True (Accepted) 1", "ResolvedRefs=True (ResolvedRefs) 1"},
		{"httproutes", "second", "Accepted=False (Conflicted) 1", "ResolvedRefs=False (BackendNotFound) 1"},
		{"tcproutes", "third", "Accepted=True (Accepted) 1", "ResolvedRefs=True (ResolvedRefs) 1"},
	} {
		got := conditions(s.get(c.kind, c.name).Status.Parents[0].Conditions)
		if got[0] != c.accepted || got[1] != c.resolved {
			t.Errorf("%s %s: %v, want %s, %s", c.kind, c.name, got, c.accepted, c.resolved)
		}
	}
	if message := s.get("httproutes", "second").Status.Parents[0].Conditions[1].Message; !strings.HasPrefix(message, "spec.rules[0].filters[0].requestMirror.backendRef: service shop/nowhere") {
		t.Errorf("message %q", message)
	}
}

// TestBackendTLSPoliciesSayWhatTheyVerify walks the conditions of Gateway API: which authority is missing, that none is left,
// and which of two policies is in force.
func TestBackendTLSPoliciesSayWhatTheyVerify(t *testing.T) {
	s := newSite(t)
	policy := func(name, section, refs string) string {
		return `---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: ` + name + `}
spec: {targetRefs: [{group: "", kind: Service, name: bank` + section + `}], validation: {hostname: bank.example.com, ` + refs + `}}
`
	}
	ref := func(kind, name string) string { return `{group: "", kind: ` + kind + `, name: ` + name + `}` }
	applied := s.apply(`apiVersion: v1
kind: Service
metadata: {name: bank}
spec: {ports: [{name: http, port: 80}, {name: grpc, port: 81}]}
` + policy("a", "", "caCertificateRefs: ["+ref("ConfigMap", "there")+", "+ref("ConfigMap", "nowhere")+"]") +
		policy("b", "", "wellKnownCACertificates: System") +
		policy("grpc", ", sectionName: grpc", "caCertificateRefs: ["+ref("ConfigMap", "nowhere")+"]") +
		policy("odd", ", sectionName: odd", "caCertificateRefs: ["+ref("Secret", "there")+"]"))
	var fields []string
	for _, w := range applied.Warnings {
		fields = append(fields, w.Name+" "+w.Field)
	}
	ca := "spec.validation.caCertificateRefs"
	if diff := cmp.Diff([]string{"a " + ca + "[0]", "a " + ca + "[1]", "grpc " + ca + "[0]", "odd spec.targetRefs[0]", "odd " + ca + "[0]"}, fields); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	s.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: there}\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(aCertificate(t)), "\n", "\n    ") + "\n")
	for name, want := range map[string][2]string{
		"a":    {"Accepted=True (Accepted) 1", "ResolvedRefs=False (InvalidCACertificateRef) 1"},
		"b":    {"Accepted=False (Conflicted) 1", "ResolvedRefs=True (ResolvedRefs) 1"},
		"grpc": {"Accepted=False (NoValidCACertificate) 1", "ResolvedRefs=False (InvalidCACertificateRef) 1"},
		"odd":  {"Accepted=False (NoValidCACertificate) 1", "ResolvedRefs=False (TargetNotFound) 1"},
	} {
		got := conditions(s.get("backendtlspolicy", name).Status.Ancestors[0].Conditions)
		if got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// aCertificate is one in PEM.
func aCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

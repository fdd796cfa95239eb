package agent_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAdmissionIsAsThePolicySays: with a policy the server proxy has a gate that knows the workload's lanes and counts by the
// criticality that the caller says, which the application gets; without one, before and after, it has none.
func TestAdmissionIsAsThePolicySays(t *testing.T) {
	w := newWorld(t)
	at := told(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, at)
	w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Lanes: 4, Inbound: []ir.Inbound{{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: at}}}}})
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	say := func(a mesh.Admission) {
		w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}},
			Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Admission: a}})
	}
	say(mesh.Admission{})
	client := w.client()
	for _, m := range []*member{server, client} {
		m.waitReady(t)
	}
	c := via(t, client)
	one := func() string {
		t.Helper()
		r, err := http.NewRequest("GET", "http://catalog.shop/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Isthmus-Criticality", "sheddable-plus")
		r.Header.Set("Isthmus-Brownout", "critical")
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !strings.Contains(string(body), " isthmus-criticality=sheddable-plus id=") {
			t.Fatalf("the application was told %q: %v", body, err)
		}
		if answer.StatusCode != 200 {
			t.Fatalf("%d %s", answer.StatusCode, answer.Header.Get("isthmus-reason"))
		}
		return metricsOf(t, server)
	}
	const labels = `{destination_service="catalog",destination_namespace="shop"`
	if text := one(); strings.Contains(text, "isthmus_admission_") {
		t.Errorf("a gate without a policy: %s", text)
	}
	say(mesh.Admission{Mode: mesh.AdmissionAdaptive})
	eventually(t, "the gate knows lanes, and what a request takes", func() bool {
		text := one()
		return strings.Contains(text, "isthmus_admission_limit"+labels) && !strings.Contains(text, "isthmus_admission_limit"+labels+"} 0\n") &&
			!strings.Contains(text, `isthmus_admission_requests_total`+labels+`,criticality="sheddable-plus",verdict="admitted"} 0`+"\n") &&
			strings.Contains(text, `isthmus_admission_requests_total`+labels+`,criticality="critical",verdict="admitted"} 0`+"\n") &&
			strings.Contains(text, "isthmus_admission_in_flight"+labels+"} 0\n")
	})
	if d := server.Dump().Admission; len(d) != 1 || d[0].Destination != "shop/catalog" || d[0].Limit == 0 || d[0].Verdicts[mesh.SheddablePlus]["admitted"] == 0 {
		t.Errorf("/config says of admission: %+v", d)
	}
	if _, _, body := ask(t, c, "http://catalog.shop/"); strings.Contains(body, "isthmus-criticality") {
		t.Errorf("a criticality that nobody said: %q", body)
	}
	say(mesh.Admission{})
	eventually(t, "there is no gate any more", func() bool { return !strings.Contains(one(), "isthmus_admission_") })
}

package cli_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/replica"
)

// buckets are digests of which some differ from those of nothing.
func buckets(differ ...int) string {
	b := make([]byte, replica.Buckets*16)
	for _, i := range differ {
		b[i*16] = 1
	}
	return base64.StdEncoding.EncodeToString(b)
}

// driftedMesh is two clusters; what eu-west tells and us-east holds of it is as given.
func driftedMesh(tells, holds string) told {
	d := told{"/v1/local": twoClusters}
	for _, c := range []string{"eu-west", "us-east"} {
		d["/v1/clusters/"+c+"/v1/status"] = says(c, "v0.3.0", "v0.3.0")
	}
	d["/v1/clusters/eu-west/v1/digests"] = `{"cluster":"eu-west","proxies":1,"acknowledged":1,"tells":{"us-east":` + tells + `},"holds":{"us-east":{"digest":"bb","objects":1}}}`
	d["/v1/clusters/us-east/v1/digests"] = `{"cluster":"us-east","proxies":2,"acknowledged":1,"lags":[{"proxy":"shop/cart-0","type":"Service","name":"shop/catalog","reason":"refused: no such cipher"}],` +
		`"tells":{"eu-west":{"digest":"bb","objects":1}},"holds":{"eu-west":` + holds + `}}`
	return d
}

// TestStatusListsDrift: digests are asked for first, objects only of the buckets that differ, and each difference has its reason and remedy.
func TestStatusListsDrift(t *testing.T) {
	d := driftedMesh(`{"digest":"aa2","objects":2,"position":"e:10"}`, `{"digest":"aa1","objects":1,"position":"e:9","stale":true,"ageSeconds":42,"problem":"no route"}`)
	d["/v1/clusters/eu-west/v1/digests/tells/us-east?buckets="] = `{"buckets":"` + buckets(3, 7) + `"}`
	d["/v1/clusters/us-east/v1/digests/holds/eu-west?buckets="] = `{"buckets":"` + buckets(3) + `"}`
	d["/v1/clusters/eu-west/v1/digests/tells/us-east?buckets=7"] = `{"objects":[{"kind":"AccessPolicy","namespace":"shop","name":"new","version":"v2"}]}`
	d["/v1/clusters/us-east/v1/digests/holds/eu-west?buckets=7"] = `{"objects":[{"kind":"RemoteService","namespace":"shop","name":"gone","version":"v1"}]}`
	out, errs, code := d.ask("v0.3.0", "status", "--drift")
	if code != 1 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
	for _, want := range []string{
		"of 2 pairs of clusters 1 equal, 1 differ, 0 not known; 2 of 3 proxies have acknowledged it",
		"eu-west   us-east   differs   aa2 (2)    aa1 (1)   42s ago\n",
		"eu-west at us-east: us-east does not follow eu-west: no route; it holds what eu-west stated 42 s ago; mend the link",
		"AccessPolicy shop/new     v2         absent", "RemoteService shop/gone   absent     v1",
		"Service shop/catalog      -          -        shop/cart-0   refused: no such cipher",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, _, _ := d.ask("v0.3.0", "status"); !strings.Contains(out, "1 differ, 0 not known; 2 of 3 proxies have acknowledged it; see isthmus status --drift\n") {
		t.Errorf("status has no line of it:\n%s", out)
	}
	if out, _, code := d.ask("v0.3.0", "status", "--drift", "-o", "json"); code != 1 || !strings.Contains(out, `"differences": [`) || !strings.Contains(out, `"state": "differs"`) {
		t.Errorf("exit %d:\n%s", code, out)
	}
}

// TestStatusListsWhatIsNotInForce: what is stored and refused there differs too, though its digests are equal.
func TestStatusListsWhatIsNotInForce(t *testing.T) {
	d := driftedMesh(`{"digest":"aa","objects":2}`, `{"digest":"aa","objects":2,"notInForce":1}`)
	d["/v1/clusters/eu-west/v1/digests/tells/us-east?buckets="] = `{"buckets":"` + buckets(3) + `"}`
	d["/v1/clusters/us-east/v1/digests/holds/eu-west?buckets="] = `{"buckets":"` + buckets(3) + `","objects":[{"kind":"TrafficPolicy","namespace":"shop","name":"p","version":"v1","notInForce":"spec.magic: unknown field"}]}`
	out, _, code := d.ask("v0.3.0", "status", "--drift")
	if code != 1 || !strings.Contains(out, "TrafficPolicy shop/p   v1         v1       -             spec.magic: unknown field") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}

// TestStatusSaysWhatIsNotKnown: of a cluster that is away nothing is guessed, what others hold of it has an age, and an older control plane is
// no failure.
func TestStatusSaysWhatIsNotKnown(t *testing.T) {
	d := driftedMesh(`{"digest":"aa","objects":2}`, `{"digest":"aa","objects":2,"stale":true,"ageSeconds":42}`)
	delete(d, "/v1/clusters/eu-west/v1/status")
	out, _, code := d.ask("v0.3.0", "status", "--drift")
	if code != 1 || !strings.Contains(out, "mesh digest not known: of 2 pairs of clusters 0 equal, 0 differ, 2 not known") ||
		!strings.Contains(out, "eu-west at us-east: eu-west does not say what it intends (its control plane does not answer); us-east holds what eu-west stated 42 s ago") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	d = driftedMesh(`{"digest":"aa","objects":2}`, `{"digest":"aa","objects":2}`)
	d["/v1/clusters/us-east/v1/digests"] = "" // refused below
	out, _, code = d.ask("v0.3.0", "status")
	if code != 0 || !strings.Contains(out, "2 not known") {
		t.Errorf("exit %d beside a control plane without digests:\n%s", code, out)
	}
}

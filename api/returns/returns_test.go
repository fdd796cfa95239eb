package returns

import (
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// ways are what a control plane says.
type ways []*mesh.Split

func (w ways) Returning() []*mesh.Split { return w }

var noon = time.Date(2026, 7, 1, 12, 0, 0, 250e6, time.UTC)

// two clusters are on their way back for catalog, one for cart.
func two() ways {
	return ways{
		{Service: mesh.ServiceName{Namespace: "shop", Name: "cart"}, Returning: []mesh.Return{{Cluster: "us-east", Parts: 5000, SinceMillis: noon.UnixMilli(), Hold: 4 * time.Second}}},
		{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Returning: []mesh.Return{
			{Cluster: "ap-south", Parts: 100, Ended: 43, SinceMillis: noon.UnixMilli(), Hold: time.Second},
			{Cluster: "us-east", Parts: 2500, Ended: 200, Failed: 7, SinceMillis: noon.UnixMilli(), Hold: 10 * time.Minute}}},
	}
}

// get asks the only path.
func get(t *testing.T, s Source) string {
	t.Helper()
	all := Handlers(s)
	h := all["GET /v1/returns"]
	if len(all) != 1 || h == nil {
		t.Fatalf("%d paths, want /v1/returns alone", len(all))
	}
	w := httptest.NewRecorder()
	if err := h(w, httptest.NewRequest("GET", "/v1/returns", nil)); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %v, %v", w.Code, w.Header(), err)
	}
	return w.Body.String()
}

// TestWaysBackAreListed as JSON, whole: each cluster of each service, in the order in which the source has them.
func TestWaysBackAreListed(t *testing.T) {
	var got struct{ Returns []Return }
	if err := json.Unmarshal([]byte(get(t, two())), &got); err != nil {
		t.Fatal(err)
	}
	want := []Return{
		{"cart.shop", "us-east", 0.5, 0, 0, noon, 4},
		{"catalog.shop", "ap-south", 0.01, 43, 0, noon, 1},
		{"catalog.shop", "us-east", 0.25, 200, 7, noon, 600},
	}
	if !reflect.DeepEqual(got.Returns, want) {
		t.Errorf("%+v, want %+v", got.Returns, want)
	}
	if text := get(t, two()); !strings.Contains(text, `{"service":"cart.shop","cluster":"us-east","part":0.5,"requests":0,"failed":0,"since":"2026-07-01T12:00:00.25Z","holdSeconds":4}`) {
		t.Errorf("fields have other names: %s", text)
	}
}

// TestNobodyIsOnItsWayBack: an empty list and not null, no line, no series.
func TestNobodyIsOnItsWayBack(t *testing.T) {
	for _, none := range []ways{nil, {{Service: mesh.ServiceName{Namespace: "shop", Name: "cart"}, Shares: []mesh.Share{{Cluster: "eu", Parts: mesh.AllParts}}}}} {
		if got := get(t, none); got != "{\"returns\":[]}\n" {
			t.Errorf("%q", got)
		}
		if got := Metrics("eu-west", none); got != "" {
			t.Errorf("metrics %q", got)
		}
	}
	if Of(nil) != nil {
		t.Error("of no split there is something")
	}
	var b strings.Builder
	if Lines(&b, map[string][]Return{"eu-west": nil}); b.Len() != 0 {
		t.Errorf("lines %q", b.String())
	}
}

// TestMetricsOfWaysBack: four families, each said once and with a sample of each way, labelled by who looks, for what, and where to.
func TestMetricsOfWaysBack(t *testing.T) {
	got := Metrics("eu-west", two())
	for name, values := range map[string][3]string{"isthmus_failback_part_ratio": {"0.5", "0.01", "0.25"}, "isthmus_failback_requests": {"0", "43", "200"},
		"isthmus_failback_failed_requests": {"0", "0", "7"}, "isthmus_failback_hold_seconds": {"4", "1", "600"}} {
		want := "# TYPE " + name + " gauge\n" + name + `{cluster="eu-west",service="cart.shop",peer="us-east"} ` + values[0] + "\n" +
			name + `{cluster="eu-west",service="catalog.shop",peer="ap-south"} ` + values[1] + "\n" + name + `{cluster="eu-west",service="catalog.shop",peer="us-east"} ` + values[2] + "\n"
		if strings.Count(got, want) != 1 || strings.Count(got, "# HELP "+name+" ") != 1 {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	if n := strings.Count(got, "\n"); n != 4*5 {
		t.Errorf("%d lines, want 20", n)
	}
}

// TestLinesOfWaysBack: in one order, whoever answered first, after an empty line.
func TestLinesOfWaysBack(t *testing.T) {
	by := map[string][]Return{"us-east": {{"cart.shop", "ap-south", 0.05, 12, 1, noon, 1}}, "eu-west": List(two())[1:]}
	want := `
eu-west: ap-south is on its way back for catalog.shop: 1% of its part, 0 of 43 requests failed since
eu-west: us-east is on its way back for catalog.shop: 25% of its part, 7 of 200 requests failed since
us-east: ap-south is on its way back for cart.shop: 5% of its part, 1 of 12 requests failed since
`
	for range 20 {
		var b strings.Builder
		if Lines(&b, by); b.String() != want {
			t.Fatalf("got %q, want %q", b.String(), want)
		}
	}
}

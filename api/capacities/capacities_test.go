package capacities

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

type source []*mesh.Split

func (s source) Capacities() []*mesh.Split { return s }

// TestACapacityHasItsSource everywhere it is said.
func TestACapacityHasItsSource(t *testing.T) {
	s := source{{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Capacities: []mesh.Capacity{
		{Cluster: "eu", Rate: 400, Lanes: 8, Source: mesh.CapacityDeclared}, {Cluster: "us", Rate: 120, Lanes: 2.4, Source: mesh.CapacityLearnt},
		{Cluster: "ap", Rate: 60, Lanes: 1.2, Source: mesh.CapacityReported}, {Cluster: "sa", Rate: 60, Lanes: 1.2, Source: mesh.CapacityAssumed},
		{Cluster: "xx", Rate: 60, Lanes: 1.2, Source: 99}}}}
	var b strings.Builder
	Narrate(&b, List(s))
	for _, want := range []string{"eu bears 400 requests a second (8 lanes): its owner declares", "us bears 120 requests a second (2.4 lanes): was learnt",
		"ap bears 60 requests a second (1.2 lanes): its applications report", "sa bears 60 requests a second (1.2 lanes): is taken for as good", "xx bears 60 requests a second (1.2 lanes): is unknown"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
	w := httptest.NewRecorder()
	if err := Handlers(s)["GET /v1/capacities"](w, nil); err != nil || !strings.Contains(w.Body.String(), `"service":"catalog.shop","cluster":"us","requestsPerSecond":120,"lanes":2.4,"source":"learnt"`) {
		t.Errorf("%v: %s", err, w.Body)
	}
	if got, want := Metrics("us", s), `isthmus_capacity_requests_per_second{cluster="us",service="catalog.shop",source="learnt"} 120`; !strings.Contains(got, want) || strings.Contains(got, "400") {
		t.Errorf("%q is not all of\n%s", want, got)
	}
	if Metrics("mars", s) != "" || Of(nil) != nil {
		t.Error("something is said of nothing")
	}
}

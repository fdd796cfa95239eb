// Package capacities says what clusters are thought to bear of each service, and who says so: the path /v1/capacities of the API, what
// explain says of it, and the metric beside. Its one idea is that a number without its source is not to be trusted: what an owner
// declares, an application reports, its proxy learnt, and what is taken for granted until somebody knows look alike.
//
// It decides nothing (control/load does) and lets nobody in (package api does). Read Capacity.
package capacities

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Capacity is what a cluster is thought to bear of a service, as another one sees it.
type Capacity struct {
	Service string           `json:"service"` // NAME.NAMESPACE
	Cluster mesh.ClusterName `json:"cluster"`
	// Requests a second, and how many are served at once then.
	Requests float64 `json:"requestsPerSecond"`
	Lanes    float64 `json:"lanes"`
	// Source is declared, reported, learnt or assumed.
	Source string `json:"source"`
}

// Of are those of a split, which may be nil.
func Of(s *mesh.Split) (out []Capacity) {
	if s == nil {
		return nil
	}
	for _, c := range s.Capacities {
		out = append(out, Capacity{s.Service.Name + "." + s.Service.Namespace, c.Cluster, c.Rate, c.Lanes, c.Source.String()})
	}
	return out
}

// String is what it bears, in words.
func (c Capacity) String() string {
	why := map[string]string{mesh.CapacityDeclared.String(): "its owner declares", mesh.CapacityReported.String(): "its applications report",
		mesh.CapacityLearnt.String(): "was learnt when it was asked for more", mesh.CapacityAssumed.String(): "is taken for as good as others, endpoint for endpoint"}[c.Source]
	if why == "" {
		why = "is " + c.Source
	}
	return fmt.Sprintf("%s bears %.3g requests a second (%.3g lanes): %s", c.Cluster, c.Requests, c.Lanes, why)
}

// Narrate says it of each, a line each.
func Narrate(b *strings.Builder, all []Capacity) {
	for _, c := range all {
		fmt.Fprintf(b, "          %s\n", c)
	}
}

// Source knows; *load.Driver is one.
type Source interface {
	Capacities() []*mesh.Split
}

// List is what a source knows.
func List(s Source) []Capacity {
	out := []Capacity{}
	for _, split := range s.Capacities() {
		out = append(out, Of(split)...)
	}
	return out
}

// Handlers are the paths, for api.Config.More.
func Handlers(s Source) map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/capacities": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"capacities": List(s)}) // a caller who left is no error
			return nil
		},
	}
}

// Metrics are what /metrics says of what the cluster itself bears.
func Metrics(cluster mesh.ClusterName, s Source) string {
	var b strings.Builder
	for _, c := range List(s) {
		if c.Cluster != cluster {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("# HELP isthmus_capacity_requests_per_second What the cluster is thought to bear of a service, by who says so (docs/guides/capacity.md).\n" +
				"# TYPE isthmus_capacity_requests_per_second gauge\n")
		}
		fmt.Fprintf(&b, "isthmus_capacity_requests_per_second{cluster=%q,service=%q,source=%q} %g\n", string(cluster), c.Service, c.Source, c.Requests)
	}
	return b.String()
}

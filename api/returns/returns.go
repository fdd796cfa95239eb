// Package returns says which clusters are on their way back, for which service and how far: the path /v1/returns of the API, what
// explain and status say of it, and the metrics beside. Its one idea is that all of these read one list.
//
// It decides nothing (core/failback does) and lets nobody in (package api does). Read Return.
package returns

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Return is a cluster's way back for one service, as the callers of the cluster that is asked see it.
type Return struct {
	Service string           `json:"service"` // NAME.NAMESPACE
	Cluster mesh.ClusterName `json:"cluster"`
	// Part of its requests that it is let have, 0 to 1.
	Part float64 `json:"part"`
	// Requests of this step, and how many of them failed.
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"`
	// Since is when this step began, and HoldSeconds how long it takes at least.
	Since       time.Time `json:"since"`
	HoldSeconds float64   `json:"holdSeconds"`
}

// Of are those of a split, which may be nil.
func Of(s *mesh.Split) (out []Return) {
	if s == nil {
		return nil
	}
	for _, r := range s.Returning {
		out = append(out, Return{s.Service.Name + "." + s.Service.Namespace, r.Cluster, float64(r.Parts) / mesh.AllParts, r.Ended, r.Failed,
			time.UnixMilli(r.SinceMillis).UTC(), r.Hold.Seconds()})
	}
	return out
}

// String is where it stands, in words.
func (r Return) String() string {
	return fmt.Sprintf("%s is on its way back for %s: %.0f%% of its part, %d of %d requests failed since", r.Cluster, r.Service, 100*r.Part, r.Failed, r.Requests)
}

// Narrate says it of each, a line each.
func Narrate(b *strings.Builder, all []Return) {
	for _, r := range all {
		fmt.Fprintf(b, "          %s\n", r)
	}
}

// Source knows; *load.Driver is one.
type Source interface {
	Returning() []*mesh.Split
}

// List is what a source knows.
func List(s Source) []Return {
	out := []Return{}
	for _, split := range s.Returning() {
		out = append(out, Of(split)...)
	}
	return out
}

// Handlers are the paths, for api.Config.More.
func Handlers(s Source) map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/returns": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"returns": List(s)}) // a caller who left is no error
			return nil
		},
	}
}

// Metrics are what /metrics says of clusters on their way back; there are series only while there is one.
func Metrics(cluster mesh.ClusterName, s Source) string {
	all := List(s)
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	each := func(name, help string, value func(Return) float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		for _, r := range all {
			fmt.Fprintf(&b, "%s{cluster=%q,service=%q,peer=%q} %g\n", name, string(cluster), r.Service, string(r.Cluster), value(r))
		}
	}
	each("isthmus_failback_part_ratio", "Part of its requests that a cluster is let have which was lost and comes back.", func(r Return) float64 { return r.Part })
	each("isthmus_failback_requests", "Requests that judge the step of a cluster that comes back.", func(r Return) float64 { return float64(r.Requests) })
	each("isthmus_failback_failed_requests", "Those of them that failed.", func(r Return) float64 { return float64(r.Failed) })
	each("isthmus_failback_hold_seconds", "How long a step of a cluster that comes back takes at least; it doubles with each failure, up to ten minutes.", func(r Return) float64 { return r.HoldSeconds })
	return b.String()
}

// Lines say what is on its way back, of all clusters, each with whose callers see it.
func Lines(w io.Writer, by map[string][]Return) {
	var lines []string
	for cluster, all := range by {
		for _, r := range all {
			lines = append(lines, cluster+": "+r.String())
		}
	}
	if slices.Sort(lines); len(lines) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(lines, "\n"))
	}
}

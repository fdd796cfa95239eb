// Package events is the door to what a control plane did by itself and why: the path /v1/events of the API. Its one idea is that
// a cluster says what it wrote down itself; who wants all clusters asks all and puts the answers together (event.Merge).
//
// It decides nothing (control/events writes down) and lets nobody in (package api does). Read Handlers.
package events

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/control/events"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Answer is what a control plane remembers of what was asked for.
type Answer = events.Answer

// Recorder remembers; *events.Recorder is one.
type Recorder interface {
	List(event.Filter) Answer
}

// Handlers are the paths, for api.Config.More.
func Handlers(r Recorder, now func() time.Time) map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/events": func(w http.ResponseWriter, q *http.Request) error {
			f, faults := Parse(q.URL.Query(), now())
			if len(faults) > 0 {
				return &api.Error{Status: http.StatusBadRequest, Op: "list", Object: "events", Problem: strings.Join(faults, "; "), Remedy: "see isthmus events -h"}
			}
			w.Header().Set("Content-Type", "application/json")
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(r.List(f)) // a caller who left is no error
			return nil
		},
	}
}

// Parse reads what is asked for and reports every fault: service and cluster are names, kind is one of event.Kinds and may be
// repeated or several with commas, since is a time (RFC 3339) or how long ago (10m), after is the number of an event.
func Parse(q url.Values, now time.Time) (f event.Filter, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for name, values := range q {
		if !slices.Contains([]string{"service", "cluster", "kind", "since", "after"}, name) {
			fault("parameter %q is not known: write service, cluster, kind, since or after", name)
		} else if name != "kind" && len(values) > 1 {
			fault("parameter %s is given %d times: give it once", name, len(values))
		}
	}
	f.Service, f.Cluster = q.Get("service"), mesh.ClusterName(q.Get("cluster"))
	for _, k := range strings.Split(strings.Join(q["kind"], ","), ",") {
		switch {
		case k == "":
		case !slices.Contains(event.Kinds(), event.Kind(k)):
			fault("kind %q is not known: write one of %s", k, KindNames())
		default:
			f.Kinds = append(f.Kinds, event.Kind(k))
		}
	}
	if s := q.Get("since"); s != "" {
		var err error
		if f.Since, err = since(s, now); err != nil {
			fault("since: %v", err)
		}
	}
	if s := q.Get("after"); s != "" {
		var err error
		if f.After, err = strconv.ParseUint(s, 10, 64); err != nil {
			fault("after %q is not the number of an event", s)
		}
	}
	slices.Sort(faults)
	return f, faults
}

// since is a time, or one so long ago.
func since(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-07-01T12:00:00Z nor one such as 10m ago", s)
}

// KindNames are the kinds, for people.
func KindNames() string {
	var names []string
	for _, k := range event.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// Query is what Parse reads.
func Query(f event.Filter, since string) url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("service", f.Service)
	set("cluster", string(f.Cluster))
	set("since", since)
	for _, k := range f.Kinds {
		q.Add("kind", string(k))
	}
	if f.After > 0 {
		set("after", strconv.FormatUint(f.After, 10))
	}
	return q
}

package events

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/core/event"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// TestQueriesAreReadAsTheyAreWritten.
func TestQueriesAreReadAsTheyAreWritten(t *testing.T) {
	f := event.Filter{Service: "catalog.shop", Cluster: "us-east", Kinds: []event.Kind{event.Path, event.Split}, After: 7}
	got, faults := Parse(Query(f, "10m"), noon)
	if f.Since = noon.Add(-10 * time.Minute); len(faults) > 0 || !cmp.Equal(got, f) {
		t.Errorf("%v, %s", faults, cmp.Diff(f, got))
	}
	if got, faults := Parse(Query(event.Filter{}, ""), noon); len(faults) > 0 || !cmp.Equal(got, event.Filter{}) {
		t.Errorf("of nothing: %+v, %v", got, faults)
	}
	if got, faults := Parse(url.Values{"kind": {"path,drain", "link"}, "since": {"2026-07-01T10:00:00+02:00"}}, noon); len(faults) > 0 || len(got.Kinds) != 3 || !got.Since.Equal(noon.Add(-4*time.Hour)) {
		t.Errorf("%+v, %v", got, faults)
	}
}

// TestEveryFaultOfAQueryIsTold at once.
func TestEveryFaultOfAQueryIsTold(t *testing.T) {
	h := Handlers(nil, func() time.Time { return noon })["GET /v1/events"]
	w := httptest.NewRecorder()
	err := h(w, httptest.NewRequest("GET", "/v1/events?kind=path,walk&since=-5m&after=x&limit=3&service=a&service=b", nil))
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Status != 400 || w.Body.Len() > 0 {
		t.Fatal(err)
	}
	for _, want := range []string{`kind "walk" is not known: write one of process, path,`, `"-5m" is neither a time`, `after "x"`, `parameter "limit"`, "service is given 2 times"} {
		if !strings.Contains(refused.Problem, want) {
			t.Errorf("%q does not say %q", refused.Problem, want)
		}
	}
}

type memory struct{ asked event.Filter }

func (m *memory) List(f event.Filter) Answer {
	m.asked = f
	return Answer{Cluster: "eu", Started: noon, Last: 9, Oldest: 2, Events: []event.Event{{Seq: 9, Time: noon, Cluster: "eu", Kind: event.Path, Subject: "us", Reason: "path_lost", Cause: "a > b", Effect: "c"}}}
}

// TestEventsAreJSON by the names that are documented.
func TestEventsAreJSON(t *testing.T) {
	m := &memory{}
	w := httptest.NewRecorder()
	if err := Handlers(m, func() time.Time { return noon })["GET /v1/events"](w, httptest.NewRequest("GET", "/v1/events?after=4", nil)); err != nil || m.asked.After != 4 {
		t.Fatal(err, m.asked)
	}
	var got, want any
	_ = json.Unmarshal(w.Body.Bytes(), &got)
	_ = json.Unmarshal([]byte(`{"cluster":"eu","started":"2026-07-01T12:00:00Z","last":9,"oldest":2,"events":[
		{"seq":9,"time":"2026-07-01T12:00:00Z","cluster":"eu","kind":"path","subject":"us","reason":"path_lost","cause":"a > b","effect":"c"}]}`), &want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

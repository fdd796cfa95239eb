package events

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/event"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func one(cluster string, seq uint64, second int) event.Event {
	return event.Event{Seq: seq, Cluster: "eu", Time: noon.Add(time.Duration(second) * time.Second), Kind: event.Path, Subject: cluster, Reason: "path_lost", Cause: "silence", Effect: "detour"}
}

// TestFollowing shows each event once, in order; and says what is lost by a restart, by haste, or while one does not answer.
func TestFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(context.Background())
		said := func(started time.Time, oldest, last uint64, events ...event.Event) []Said {
			return []Said{{Cluster: "eu", Answer: Answer{Started: started, Oldest: oldest, Last: last, Events: events}}}
		}
		later := noon.Add(time.Hour)
		script := [][]Said{
			said(noon, 1, 2, one("us", 1, 1), one("ap", 2, 2)),
			said(noon, 1, 3, one("us", 3, 3)),
			{{Cluster: "eu", Err: errors.New("refused")}},
			{{Cluster: "eu", Err: errors.New("refused")}},
			said(noon, 9, 10, one("us", 9, 9), one("us", 10, 10)),
			said(later, 1, 5),
			said(later, 1, 5, one("x", 1, 20)),
		}
		var asked []string
		var out, errs bytes.Buffer
		terms := &Terms{Out: &out, Err: &errs, Plain: true, Follow: true, Ask: func(_ context.Context, query func(string) url.Values) []Said {
			asked = append(asked, query("eu").Encode())
			now := script[0]
			if script = script[1:]; len(script) == 0 {
				stop()
				return nil
			}
			return now
		}}
		if err := Run(ctx, terms, event.Filter{Service: "catalog"}, "10m"); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(asked, " "), "service=catalog&since=10m after=2&service=catalog after=3&service=catalog after=3&service=catalog after=3&service=catalog after=10&service=catalog service=catalog"; got != want {
			t.Errorf("asked %q, want %q", got, want)
		}
		var shown []string
		for _, l := range strings.Split(out.String(), "\n") {
			if !strings.HasPrefix(l, " ") && l != "" {
				shown = append(shown, strings.Fields(l)[3])
			}
		}
		if got := strings.Join(shown, " "); got != "#1 #2 #3 #9 #10" {
			t.Errorf("shown %s", got)
		}
		for want, n := range map[string]int{"eu: refused": 1, "eu: it answers again": 1, "5 events were too fast": 1, "is another process": 1} {
			if strings.Count(errs.String(), want) != n {
				t.Errorf("%q is not said %d times:\n%s", want, n, errs.String())
			}
		}
	})
}

func TestTextSaysAll(t *testing.T) {
	e := one("us", 7, 3)
	e.Because, e.Unwritten = 5, 2
	want := "2026-07-01 12:00:03.000Z  eu #7  path us: path_lost\n    because  silence\n    so       detour\n    follows  #5 of eu\n    before   2 like it came too fast to be written down\n"
	if got := Text(&e); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

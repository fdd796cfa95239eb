package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
)

// watch streams this cluster's objects of a kind as they change, a JSON object a line:
// those that are there, EventSynced, then changes. It ends when the caller leaves or the server
// closes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, q question) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	t := &watcher{server: s, question: q, out: http.NewResponseController(w), to: w, shown: map[store.Key]json.RawMessage{}}
	err := s.cfg.Objects.Watch(ctx, store.Position{}, t.deliver)
	if !t.begun && ctx.Err() == nil {
		return err
	}
	return nil // the head is out, or nobody is there
}

// watcher is one watch.
type watcher struct {
	server   *Server
	question question
	out      *http.ResponseController
	to       http.ResponseWriter
	begun    bool
	// shown is what the caller knows, as last sent.
	shown map[store.Key]json.RawMessage
}

func (t *watcher) deliver(_ context.Context, e store.Events) error {
	if !t.begun {
		t.to.Header().Set("Content-Type", "application/json")
		t.begun = true
	}
	if err := t.out.SetWriteDeadline(time.Now().Add(writeGrace)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	enc := json.NewEncoder(t.to)
	enc.SetEscapeHTML(false)
	gone := map[store.Key]bool{}
	if e.Resync {
		for k := range t.shown {
			gone[k] = true
		}
	}
	for _, o := range e.Puts {
		if !t.wants(o.Key) {
			continue
		}
		delete(gone, o.Key)
		it, err := t.server.decode(o)
		if err != nil {
			t.server.cfg.Log.Warn("stored object is not understood", "object", o.Key.String(), "err", err)
			continue
		}
		if !t.question.labels.Matches(it.object.Labels) {
			gone[o.Key] = true
			continue
		}
		if err := t.show(enc, o.Key, it); err != nil {
			return err
		}
	}
	for _, d := range e.Deletes {
		gone[d.Key] = true
	}
	for k := range gone {
		last, known := t.shown[k]
		if !known {
			continue
		}
		delete(t.shown, k)
		if err := enc.Encode(Event{EventDeleted, last}); err != nil {
			return err
		}
	}
	if e.Resync {
		if err := enc.Encode(Event{Type: EventSynced}); err != nil {
			return err
		}
	}
	return t.out.Flush()
}

func (t *watcher) wants(k store.Key) bool {
	return k.Kind == object.KindKey(t.question.kind) && (t.question.namespace == "" || t.question.namespace == k.Namespace)
}

func (t *watcher) show(enc *json.Encoder, k store.Key, it item) error {
	text, err := render(it, t.server.statuses(with(t.server.cfg.World(), []item{it})).of(it))
	if err != nil {
		return err
	}
	kind := EventModified
	last, known := t.shown[k]
	if !known {
		kind = EventAdded
	} else if string(last) == string(text) {
		return nil
	}
	t.shown[k] = text
	return enc.Encode(Event{kind, text})
}

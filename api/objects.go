package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/isthmus-mesh/isthmus/api/selector"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// NoNamespace stands in paths for the namespace of objects that live in none.
const NoNamespace = "-"

// item is one object with all that is known of it.
type item struct {
	object   manifest.Object
	meta     object.Meta
	revision int64 // of the store; 0 is another cluster's object
	origin   mesh.ClusterName
	fact     *mesh.Fact // nil for kinds that are no facts
}

func (s *Server) decode(o store.Object) (item, error) {
	f, m, meta, err := object.Decode(o, s.cfg.Cluster, mesh.Epoch{})
	return item{m, meta, o.Revision, s.cfg.Cluster, f}, err
}

func (s *Server) stored(ctx context.Context, key store.Key) (item, error) {
	o, stale := s.cfg.Objects.Get(ctx, key)
	if err := unlessStale(stale); err != nil {
		return item{}, err
	}
	it, err := s.decode(o)
	return it, errors.Join(err, stale)
}

// foreign reads another cluster's object; false if its content is not known here.
func foreign(f *mesh.Fact) (item, bool) {
	r := manifest.Parse(string(f.Origin), f.Raw, manifest.Options{Namespace: f.Namespace, Stored: true})
	if len(r.Objects) != 1 {
		return item{}, false
	}
	return item{object: r.Objects[0], meta: object.Meta{Stamp: f.Stamp}, origin: f.Origin, fact: f}, true
}

// with is the world as it will be when it has heard of the items: what was just written has
// its status at once.
func with(w *world.World, items []item) *world.World {
	var edits []world.Edit
	for _, it := range items {
		if it.fact == nil || it.origin != w.Self() {
			continue
		}
		if known, ok := w.Get(it.fact.Key); !ok || known.Digest != it.fact.Digest {
			edits = append(edits, world.Put(it.fact))
		}
	}
	if len(edits) == 0 {
		return w
	}
	w, _ = w.Edit(edits)
	return w
}

// stated lists what all origins state under the name of k.
func stated(w *world.World, k mesh.Key) []*mesh.Fact {
	var out []*mesh.Fact
	for _, m := range w.Members(world.Named(k.Kind, k.Namespace, k.Name)) {
		if f, ok := w.Get(m); ok {
			out = append(out, f)
		}
	}
	return out
}

// question is what a caller asks of a kind.
type question struct {
	kind      manifest.Kind
	namespace string // "" is all
	labels    selector.Selector
}

func (s *Server) question(r *http.Request) (question, error) {
	word := r.PathValue("kind")
	k, ok := manifest.KindNamed(word)
	if !ok || k.File {
		return question{}, &Error{Status: http.StatusNotFound, Op: strings.ToLower(r.Method), Object: word, Problem: "there is no such kind of object",
			Remedy: "write one of " + strings.Join(resources(), ", ")}
	}
	q := question{kind: k, namespace: r.URL.Query().Get("namespace")}
	if !k.Namespaced {
		q.namespace = ""
	}
	var err error
	if q.labels, err = selector.Parse(r.URL.Query().Get("labelSelector")); err != nil {
		return question{}, &Error{Status: http.StatusBadRequest, Op: "list", Object: k.Plural, Problem: err.Error(), Remedy: "write KEY=VALUE,KEY!=VALUE,KEY,!KEY or KEY in (A,B)"}
	}
	return q, nil
}

func resources() []string {
	var out []string
	for _, k := range manifest.Kinds() {
		if !k.File {
			out = append(out, k.Plural)
		}
	}
	slices.Sort(out)
	return out
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) error {
	q, err := s.question(r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("watch") != "" {
		return s.watch(w, r, q)
	}
	items, err := s.find(r.Context(), q)
	if err = s.tolerate(w, err); err != nil {
		return err
	}
	st := s.statuses(with(s.cfg.World(), items))
	out := List{APIVersion: "v1", Kind: "List", Items: []json.RawMessage{}}
	for _, it := range items {
		text, err := render(it, st.of(it))
		if err != nil {
			return err
		}
		out.Items = append(out.Items, text)
	}
	return reply(w, http.StatusOK, out)
}

// find lists this cluster's objects, and other clusters' where this one has none of the
// name: of services as this cluster's proxies see them.
func (s *Server) find(ctx context.Context, q question) ([]item, error) {
	stored, _, stale := s.cfg.Objects.List(ctx, store.Scope{Kind: object.KindKey(q.kind), Namespace: q.namespace})
	if err := unlessStale(stale); err != nil {
		return nil, s.about("list", store.Key{Kind: "all", Name: q.kind.Plural}, err)
	}
	var out []item
	own := map[mesh.Key]bool{}
	for _, o := range stored {
		own[mesh.Key{Namespace: o.Namespace, Name: o.Name}] = true
		it, err := s.decode(o)
		if err != nil {
			s.cfg.Log.Warn("stored object is not understood", "object", o.Key.String(), "err", err)
			continue
		}
		if q.labels.Matches(it.object.Labels) {
			out = append(out, it)
		}
	}
	for _, f := range s.others(q, own) {
		if it, ok := foreign(f); ok && q.labels.Matches(it.object.Labels) {
			out = append(out, it)
		}
	}
	out = append(out, s.imports(q, own)...)
	slices.SortFunc(out, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.object.Namespace, b.object.Namespace), cmp.Compare(a.object.Name, b.object.Name))
	})
	return out, stale
}

// unlessStale is err, but nil of an answer that is only old.
func unlessStale(err error) error {
	if stale := (*store.StaleError)(nil); errors.As(err, &stale) && !errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// tolerate answers a reader from what is known while the store is away, and says so in a header that any
// client may show (RFC 9111 §5.5, whose form Kubernetes' API uses too); other errors come back.
func (s *Server) tolerate(w http.ResponseWriter, err error) error {
	stale := (*store.StaleError)(nil)
	if !errors.As(err, &stale) {
		return err
	}
	age := "never heard"
	if !stale.Heard.IsZero() {
		age = "last heard " + s.cfg.Now().Sub(stale.Heard).Round(time.Second).String() + " ago"
	}
	text := fmt.Sprintf("cluster %s: the store is away (%s): shown is what is known of revision %d: %v", s.cfg.Cluster, age, stale.Revision, stale.Cause)
	w.Header().Add("Warning", "299 - "+strconv.QuoteToASCII(text))
	return unlessStale(err)
}

// others are the objects in force that only other clusters state.
func (s *Server) others(q question, own map[mesh.Key]bool) []*mesh.Fact {
	if !q.kind.Replicated {
		return nil
	}
	w := s.cfg.World()
	found := map[mesh.Key][]*mesh.Fact{}
	for f := range w.All() {
		name := mesh.Key{Namespace: f.Namespace, Name: f.Name}
		if f.Kind == mesh.Kind(q.kind.Kind) && f.Origin != s.cfg.Cluster && f.Raw != nil && !own[name] && (q.namespace == "" || q.namespace == f.Namespace) {
			found[name] = append(found[name], f)
		}
	}
	var out []*mesh.Fact
	for _, facts := range found {
		out = append(out, compile.Winner(facts))
	}
	return out
}

// named reads the kind, namespace and name of a path.
func (s *Server) named(r *http.Request) (store.Key, question, error) {
	q, err := s.question(r)
	if err != nil {
		return store.Key{}, q, err
	}
	key := store.Key{Kind: object.KindKey(q.kind), Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	if key.Namespace == NoNamespace || !q.kind.Namespaced {
		key.Namespace = ""
	}
	if q.kind.Namespaced && key.Namespace == "" {
		return key, q, &Error{Status: http.StatusBadRequest, Op: strings.ToLower(r.Method), Object: q.kind.Kind + " " + key.Name, Problem: "it lives in a namespace and none is given", Remedy: "name it"}
	}
	return key, q, nil
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) error {
	key, q, err := s.named(r)
	if err != nil {
		return err
	}
	it, err := s.stored(r.Context(), key)
	err = s.tolerate(w, err)
	if errors.Is(err, store.ErrNotFound) {
		if facts := s.elsewhere(key, q); len(facts) > 0 {
			if other, ok := foreign(compile.Winner(facts)); ok {
				it, err = other, nil
			}
		} else if q.kind.Kind == string(mesh.KindService) {
			if other, ok := s.imported(s.cfg.World(), mesh.ServiceName{Namespace: key.Namespace, Name: key.Name}); ok {
				it, err = other, nil
			}
		}
	}
	if err != nil {
		return s.about("get", key, err)
	}
	text, err := render(it, s.statuses(with(s.cfg.World(), []item{it})).of(it))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // a caller who left is no error
	return nil
}

// elsewhere lists what other clusters state under a key.
func (s *Server) elsewhere(key store.Key, q question) []*mesh.Fact {
	facts := stated(s.cfg.World(), mesh.Key{Kind: mesh.Kind(q.kind.Kind), Namespace: key.Namespace, Name: key.Name})
	return slices.DeleteFunc(facts, func(f *mesh.Fact) bool { return f.Origin == s.cfg.Cluster || f.Raw == nil })
}

// about is err as the refusal of an operation on one object.
func (s *Server) about(op string, key store.Key, err error) error {
	e := &Error{Status: statusOfError(err), Op: op, Object: fmt.Sprintf("%s in cluster %s", key, s.cfg.Cluster), Problem: err.Error()}
	var failed *store.Error
	if errors.As(err, &failed) && failed.Cause != nil {
		e.Problem = fmt.Sprintf("%v: %v", failed.Kind, failed.Cause) // operation and object are said
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		e.Problem, e.Remedy = "not found", "see isthmus get "+strings.ToLower(strings.Split(key.Kind, ".")[0])+" -A --all-clusters"
	case errors.Is(err, store.ErrUnavailable):
		e.Remedy = "see isthmus status; what the proxies run stays in force meanwhile"
	}
	return e
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) error {
	key, q, err := s.named(r)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("dryRun") != "" {
		_, err = s.cfg.Objects.Get(r.Context(), key)
	} else {
		_, err = s.cfg.Objects.Delete(r.Context(), key, store.Any())
	}
	if errors.Is(err, store.ErrNotFound) {
		if facts := s.elsewhere(key, q); len(facts) > 0 {
			return s.ownedBy(key, facts[0].Origin)
		}
		if refusal := s.theirs(key, q); refusal != nil {
			return refusal
		}
	}
	if err != nil {
		return s.about("delete", key, err)
	}
	return reply(w, http.StatusOK, map[string]string{"kind": q.kind.Kind, "namespace": key.Namespace, "name": key.Name, "action": "deleted"})
}

// ownedBy refuses to delete what is another cluster's.
func (s *Server) ownedBy(key store.Key, owner mesh.ClusterName) error {
	return &Error{Status: http.StatusConflict, Op: "delete", Object: fmt.Sprintf("%s in cluster %s", key, s.cfg.Cluster),
		Problem: "it is cluster " + string(owner) + "'s", Remedy: "add --cluster " + string(owner)}
}

// render is the object as people read it: what its author wrote, what the server adds, and
// its status.
func render(it item, status any) (json.RawMessage, error) {
	fail := func(err error) (json.RawMessage, error) { return nil, fmt.Errorf("show %s: %w", it.object, err) }
	var top, metadata map[string]json.RawMessage
	if err := json.Unmarshal(object.Shown(it.object), &top); err != nil {
		return fail(err)
	}
	if err := json.Unmarshal(top["metadata"], &metadata); err != nil {
		return fail(err)
	}
	set := func(to map[string]json.RawMessage, name string, v any) error {
		text, err := plain(v)
		to[name] = text
		return err
	}
	var err error
	if it.revision > 0 {
		err = errors.Join(set(metadata, "uid", it.meta.UID), set(metadata, "generation", it.meta.Generation),
			set(metadata, "creationTimestamp", it.meta.Created.UTC().Truncate(time.Second)), set(metadata, "resourceVersion", strconv.FormatInt(it.revision, 10)))
	}
	err = errors.Join(err, set(top, "metadata", metadata))
	if status != nil {
		err = errors.Join(err, set(top, "status", status))
	}
	if err != nil {
		return fail(err)
	}
	return plain(top)
}

// plain is JSON that leaves <, > and & as they are.
func plain(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

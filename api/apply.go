package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of an apply: manifest bounds each file.
const (
	applyFilesMax = 1000
	applyBytesMax = 64 << 20
	// applyTries is how often a write is tried when somebody else writes the same object.
	applyTries = 4
)

// apply validates the whole input and then writes it object by object, what others refer
// to first.
func (s *Server) apply(w http.ResponseWriter, r *http.Request) error {
	refuse := func(status int, problem string, result *ApplyResult) error {
		return &Error{Status: status, Op: "apply to", Object: "cluster " + string(s.cfg.Cluster), Problem: problem, ApplyResult: result}
	}
	q := r.URL.Query()
	dry := false
	switch q.Get("dryRun") {
	case "":
	case "server", "All":
		dry = true
	default:
		return refuse(http.StatusBadRequest, fmt.Sprintf("dryRun=%s is not known; write dryRun=server", q.Get("dryRun")), nil)
	}
	input, err := readInput(w, r, manifest.Options{Namespace: q.Get("namespace"), Now: s.cfg.Now()})
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error(), nil)
	}
	input.Faults = append(input.Faults, checkKinds(input.Objects)...)

	if asksForAddresses(input.Objects) { // others need no turn: each object is written upon the revision that was read
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	if len(input.Faults) == 0 {
		plan, err := s.addresses(r.Context(), input.Objects, dry)
		if err != nil {
			return refuse(statusOfError(err), err.Error(), nil)
		}
		input.Objects, input.Faults = plan.objects, plan.faults
	}
	result := &ApplyResult{Warnings: input.Warnings, Faults: input.Faults, More: input.More}
	if n := len(input.Faults); n > 0 {
		return refuse(http.StatusUnprocessableEntity, fmt.Sprintf("%s in the input, nothing was written", counted(n, input.More, "fault")), result)
	}
	slices.SortStableFunc(input.Objects, func(a, b manifest.Object) int { return cmp.Compare(orderOf(a), orderOf(b)) })
	stamped, err := s.write(r.Context(), input.Objects, result, dry)
	result.Warnings = append(result.Warnings, s.unresolved(stamped)...)
	if err != nil {
		return refuse(statusOfError(err), midway(err, result, len(input.Objects), dry), result)
	}
	return reply(w, http.StatusOK, result)
}

func counted(n int, more bool, what string) string {
	at := ""
	if more {
		at = "at least "
	}
	if n == 1 {
		return at + "1 " + what
	}
	return fmt.Sprintf("%s%d %ss", at, n, what)
}

// midway says what of an apply was written before it failed.
func midway(err error, result *ApplyResult, objects int, dry bool) string {
	if dry {
		return err.Error() + "; nothing was written, as asked"
	}
	var names []string
	for _, a := range result.Results {
		if a.Action != Unchanged {
			names = append(names, mesh.Key{Kind: mesh.Kind(a.Kind), Namespace: a.Namespace, Name: a.Name}.String())
		}
	}
	if len(names) == 0 {
		return err.Error() + "; nothing was written"
	}
	const listed = 10
	more := ""
	if n := len(names) - listed; n > 0 {
		names, more = names[:listed], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%v; of %d objects %d were done, written: %s%s", err, objects, len(result.Results), strings.Join(names, ", "), more)
}

// readInput parses the body: one file, or one a part of a multipart form, whose name is
// the file's.
func readInput(w http.ResponseWriter, r *http.Request, o manifest.Options) (manifest.Result, error) {
	body := http.MaxBytesReader(w, r.Body, applyBytesMax)
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if !strings.HasPrefix(kind, "multipart/") {
		return manifest.Read(cmp.Or(r.URL.Query().Get("file"), "-"), body, o)
	}
	var all []manifest.Result
	parts := multipart.NewReader(body, params["boundary"])
	for {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return manifest.Join(all...), nil
		}
		if err != nil {
			return manifest.Result{}, fmt.Errorf("read the input: %w", err)
		}
		if len(all) == applyFilesMax {
			return manifest.Result{}, fmt.Errorf("more than %d files in one apply", applyFilesMax)
		}
		one, err := manifest.Read(cmp.Or(p.FormName(), "-"), p, o)
		if err != nil {
			return manifest.Result{}, err
		}
		all = append(all, one)
	}
}

// checkKinds refuses objects that are no objects of a store.
func checkKinds(objects []manifest.Object) []manifest.Fault {
	var out []manifest.Fault
	for _, o := range objects {
		switch o.Kind {
		case manifest.KindLocalMesh:
			out = append(out, faultOf(o, "", "is a file, not an object of a cluster", "give it to isthmus up -f"))
		case manifest.KindSimulation:
			out = append(out, faultOf(o, "", "is a file, not an object of a cluster", "give it to isthmus simulate -f"))
		}
		// What the store adds to an object is well below this.
		if len(o.JSON) > store.ValueBytesMax-envelopeBytes {
			out = append(out, faultOf(o, "", "larger than 1 MiB with what the server adds", "split the object"))
		}
	}
	return out
}

// envelopeBytes is more than what object.Encode adds.
const envelopeBytes = 1 << 10

func faultOf(o manifest.Object, field, problem, remedy string) manifest.Fault {
	return manifest.Fault{File: o.File, Line: o.Line, Column: 1, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name,
		Field: field, Problem: problem, Remedy: remedy}
}

func orderOf(o manifest.Object) int {
	k, _ := manifest.KindNamed(o.Kind)
	return k.Order
}

// write writes the objects in order and appends what became of each to result. It returns
// them as this cluster states them.
func (s *Server) write(ctx context.Context, objects []manifest.Object, result *ApplyResult, dry bool) ([]item, error) {
	var out []item
	for _, o := range objects {
		it, action, err := s.put(ctx, o, dry)
		if err != nil {
			return out, fmt.Errorf("write %s: %w", o, err)
		}
		out = append(out, it)
		k, _ := manifest.KindNamed(o.Kind)
		resource := strings.ToLower(k.Kind)
		if g := k.Group(); g != "" {
			resource += "." + g
		}
		result.Results = append(result.Results, Applied{Kind: o.Kind, Resource: resource, Namespace: o.Namespace, Name: o.Name, Action: action})
	}
	return out, nil
}

// put writes one object if it differs from what is stored.
func (s *Server) put(ctx context.Context, o manifest.Object, dry bool) (item, string, error) {
	key := object.Key(o)
	for try := 1; ; try++ {
		old, err := s.stored(ctx, key)
		action, meta := Configured, object.Meta{Generation: 1}
		var pre store.Precondition
		switch {
		case errors.Is(err, store.ErrNotFound):
			action, pre = Created, store.MustNotExist()
			meta.Created = s.cfg.Now().UTC()
			if meta.UID, err = s.uid(); err != nil {
				return item{}, "", err
			}
		case err != nil:
			return item{}, "", err
		case string(old.object.JSON) == string(o.JSON):
			old.object.File, old.object.Line = o.File, o.Line
			return old, Unchanged, nil
		default:
			meta, pre = old.meta, store.AtRevision(old.revision)
			meta.Generation++
		}
		meta.Stamp = s.cfg.Stamp()
		value, err := object.Encode(o, meta)
		if err != nil {
			return item{}, "", err
		}
		written := store.Object{Key: key, Value: value}
		if !dry {
			written.Revision, err = s.cfg.Objects.Put(ctx, written, pre)
			contended := errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound)
			if contended && try < applyTries {
				continue
			}
			if err != nil {
				return item{}, "", err
			}
		}
		it, err := s.decode(written)
		it.object.File, it.object.Line = o.File, o.Line
		return it, action, err
	}
}

// uid is a random UUID (RFC 9562 §5.4).
func (s *Server) uid() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.cfg.Random, b[:]); err != nil {
		return "", fmt.Errorf("draw a UID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// unresolved warns of references that lead nowhere, and of names that another cluster uses
// for something else. Both are accepted.
func (s *Server) unresolved(items []item) []manifest.Fault {
	var out []manifest.Fault
	w := with(s.cfg.World(), items)
	for _, it := range items {
		if it.fact == nil || len(out) >= manifest.MaxFaults {
			continue
		}
		for _, d := range s.dangling(w, it.fact) {
			out = append(out, faultOf(it.object, d.field, d.problem, "apply it too, or correct the reference; until then ResolvedRefs=False"))
		}
		if it.fact.Kind.Replicated() {
			out = append(out, rivals(w, it)...)
		}
	}
	return out
}

func rivals(w *world.World, it item) []manifest.Fault {
	var out []manifest.Fault
	for _, f := range stated(w, it.fact.Key) {
		if f.Origin != it.fact.Origin && f.Digest != it.fact.Digest {
			out = append(out, faultOf(it.object, "", "cluster "+string(f.Origin)+" states another object of this name; the one applied later is in force everywhere",
				"change it in one cluster only"))
		}
	}
	return out
}

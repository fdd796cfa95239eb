package route

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const (
	// reservedPrefix covers the fields that are the mesh's own.
	reservedPrefix = "isthmus-"
	// FieldCaller tells the application who called: the SPIFFE ID that was authenticated.
	FieldCaller = "x-forwarded-client-cert"
	// FieldCriticality says what a request is worth where not all can be served (mesh.Criticality). It is the one field of
	// the mesh's own that an application may send, and gets, to pass it on with what it asks of others.
	FieldCriticality = "isthmus-criticality"
)

// protected reports whether a filter may not touch a field: the mesh's own, and who called.
func protected(name string) bool {
	b := []byte(name)
	return reserved(b) || isCaller(b)
}

// reserved reports whether a field is the mesh's own, in either spelling that some
// server takes for the same: '_' counts as '-'.
func reserved(name []byte) bool {
	if len(name) < len(reservedPrefix) {
		return false
	}
	for i := range len(reservedPrefix) {
		c := name[i]
		if c == '_' {
			c = '-'
		}
		if c != reservedPrefix[i] {
			return false
		}
	}
	return true
}

// isCaller reports whether a field claims to say who called, in either spelling.
func isCaller(name []byte) bool {
	if len(name) != len(FieldCaller) {
		return false
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		if c != FieldCaller[i] {
			return false
		}
	}
	return true
}

// Strip removes the mesh's own fields.
func Strip(h *message.Head) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !reserved(f.Name) && !isCaller(f.Name) {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// StripRequest is Strip for a request between applications of the mesh: its criticality stays, if it is one. Said twice, the
// first counts.
func StripRequest(h *message.Head) {
	kept, said := h.Fields[:0], false
	for _, f := range h.Fields {
		ours := reserved(f.Name) || isCaller(f.Name)
		if ours && !said && string(f.Name) == FieldCriticality {
			_, said = mesh.ParseCriticality(f.Value)
			ours = !said
		}
		if !ours {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// StripTrailers is Strip for trailers, which belong to an engine: they are copied if there is
// anything to remove.
func StripTrailers(fields []message.Field) []message.Field {
	ours := func(f message.Field) bool { return reserved(f.Name) || isCaller(f.Name) }
	if !slices.ContainsFunc(fields, ours) {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), ours)
}

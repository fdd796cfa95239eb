package proxy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// filterRequest applies the filters that change a request. Names of reserved fields are
// left alone, whoever asks.
func filterRequest(h *message.Head, filters []mesh.RouteFilter, matched *mesh.RouteMatch) {
	for i := range filters {
		switch f := &filters[i]; f.Kind {
		case mesh.FilterRequestHeaders:
			modify(h, f)
		case mesh.FilterRewrite:
			if f.Hostname != "" {
				h.Authority = h.KeepString(f.Hostname)
			}
			if f.PathType != "" {
				h.Path = h.KeepString(rewritten(string(h.Path), f, matched))
			}
		}
	}
}

// filterResponse applies the filters that change a response.
func filterResponse(h *message.Head, filters []mesh.RouteFilter) {
	for i := range filters {
		if filters[i].Kind == mesh.FilterResponseHeaders {
			modify(h, &filters[i])
		}
	}
}

func modify(h *message.Head, f *mesh.RouteFilter) {
	for _, v := range f.Set {
		if !reserved([]byte(v.Name)) {
			h.Set(v.Name, v.Value)
		}
	}
	for _, v := range f.Add {
		if !reserved([]byte(v.Name)) {
			h.Add(v.Name, v.Value)
		}
	}
	for _, name := range f.Remove {
		if !reserved([]byte(name)) {
			h.Del(name)
		}
	}
}

// rewritten is a path under a replacement; the query stays.
func rewritten(path string, f *mesh.RouteFilter, matched *mesh.RouteMatch) string {
	path, query, hasQuery := strings.Cut(path, "?")
	switch f.PathType {
	case "ReplaceFullPath":
		path = f.Path
	case "ReplacePrefixMatch":
		rest := strings.TrimPrefix(path, strings.TrimSuffix(matched.Path, "/"))
		path = strings.TrimSuffix(f.Path, "/") + rest
		if path == "" {
			path = "/"
		}
	}
	if hasQuery {
		path += "?" + query
	}
	return path
}

// redirect builds the answer of a RequestRedirect filter, if there is one.
func redirect(out *message.Head, req *message.Head, filters []mesh.RouteFilter, matched *mesh.RouteMatch) bool {
	for i := range filters {
		f := &filters[i]
		if f.Kind != mesh.FilterRedirect {
			continue
		}
		scheme, path := "http", string(req.Path)
		if s := string(req.Scheme); s != "" {
			scheme = s
		}
		host, port, _ := authority(req)
		name := string(host)
		if f.Scheme != "" && f.Scheme != scheme { // Gateway API: then the port is that of the scheme
			scheme, port = f.Scheme, wellKnown(f.Scheme)
		}
		if f.Hostname != "" {
			name = f.Hostname
		}
		if f.Port != 0 {
			port = f.Port
		}
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		if port != 0 && port != wellKnown(scheme) {
			name += ":" + strconv.Itoa(int(port))
		}
		if f.PathType != "" {
			path = rewritten(path, f, matched)
		}
		out.Reset()
		out.Status = 302
		if f.StatusCode != 0 {
			out.Status = f.StatusCode
		}
		out.Add("location", scheme+"://"+name+path)
		return true
	}
	return false
}

// wellKnown is the port that a scheme implies; 0 if there is none.
func wellKnown(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
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

// strip removes the mesh's own fields.
func strip(h *message.Head) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !reserved(f.Name) && !isCaller(f.Name) {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// stripTrailers is strip for trailers, which belong to an engine: they are copied if there is
// anything to remove.
func stripTrailers(fields []message.Field) []message.Field {
	ours := func(f message.Field) bool { return reserved(f.Name) || isCaller(f.Name) }
	if !slices.ContainsFunc(fields, ours) {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), ours)
}

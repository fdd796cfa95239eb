package route

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// FilterRequest applies the filters that change a request. Names of reserved fields are
// left alone, whoever asks.
func FilterRequest(h *message.Head, filters []mesh.RouteFilter, matched *mesh.RouteMatch) {
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

// FilterResponse applies the filters that change a response.
func FilterResponse(h *message.Head, filters []mesh.RouteFilter) {
	for i := range filters {
		if filters[i].Kind == mesh.FilterResponseHeaders {
			modify(h, &filters[i])
		}
	}
}

func modify(h *message.Head, f *mesh.RouteFilter) {
	for _, v := range f.Set {
		if !protected(v.Name) {
			h.Set(v.Name, v.Value)
		}
	}
	for _, v := range f.Add {
		if !protected(v.Name) {
			h.Add(v.Name, v.Value)
		}
	}
	for _, name := range f.Remove {
		if !protected(name) {
			h.Del(name)
		}
	}
}

// rewritten is a path under a replacement; the query stays. ReplacePrefixMatch follows the
// table of Gateway API's HTTPPathModifier: a slash at the end of either prefix does not count.
func rewritten(path string, f *mesh.RouteFilter, matched *mesh.RouteMatch) string {
	path, query, hasQuery := strings.Cut(path, "?")
	switch f.PathType {
	case "ReplaceFullPath":
		path = f.Path
	case "ReplacePrefixMatch":
		rest := strings.TrimPrefix(path, strings.TrimSuffix(matched.Path, "/"))
		path = strings.TrimSuffix(f.Path, "/") + rest
	}
	if path == "" {
		path = "/"
	}
	if hasQuery {
		path += "?" + query
	}
	return path
}

// Redirect builds the answer of a RequestRedirect filter, if there is one. port is what the
// request came in on, 0 to go by its authority. Where the filter names a scheme the port is that
// of the scheme; else it stays (Gateway API HTTPRequestRedirectFilter.port).
func Redirect(out *message.Head, req *message.Head, r *ir.Route, port uint16) bool {
	for i := range r.Filters {
		f := &r.Filters[i]
		if f.Kind != mesh.FilterRedirect {
			continue
		}
		scheme, path := "http", string(req.Path)
		if s := string(req.Scheme); s != "" {
			scheme = s
		}
		host, asked, _ := Authority(req)
		name := string(host)
		if port == 0 {
			port = asked
		}
		if f.Scheme != "" {
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
			path = rewritten(path, f, &r.Match)
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

func wellKnown(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// Authority splits the host and port that a request asks for; the problem is empty if they
// are understood.
func Authority(h *message.Head) (host []byte, port uint16, problem string) {
	host, port = h.Authority, 80
	if string(h.Scheme) == "https" {
		port = 443
	}
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && host[len(host)-1] != ']' {
		n, err := strconv.ParseUint(view(host[i+1:]), 10, 16)
		if err != nil || n == 0 {
			return nil, 0, "the port of the host is not a number from 1 to 65535"
		}
		host, port = host[:i], uint16(n)
	}
	return bytes.TrimSuffix(bytes.TrimPrefix(host, []byte("[")), []byte("]")), port, ""
}

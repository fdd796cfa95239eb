package proxy

import (
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// hosts remembers what host names mean. mesh.ParseHost is a pure function of the name, so
// what it said stays true; the memory is bounded because clients choose the names.
type hosts struct {
	namespace string
	known     atomic.Pointer[map[string]host]
	mu        sync.Mutex // serialises learning
}

// host is what a name means to this proxy's workload.
type host struct {
	service mesh.ServiceName
	scope   mesh.Scope
	// mesh says that the name has the form of a name of the mesh, qualified that it can be
	// nothing else: it ends in a suffix of the mesh.
	mesh, qualified bool
}

// hostsMax bounds the names that are remembered; a workload calls dozens.
const hostsMax = 1024

// parse allocates nothing for a name that it knows.
func (h *hosts) parse(name []byte) host {
	if known := h.known.Load(); known != nil {
		if v, ok := (*known)[string(name)]; ok {
			return v
		}
	}
	s := string(name)
	var v host
	service, scope, err := mesh.ParseHost(s, h.namespace)
	if err == nil {
		v = host{service, scope, true, Qualified(s)}
	}
	h.learn(s, v)
	return v
}

func (h *hosts) learn(name string, v host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := map[string]host{}
	if known := h.known.Load(); known != nil && len(*known) < hostsMax {
		for k, v := range *known {
			next[k] = v
		}
	}
	next[name] = v
	h.known.Store(&next)
}

// Qualified reports whether a host name ends in one of the mesh's suffixes, so that it
// can be nobody else's. "example.com" has the form SVC.NS and is very likely not the mesh's.
func Qualified(name string) bool {
	n := strings.ToLower(strings.TrimSuffix(name, "."))
	return strings.HasSuffix(n, ".svc") || strings.HasSuffix(n, "."+mesh.ClusterDomain) || strings.HasSuffix(n, "."+mesh.ClustersetDomain)
}

// view is b as a string without a copy: for a call that does not keep it, while nothing
// writes to b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

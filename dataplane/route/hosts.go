package route

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Hosts remembers what host names mean. mesh.ParseHost is a pure function of the name, so
// what it said stays true; the memory is bounded because clients choose the names.
type Hosts struct {
	namespace string
	known     atomic.Pointer[map[string]Host]
	mu        sync.Mutex // serialises learning
}

// Host is what a name means to this proxy's workload.
type Host struct {
	Service mesh.ServiceName
	Scope   mesh.Scope
	// Mesh says that the name has the form of a name of the mesh, Qualified that it can be
	// nothing else: it ends in a suffix of the mesh.
	Mesh, Qualified bool
}

// NewHosts returns a memory for workloads of a namespace, in which short names resolve. It is
// safe for concurrent use.
func NewHosts(namespace string) *Hosts { return &Hosts{namespace: namespace} }

// hostsMax bounds the names that are remembered; a workload calls dozens.
const hostsMax = 1024

// Parse allocates nothing for a name that it knows.
func (h *Hosts) Parse(name []byte) Host {
	if known := h.known.Load(); known != nil {
		if v, ok := (*known)[string(name)]; ok {
			return v
		}
	}
	s := string(name)
	var v Host
	service, scope, err := mesh.ParseHost(s, h.namespace)
	if err == nil {
		v = Host{service, scope, true, Qualified(s)}
	}
	h.learn(s, v)
	return v
}

func (h *Hosts) learn(name string, v Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := map[string]Host{}
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

package address

import (
	"net/netip"

	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Stated reads the addresses that stored services state. It parses a revision of an object once: parsing a thousand for each that
// is added was most of what adding one cost. The zero value is ready; it is not safe for concurrent use.
type Stated struct {
	services map[store.Key]readService
}

type readService struct {
	revision int64
	service  *mesh.Service // nil if it cannot be read
}

// Of returns whose each address is, and the first of each service, by all stored Services of a cluster.
func (s *Stated) Of(cluster mesh.ClusterName, stored []store.Object) (map[netip.Addr]mesh.ServiceName, map[mesh.ServiceName]netip.Addr) {
	owner, has := map[netip.Addr]mesh.ServiceName{}, map[mesh.ServiceName]netip.Addr{}
	read := make(map[store.Key]readService, len(stored))
	for _, o := range stored {
		r, ok := s.services[o.Key]
		if !ok || r.revision != o.Revision {
			r = readService{revision: o.Revision}
			if f, _, _, err := object.Decode(o, cluster, mesh.Epoch{}); err == nil {
				r.service, _ = f.Value.(*mesh.Service)
			}
		}
		read[o.Key] = r
		if r.service == nil {
			continue
		}
		for _, a := range r.service.Addresses {
			owner[a] = r.service.ServiceName
		}
		if len(r.service.Addresses) > 0 {
			has[r.service.ServiceName] = r.service.Addresses[0]
		}
	}
	s.services = read
	return owner, has
}

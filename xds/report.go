package xds

import (
	"cmp"
	"slices"
	"time"
)

// Delivery is how many connected nodes refuse a version of a resource. A resource that
// none refuses any more is reported once with 0 nodes.
type Delivery struct {
	Scope, Type, Name, Version string
	// Message is the reason of one of them.
	Message string
	Nodes   int
}

// reportKey names a refused version.
type reportKey struct{ scope, typ, name, version string }

type report struct {
	message string
	nodes   int
	changed bool
}

// report counts a node that refuses a version, or no longer does.
func (s *Server) report(g *group, name string, r refused, n int) {
	if n > 0 {
		s.counters.Refused++
	}
	if s.cfg.Delivered == nil {
		return
	}
	k := reportKey{g.scope, g.typ, name, r.version}
	x := s.reports[k]
	if x == nil {
		x = &report{message: r.message}
		s.reports[k] = x
	}
	x.nodes += n
	x.changed = true
	if s.reportAt.IsZero() {
		s.reportAt = s.cfg.Now().Add(reportEvery)
		s.wake()
	}
}

func (s *Server) takeReports() []Delivery {
	s.reportAt = time.Time{}
	var out []Delivery
	for k, x := range s.reports {
		if x.changed {
			x.changed = false
			out = append(out, Delivery{k.scope, k.typ, k.name, k.version, x.message, x.nodes})
		}
		if x.nodes <= 0 {
			delete(s.reports, k)
		}
	}
	slices.SortFunc(out, func(x, y Delivery) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Scope, y.Scope), cmp.Compare(x.Version, y.Version))
	})
	return out
}

package agent

import (
	"fmt"
	"runtime/debug"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/xds"
)

// note tells the ledger what is about to be put in force, before it is. Splits are numbers, and come twice a second; bundles are
// trust's, which never goes back. The caller holds mu.
func (s *store) note(t ir.Type, rs []xds.Resource) {
	if s.restored || t == ir.TypeSplit || t == ir.TypeBundle {
		return
	}
	s.ledger.Takes(rs, func(name string) (xds.Resource, bool) {
		r, ok := s.raw[t][name]
		return r, ok
	})
}

// take puts one resource in force, or says why not. A panic over it is a fault of ours and costs this resource alone. The caller
// holds mu.
func (s *store) take(t ir.Type, r *xds.Resource) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a resource made this proxy panic", "type", r.Type, "name", r.Name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("this proxy panicked over it: %v", p)
		}
	}()
	if t != ir.TypeSplit {
		if err := s.ledger.Held(r); err != nil {
			return err
		}
	}
	v, err := wire.Decode(t, r.Body)
	if err != nil {
		return err
	}
	return s.put(r.Name, v)
}

package wire

import (
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func fromRamps(in mesh.Ramps) []*wirepb.Ramp {
	return each(in, func(r mesh.Ramp) *wirepb.Ramp {
		return &wirepb.Ramp{SinceMillis: r.SinceMillis, Over: int64(r.Over), From: r.From, To: r.To}
	})
}

// toRamps reads what another version may have meant otherwise: no part is more than all.
func toRamps(in []*wirepb.Ramp) mesh.Ramps {
	return each(in, func(r *wirepb.Ramp) mesh.Ramp {
		return mesh.Ramp{SinceMillis: r.GetSinceMillis(), Over: time.Duration(r.GetOver()), From: min(r.GetFrom(), mesh.AllParts), To: min(r.GetTo(), mesh.AllParts)}
	})
}

func fromSlotRamps(in []mesh.SlotRamps) []*wirepb.SlotRamps {
	return each(in, func(s mesh.SlotRamps) *wirepb.SlotRamps {
		return &wirepb.SlotRamps{Slot: s.Slot, Ramps: fromRamps(s.Ramps)}
	})
}

func toSlotRamps(in []*wirepb.SlotRamps) []mesh.SlotRamps {
	return each(in, func(s *wirepb.SlotRamps) mesh.SlotRamps {
		return mesh.SlotRamps{Slot: s.GetSlot(), Ramps: toRamps(s.GetRamps())}
	})
}

package traffic

import (
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// schedule puts the faults of the scenario among the events.
func (w *world) schedule(index map[string]int) {
	at := func(when int64, f func()) {
		w.events.push(event{at: when, kind: change, a: int32(len(w.changes))})
		w.changes = append(w.changes, f)
	}
	for _, f := range w.scenario.Faults {
		switch f.Kind {
		case manifest.FaultCut, manifest.FaultLoss, manifest.FaultDelay:
			i, j := int32(index[f.Between[0]]), int32(index[f.Between[1]])
			for from, every := int64(f.From), int64(f.Every); ; from += 2 * every {
				to := int64(f.To)
				if every > 0 {
					to = min(to, from+every)
				}
				at(from, func() { w.breakLink(&f, i, j, true) })
				at(to, func() { w.breakLink(&f, i, j, false) })
				if every == 0 || from+2*every >= int64(f.To) {
					break
				}
			}
		default:
			struck := w.regions[index[f.Region]].endpoints
			if f.Endpoints > 0 {
				struck = struck[:min(f.Endpoints, len(struck))]
			}
			for k, e := range struck {
				begin := int64(f.From) + int64(f.Over)*int64(k)/int64(len(struck))
				for from, every := begin, int64(f.Every); ; from += 2 * every {
					to := int64(f.To)
					if every > 0 {
						to = min(to, from+every)
					}
					at(from, func() { w.strike(&f, e, true) })
					if to < w.end {
						at(to, func() { w.strike(&f, e, false) })
					}
					if every == 0 || from+2*every >= int64(f.To) {
						break
					}
				}
			}
		}
	}
}

func (w *world) breakLink(f *manifest.SimFault, i, j int32, begins bool) {
	for _, l := range []*link{w.link(i, j), w.link(j, i)} {
		switch f.Kind {
		case manifest.FaultCut:
			l.cut = begins
		case manifest.FaultLoss:
			if l.loss = f.Loss; !begins {
				l.loss = 0
			}
		case manifest.FaultDelay:
			if l.extra = int64(f.Delay); !begins {
				l.extra = 0
			}
		}
		if f.OneWay {
			return
		}
	}
}

// strike makes an endpoint ill, or well.
func (w *world) strike(f *manifest.SimFault, at int32, begins bool) {
	e := &w.endpoints[at]
	switch f.Kind {
	case manifest.FaultSlow:
		if e.slow = 1; begins {
			e.slow = f.Factor
		}
		return
	case manifest.FaultRefuse:
		e.state = refuses
	case manifest.FaultBlackHole:
		e.state = isBlackHole
	}
	if !begins {
		e.state, e.lastBirth = works, w.now
		return
	}
	w.kill(at)
}

// kill loses what an endpoint has. Where the machine is gone nobody hears of it; where only the process is,
// its connections are reset.
func (w *world) kill(at int32) {
	e := &w.endpoints[at]
	e.lost++
	e.lastDeath = w.now
	for e.queued() > 0 {
		w.reset(e, e.dequeue())
		e.meter.End()
		e.meter.Missed(w.now)
	}
	for range e.busy { // finish will find them lost, and tell
		e.meter.End()
		e.meter.Missed(w.now)
	}
	e.busy, e.waiting, e.head = 0, e.waiting[:0], 0
	for i := range e.free {
		e.free[i] = 0
	}
}

// reset tells the proxy of a try that its connection is gone, unless nobody is left to say so.
func (w *world) reset(e *endpoint, at int32) {
	t := &w.tries[at]
	if e.state != refuses {
		w.dropTry(at)
		return
	}
	t.outcome = resetOutcome
	w.sendBack(at)
}

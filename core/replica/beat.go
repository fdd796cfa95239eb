package replica

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// What an importer does because time has passed, or because a heartbeat tells it that something has.

func (im *Importer) onHeartbeat(now time.Time, rd *Ready, m *Heartbeat) {
	if m.Beat > now.Add(mesh.MaxStampAhead).UnixMilli() || m.Beat < 0 {
		rd.Alarms = append(rd.Alarms, Alarm{AlarmFuture, string(im.server), "heartbeat"})
	} else if im.risen(m.Beat) {
		im.fresh(now, rd)
	}
	if len(m.Report) > 0 && len(m.Report) <= MaxReport {
		rd.Report = m.Report
	}
	switch follows := im.phase == phaseFollow && !im.inBatch; {
	case m.Awaiting != 0 && m.Awaiting == im.lastNonce:
		rd.Send = append(rd.Send, &Ack{Sync: im.sync, Nonce: im.lastNonce, Refused: im.refusals()})
	case m.Awaiting != 0 && follows && im.cfg.Without&DefenceDigest == 0:
		// A response stood before this heartbeat that never was one here: it was taken for a copy. Its exporter waits for
		// the answer and will not be settled again, so no root would ever be compared.
		rd.Alarms = append(rd.Alarms, Alarm{AlarmDiverged, string(im.cfg.Owner), "a response is awaited that did not come"})
		im.resync(now, rd)
	case follows && m.Settled && im.cfg.Without&DefenceDigest == 0:
		im.compare(now, rd, m)
	}
	im.witness(now, rd)
}

// risen notes a beat, and reports whether it says that the owner lives. One that comes by way of others must have risen,
// or two siblings that feed each other would keep a dead owner fresh. Beats are compared within a session only, in which
// they are of one clock: the owner's replicas need not agree on the time, and whoever told the session before may have
// followed another one. The first of a session counts if it exceeds the last of the one before; if not, those after it do.
func (im *Importer) risen(beat int64) bool {
	first, was := im.beat == 0, im.beat
	if first {
		was = im.beatBefore
	}
	switch {
	case im.server == im.cfg.Owner:
		im.beat = beat
		return true
	case first || beat > was: // 0 is of a holder that has not heard any in its own session, and none here either
		im.beat = beat
	}
	return beat > was
}

// compare is the anti-entropy: equal roots let the position move on, unequal ones
// ask for the difference.
func (im *Importer) compare(now time.Time, rd *Ready, m *Heartbeat) {
	at := im.stated.Position
	switch {
	case m.Position.Epoch != at.Epoch || m.Root != im.stated.Root():
		rd.Alarms = append(rd.Alarms, Alarm{AlarmDiverged, string(im.cfg.Owner), "at a heartbeat"})
		im.resync(now, rd)
	case m.Position.Revision > at.Revision:
		old := im.inForce
		im.stated = im.stated.At(m.Position, im.stated.Lineage)
		im.inForce = im.inForce.At(m.Position, im.inForce.Lineage)
		im.emit(rd, old)
	}
}

func (im *Importer) fresh(now time.Time, rd *Ready) {
	im.lastFresh = now
	if im.stale {
		im.stale, rd.StatusChanged = false, true
	}
}

// witness tells the owner, directly or by way of a holder, what we hold over, until
// its lineage says that it has taken it into account.
func (im *Importer) witness(now time.Time, rd *Ready) {
	crossed := im.crossed.Union(im.passedCrossed)
	if len(crossed) == 0 || im.phase != phaseFollow || now.Before(im.witnessNext) {
		return
	}
	orphans := maps.Clone(im.heldOver)
	for n, r := range im.passed {
		if have := orphans[n]; have == nil || have.Stamp.Compare(r.Stamp) < 0 {
			orphans[n] = r
		}
	}
	im.witnessNext = now.Add(witnessEvery)
	im.witnessID++
	rd.Send = append(rd.Send, witnessParts(im.witnessID, crossed, orphans)...)
}

// Pass takes a witness of somebody whom we re-serve, to be sent on with our own. It
// does not come into force here: we may have seen it deleted. The driver passes
// on those of its own cluster and of relays that it serves, never a peer's.
func (im *Importer) Pass(w *Witness) {
	if im.stated.Lineage.Covers(w.Crossed) || len(im.passed)+len(w.Orphans) > maxPassed {
		return
	}
	im.passedCrossed = im.passedCrossed.Union(w.Crossed)
	for _, r := range w.Orphans {
		im.pass(r)
	}
}

// pass keeps the later of what is to be passed on.
func (im *Importer) pass(r *Resource) {
	if have := im.passed[r.Name]; have == nil || have.Stamp.Compare(r.Stamp) < 0 {
		im.passed[r.Name] = r
	}
}

func witnessParts(id uint64, crossed Lineage, orphans map[Name]*Resource) []Up {
	parts := []*Witness{{ID: id, Crossed: maps.Clone(crossed)}}
	size := 0
	for _, n := range slices.SortedFunc(maps.Keys(orphans), Name.Compare) {
		r := orphans[n]
		if size > 0 && size+r.size() > MaxResponse {
			parts = append(parts, &Witness{ID: id, Crossed: parts[0].Crossed})
			size = 0
		}
		last := parts[len(parts)-1]
		last.Orphans = append(last.Orphans, r)
		size += r.size()
	}
	out := make([]Up, len(parts))
	for i, w := range parts {
		w.Part, w.Parts = i, len(parts)
		out[i] = w
	}
	return out
}

// Tick lets time pass: retries, patience, the lease, stamps that are no longer ahead.
func (im *Importer) Tick(now time.Time) Ready {
	var rd Ready
	if !im.stale && now.Sub(im.lastFresh) >= StaleAfter {
		im.stale, rd.StatusChanged = true, true
	}
	if !im.recheck.IsZero() && !now.Before(im.recheck) {
		im.reconsider(now, &rd)
	}
	if im.phase == phaseIdle || im.phase == phaseLeaving {
		return rd
	}
	switch {
	case now.Sub(im.lastMessage) >= SilentAfter:
		im.phase, rd.Redial, rd.StatusChanged = phaseLeaving, "silent", true
	case im.server != im.cfg.Owner && now.Sub(im.lastFresh) >= SilentAfter && now.Sub(im.connected) >= SilentAfter:
		// A holder that has lost the owner itself: staying would let siblings feed each
		// other in a circle, each in sync with the other and nobody with the owner.
		im.phase, rd.Redial, rd.StatusChanged = phaseLeaving, "stale-holder", true
	case !im.patienceUntil.IsZero() && !now.Before(im.patienceUntil):
		im.leave(&rd, AlarmBehind, string(im.server), "did not catch up")
	case (im.phase == phaseSync || im.inBatch) && !now.Before(im.retryAt):
		im.retry = min(2*im.retry, retryMax)
		im.resync(now, &rd)
	}
	return rd
}

// reconsider judges again what was refused for its stamp.
func (im *Importer) reconsider(now time.Time, rd *Ready) {
	im.recheck = time.Time{}
	old := im.inForce
	var set []*Resource
	var gone []Name
	for _, n := range slices.SortedFunc(maps.Keys(im.refused), Name.Compare) {
		if r := im.stated.Get(n); r != nil && im.heldOver[n] == nil {
			set, gone = im.sort(now, rd, r, set, gone)
		}
	}
	if len(set) > 0 || len(gone) > 0 {
		im.inForce = im.inForce.With(set, gone)
		im.emit(rd, old)
	}
}

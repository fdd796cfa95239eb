package replica

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// What an importer is told comes in by these steps: listed, staged, proven by its root, and then in force as a whole.

func (im *Importer) stagedLists() (set []*Resource, removed []Name) {
	for n, r := range im.staged {
		if r == nil {
			removed = append(removed, n)
		} else {
			set = append(set, r)
		}
	}
	return set, removed
}

func (im *Importer) onEnumerate(rd *Ready, m *Enumerate) {
	if m.Sync != im.sync {
		return
	}
	if len(m.Buckets) > Buckets {
		im.leave(rd, AlarmMalformed, string(im.server), "enumerates more buckets than there are")
		return
	}
	have := im.Have()
	part, size := &Versions{Sync: m.Sync}, 0
	for _, b := range m.Buckets {
		held, cost := have.held(b), 0
		for _, h := range held {
			cost += len(h.Kind) + len(h.Namespace) + len(h.Name.Name) + 32
		}
		if cost > MaxResponse {
			held, cost = nil, 0 // sent whole, rather than a message above the bound
		}
		if size+cost > MaxResponse {
			rd.Send = append(rd.Send, part)
			part, size = &Versions{Sync: m.Sync}, 0
		}
		part.Buckets = append(part.Buckets, b)
		part.Held = append(part.Held, held...)
		size += cost
	}
	rd.Send = append(rd.Send, part)
}

func (im *Importer) onResponse(now time.Time, rd *Ready, m *Response) {
	if m.Sync != im.sync {
		return
	}
	if im.inBatch && m.Position != im.target {
		im.refuse(rd, m, AlarmMalformed, "position changes within a batch")
		return
	}
	if c := m.Position.Compare(im.stated.Position); c < 0 && im.cfg.Without&DefencePosition == 0 {
		im.refuse(rd, m, AlarmRegressed, fmt.Sprintf("sent %s:%d, known %s:%d", m.Position.Epoch, m.Position.Revision,
			im.stated.Position.Epoch, im.stated.Position.Revision))
		return
	}
	if im.future(now, m.Position.Epoch) {
		im.refuse(rd, m, AlarmFuture, "epoch "+m.Position.Epoch.String())
		return
	}
	if kind, detail := im.stage(m); kind != "" {
		im.refuse(rd, m, kind, detail)
		return
	}
	im.inBatch, im.target, im.lastNonce = true, m.Position, m.Nonce
	im.retryAt = now.Add(im.retry)
	if !m.Last && im.cfg.Without&DefenceBatch == 0 {
		rd.Send = append(rd.Send, &Ack{Sync: m.Sync, Nonce: m.Nonce})
		return
	}
	im.commit(now, rd, m)
}

// stage checks the message as a whole before it keeps any part of it.
func (im *Importer) stage(m *Response) (AlarmKind, string) {
	if len(m.Set) > MaxNames || len(m.Removed) > MaxNames || len(m.Lineage) > maxEpochs {
		return AlarmMalformed, fmt.Sprintf("response of %d and %d names", len(m.Set), len(m.Removed))
	}
	size := 0
	for _, r := range m.Set {
		if r == nil {
			return AlarmMalformed, "empty resource"
		}
		if err := r.check(); err != nil {
			return AlarmMalformed, err.Error()
		}
		size += r.size()
	}
	for _, n := range m.Removed {
		if err := n.check(); err != nil {
			return AlarmMalformed, err.Error()
		}
	}
	if size > 2*MaxResponse {
		return AlarmTooLarge, fmt.Sprintf("response of %d bytes", size)
	}
	lim := im.cfg.Limits
	if len(im.staged)+len(m.Set) > 2*lim.Resources || len(im.staged)+len(m.Removed) > 2*lim.Resources || im.stagedBytes+size > lim.Bytes {
		return AlarmTooLarge, fmt.Sprintf("batch of more than %d resources or %d bytes", 2*lim.Resources, lim.Bytes)
	}
	im.stagedBytes += size
	for _, r := range m.Set {
		im.staged[r.Name] = r
	}
	for _, n := range m.Removed {
		im.staged[n] = nil
	}
	return "", ""
}

// commit puts a complete batch in force, if its root proves that it is what the owner
// stated; otherwise something was missed, and digests find it.
func (im *Importer) commit(now time.Time, rd *Ready, m *Response) {
	set, removed := im.stagedLists()
	next := im.stated.Next(set, removed, m.Position, m.Lineage)
	if im.cfg.Without&DefenceDigest == 0 && next.Root() != m.Root && (m.Last || im.cfg.Without&DefenceBatch == 0) {
		rd.Alarms = append(rd.Alarms, Alarm{AlarmDiverged, string(im.cfg.Owner), fmt.Sprintf("root %s, stated %s", next.Root(), m.Root)})
		if im.diverged++; im.diverged > 2 {
			im.unstage()
			im.leave(rd, AlarmDiverged, string(im.server), "three times in a row")
			return
		}
		im.resync(now, rd)
		return
	}
	if lim := im.cfg.Limits; next.Len() > lim.Resources || next.Bytes() > lim.Bytes {
		im.refuse(rd, m, AlarmTooLarge, fmt.Sprintf("%d resources, %d bytes: at most %d, %d", next.Len(), next.Bytes(), lim.Resources, lim.Bytes))
		return
	}
	im.unstage()
	im.replace(now, rd, next)
	if m.Last {
		im.inBatch, im.diverged, im.retry = false, 0, retryFirst
		im.patienceUntil = time.Time{}
		rd.StatusChanged = rd.StatusChanged || im.phase != phaseFollow
		im.phase = phaseFollow
	}
	rd.Send = append(rd.Send, &Ack{Sync: m.Sync, Nonce: m.Nonce, Refused: im.refusals()})
	im.witness(now, rd)
}

func (im *Importer) unstage() {
	im.staged, im.stagedBytes = map[Name]*Resource{}, 0
}

// replace makes next the stated partition and derives what is in force.
func (im *Importer) replace(now time.Time, rd *Ready, next *Partition) {
	prev, old := im.stated, im.inForce
	im.stated = next
	im.cross(rd, prev, next)
	changed, removed := Diff(prev, next)
	var set []*Resource
	var gone []Name
	for _, r := range changed {
		if good, held := im.heldOver[r.Name]; held {
			if good.Stamp.Compare(r.Stamp) > 0 {
				continue // the lost history knew a later one
			}
			delete(im.heldOver, r.Name)
		}
		set, gone = im.sort(now, rd, r, set, gone)
	}
	for _, n := range removed {
		if _, held := im.heldOver[n]; held && prev.Position.Epoch != next.Position.Epoch {
			continue
		}
		delete(im.heldOver, n)
		delete(im.refused, n)
		gone = append(gone, n)
	}
	im.inForce = old.Next(set, gone, next.Position, next.Lineage)
	im.release(now, rd)
	im.emit(rd, old)
}

// cross notes that a history ended: what we knew of it is now ours to witness, and
// its policies that the next one lacks, or has only an earlier version of, stay.
func (im *Importer) cross(rd *Ready, prev, next *Partition) {
	if prev.Position.Epoch == next.Position.Epoch || prev.Position == (mesh.Position{}) || im.cfg.Without&DefenceHoldOver != 0 {
		return
	}
	if next.Lineage.Knows(prev.Position) && next.Lineage.Covers(im.crossed) {
		return
	}
	im.crossed = im.crossed.Union(prev.Lineage).Union(Lineage{prev.Position.Epoch: prev.Position.Revision})
	for r := range prev.All() {
		if n := next.Get(r.Name); r.Gone && (n == nil || n.Stamp.Compare(r.Stamp) < 0) {
			im.pass(r) // a deletion that may have been lost is witnessed as well
		}
	}
	before := len(im.heldOver)
	for r := range im.inForce.All() {
		if !Tightens(r.Kind) {
			continue
		}
		if n := next.Get(r.Name); n == nil || n.Stamp.Compare(r.Stamp) < 0 {
			im.heldOver[r.Name] = r
		}
	}
	if n := len(im.heldOver); n > before {
		rd.Alarms = append(rd.Alarms, Alarm{AlarmHeldOver, string(im.cfg.Owner), fmt.Sprintf("%d policies of epoch %s", n, prev.Position.Epoch)})
	}
}

// release ends the holding-over once the owner has taken into account all that we
// knew: from then on its absences mean deletion again.
func (im *Importer) release(now time.Time, rd *Ready) {
	if im.stated.Lineage.Covers(im.passedCrossed) && im.stated.Lineage.Covers(im.crossed) {
		im.passedCrossed, im.passed = Lineage{}, map[Name]*Resource{}
	}
	if len(im.crossed) == 0 || !im.stated.Lineage.Covers(im.crossed) {
		return
	}
	var set []*Resource
	var gone []Name
	for n := range im.heldOver {
		if r := im.stated.Get(n); r == nil {
			gone = append(gone, n)
		} else {
			set, gone = im.sort(now, rd, r, set, gone)
		}
	}
	clear(im.heldOver)
	im.crossed = Lineage{}
	im.inForce = im.inForce.With(set, gone)
}

// emit turns the change since old into an Edit and an image to save.
func (im *Importer) emit(rd *Ready, old *Partition) {
	set, removed := Diff(old, im.inForce)
	rd.Edit = &Edit{Owner: im.cfg.Owner, Set: set, Removed: removed, InForce: im.inForce}
	rd.Save = &Saved{Stated: im.stated, InForce: im.inForce, Crossed: maps.Clone(im.crossed)}
}

// sort appends an admitted resource to what comes into force or to what leaves it.
func (im *Importer) sort(now time.Time, rd *Ready, r *Resource, set []*Resource, gone []Name) ([]*Resource, []Name) {
	switch {
	case !im.admit(now, rd, r):
	case r.Gone:
		gone = append(gone, r.Name)
	default:
		set = append(set, r)
	}
	return set, gone
}

// admit decides whether a stated resource comes into force, and notes why not.
func (im *Importer) admit(now time.Time, rd *Ready, r *Resource) bool {
	kind, reason := im.judge(now, r)
	if kind == "" {
		delete(im.refused, r.Name)
		return true
	}
	if im.refused[r.Name] != reason {
		rd.Alarms = append(rd.Alarms, Alarm{kind, r.Name.Key(im.cfg.Owner).String(), reason})
	}
	im.refused[r.Name] = reason
	return false
}

func (im *Importer) judge(now time.Time, r *Resource) (AlarmKind, string) {
	owner := im.cfg.Owner
	switch {
	case !Travels(r.Kind):
		return AlarmForeign, "facts of this kind do not travel"
	case r.Stamp.Origin != owner && r.Stamp != mesh.Stamp{}:
		return AlarmForeign, "stamped by " + string(r.Stamp.Origin)
	case r.Kind == mesh.KindCluster && r.Name.Name != string(owner),
		r.Kind == mesh.KindBundle && r.Name.Name != string(im.cfg.TrustDomain):
		return AlarmForeign, "a cluster states itself and its own trust domain only"
	}
	if ahead := time.UnixMilli(r.Stamp.WallMillis).Sub(now); ahead > mesh.MaxStampAhead {
		until := now.Add(ahead - mesh.MaxStampAhead)
		if im.recheck.IsZero() || until.Before(im.recheck) {
			im.recheck = until
		}
		return AlarmFuture, "stamped more than " + mesh.MaxStampAhead.String() + " ahead of our clock"
	}
	if im.cfg.Check != nil && !r.Gone {
		if err := im.cfg.Check(r); err != nil {
			return AlarmInvalid, err.Error()
		}
	}
	return "", ""
}

// refusals are at most 16, sorted: enough for a status.
func (im *Importer) refusals() []Refusal {
	if len(im.refused) == 0 {
		return nil
	}
	names := slices.SortedFunc(maps.Keys(im.refused), Name.Compare)
	out := make([]Refusal, 0, 16)
	for _, n := range names[:min(16, len(names))] {
		out = append(out, Refusal{n, im.refused[n]})
	}
	return out
}

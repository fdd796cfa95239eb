//house:exempt state machine

package replica

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Defence names a rule of the Importer, so that a simulation's control run can
// switch it off and show that a checker then complains. Product code leaves
// ImporterConfig.Without zero.
type Defence uint8

// The defences.
const (
	// DefencePosition refuses positions before the known one.
	DefencePosition Defence = 1 << iota
	// DefenceSequence notices gaps within a stream.
	DefenceSequence
	// DefenceDigest compares roots at the end of batches and at heartbeats.
	DefenceDigest
	// DefenceBatch stages a batch until its last message.
	DefenceBatch
	// DefenceLastGood keeps a partition whose link is lost.
	DefenceLastGood
	// DefenceHoldOver keeps the policies of a history that restarted.
	DefenceHoldOver
	// DefenceCrossed remembers over a restart which histories ended.
	DefenceCrossed
)

// ImporterConfig says whose facts to keep and whom to believe.
type ImporterConfig struct {
	Owner mesh.ClusterName
	// TrustDomain is the owner's; a Hello must state it.
	TrustDomain mesh.TrustDomain
	// Holders are the clusters beside the owner whose control planes may re-serve the
	// partition: our own, and a relay's primaries.
	Holders []mesh.ClusterName
	Limits  Limits
	// Check judges a resource that the protocol found sound, such as by decoding it
	// and comparing the trust domains within; nil accepts. A refused resource leaves
	// the last good one of its name in force.
	Check func(*Resource) error
	// Build is what this process is built as; the zero Build speaks Protocols.
	Build skew.Build
	// Without is for control runs of simulations.
	Without Defence
}

// Saved is what an Importer writes to its cache on disk, and starts from. Losing it
// costs a transfer; an old one costs the difference.
type Saved struct {
	// Stated is what the owner said, InForce what is acted upon: they differ by refused
	// resources and by policies held over.
	Stated, InForce *Partition
	// Crossed are the histories whose end we lived through and whose policies are held
	// over, see Importer.
	Crossed Lineage
}

// Edit replaces the owner's partition in the world, in one step.
type Edit struct {
	Owner   mesh.ClusterName
	Set     []*Resource
	Removed []Name
	// InForce is the whole partition after the edit.
	InForce *Partition
}

// Redial tells the driver to leave the session and, unless it is empty, why. The
// driver tries another replica or a holder, with its own back-off.
type Redial string

// Ready is what an Importer wants done. Nothing in it may be changed.
type Ready struct {
	// Edit, when not nil, is applied before anything of it is acknowledged: Send
	// after applying.
	Edit *Edit
	// Send goes to the session's exporter in this order.
	Send []Up
	// Save, when not nil, supersedes what was saved before; it may be written late.
	Save *Saved
	// Report is the newest load report, when one came.
	Report []byte
	Alarms []Alarm
	Redial Redial
	// Status changed: see Importer.Status.
	StatusChanged bool
}

// Status is what is known about the link and the age of the partition.
type Status struct {
	Session   uint64 // 0 when there is none
	Server    mesh.ClusterName
	InSync    bool
	Stale     bool
	LastFresh time.Time // when the owner was last heard, by our clock; zero for never
	Position  mesh.Position
	HeldOver  int // policies of a lost history in force
	Refused   int // resources stated but not in force
	// Protocol is the one spoken in this session, 0 before it is; Version and Capabilities are what the owner last said of
	// itself ("" where its protocol says nothing).
	Protocol     int
	Version      string
	Capabilities []string
	// Skew says why the last session was left for the versions of the two ends, and what to upgrade first.
	Skew string
}

type phase uint8

const (
	phaseIdle    phase = iota // no session
	phaseHello                // waiting for Hello
	phaseSync                 // subscribed, no answer complete yet
	phaseFollow               // in sync, following changes
	phaseLeaving              // asked to redial; deaf until the driver disconnects
)

// Importer keeps the partition of one owner cluster. It is not safe for concurrent
// use: one goroutine owns it.
//
// Its state is two partitions. "stated" is exactly what the owner last stated,
// proven by its root; digests are taken over it. "inForce" is what the world acts
// upon: stated, except that a refused resource leaves its last good version, and that
// policies of a history that ended are held over until the owner's lineage covers
// what we knew of that history ("crossed").
type Importer struct {
	cfg ImporterConfig

	stated, inForce *Partition
	crossed         Lineage
	heldOver        map[Name]*Resource
	passedCrossed   Lineage // of those whom we re-serve, on its way to the owner
	passed          map[Name]*Resource
	refused         map[Name]string
	recheck         time.Time // when a refusal for a stamp ahead may end

	session, seq uint64
	server       mesh.ClusterName
	phase        phase
	sync         uint64 // survives sessions, so that no answer fits twice
	lastNonce    uint64
	staged       map[Name]*Resource // nil value: removal
	stagedBytes  int
	target       mesh.Position // position of the batch under way
	inBatch      bool
	diverged     int // resyncs in a row that ended in another root

	// beat is the owner's newest of this session, 0 for none yet; beatBefore is the last one of a session before.
	beat, beatBefore                    int64
	witnessID                           uint64
	lastFresh, lastMessage, connected   time.Time
	retryAt, patienceUntil, witnessNext time.Time
	retry                               time.Duration
	stale                               bool

	// What was negotiated, and why it could not be.
	protocol      int
	version, skew string
	capabilities  []string
}

// NewImporter starts from what was saved, nil for nothing. Saved state of another
// owner is ignored.
func NewImporter(cfg ImporterConfig, saved *Saved) *Importer {
	cfg.Limits = cfg.Limits.orDefault()
	im := &Importer{cfg: cfg, stale: true}
	im.forget()
	if saved != nil && saved.Stated.Owner == cfg.Owner && saved.InForce.Owner == cfg.Owner {
		im.stated, im.inForce = saved.Stated, saved.InForce
		if cfg.Without&DefenceCrossed == 0 {
			im.crossed = saved.Crossed.Union(nil)
		}
		im.restore()
	}
	return im
}

func (im *Importer) forget() {
	im.stated, im.inForce = NewPartition(im.cfg.Owner), NewPartition(im.cfg.Owner)
	im.crossed, im.heldOver, im.refused = Lineage{}, map[Name]*Resource{}, map[Name]string{}
	im.passedCrossed, im.passed = Lineage{}, map[Name]*Resource{}
	im.staged = map[Name]*Resource{}
}

// restore rebuilds what follows from the two partitions: a name in force that is not
// stated is held over, and so is one in force with a later stamp than stated.
func (im *Importer) restore() {
	set, removed := Diff(im.inForce, im.stated)
	for _, n := range removed {
		im.heldOver[n] = im.inForce.Get(n)
	}
	for _, r := range set {
		if r.Gone && im.inForce.Get(r.Name) == nil {
			continue
		}
		if good := im.inForce.Get(r.Name); good != nil && len(im.crossed) > 0 && Tightens(r.Kind) && good.Stamp.Compare(r.Stamp) > 0 {
			im.heldOver[r.Name] = good
			continue
		}
		im.refused[r.Name] = "refused before the restart"
		im.recheck = time.Unix(0, 0) // judged again at the first Tick
	}
}

// InForce is the partition that the world acts upon.
func (im *Importer) InForce() *Partition { return im.inForce }

// Stated is the partition as its owner stated it: what is re-served to siblings.
func (im *Importer) Stated() *Partition { return im.stated }

// Beat is the owner's newest beat of this session, to pass on when re-serving; 0 for none yet.
func (im *Importer) Beat() int64 { return im.beat }

// Refusals says of resources that are stated and not in force why; nil for none.
func (im *Importer) Refusals() map[Name]string {
	if len(im.refused) == 0 {
		return nil
	}
	return maps.Clone(im.refused)
}

// Status tells how the link stands.
func (im *Importer) Status() Status {
	return Status{Session: im.session, Server: im.server, InSync: im.phase == phaseFollow && !im.inBatch, Stale: im.stale,
		LastFresh: im.lastFresh, Position: im.stated.Position, HeldOver: len(im.heldOver), Refused: len(im.refused),
		Protocol: im.protocol, Version: im.version, Capabilities: im.capabilities, Skew: im.skew}
}

// Knowledge is how much a state knows of one owner: the position that it is of, and
// how far it knew the histories before, as long as it holds policies of them over. A
// position alone would not say that: of two replicas at one position the one that
// crossed later holds more.
type Knowledge struct {
	Position mesh.Position
	Crossed  Lineage
}

// Knowledge is what somebody has who takes what is in force: a proxy keeps it and
// shows it to the next replica.
func (im *Importer) Knowledge() Knowledge {
	return Knowledge{im.stated.Position, maps.Clone(im.crossed)}
}

// Covers reports whether what is in force takes into account all that somebody with
// the knowledge may have held: a replica serves a proxy only then. Across epochs it
// is so when we crossed from at least there ourselves, or the owner's lineage says so.
func (im *Importer) Covers(k Knowledge) bool {
	if im.cfg.Without&DefencePosition != 0 {
		return true
	}
	for e, r := range k.Crossed {
		if !im.knows(mesh.Position{Epoch: e, Revision: r}) {
			return false
		}
	}
	return im.knows(k.Position)
}

func (im *Importer) knows(p mesh.Position) bool {
	switch {
	case p == mesh.Position{}:
		return true
	case p.Epoch == im.stated.Position.Epoch:
		return p.Revision <= im.stated.Position.Revision
	}
	return im.stated.Lineage.Knows(p) || im.crossed.Knows(p)
}

// Connect begins a session with a server that mTLS has proven to be of the given
// cluster. An older session is superseded; its messages are ignored.
func (im *Importer) Connect(now time.Time, session uint64, server mesh.ClusterName) Ready {
	var rd Ready
	im.session, im.server, im.seq = session, server, 0
	if im.beat != 0 {
		im.beatBefore, im.beat = im.beat, 0
	}
	im.phase, im.inBatch, im.lastNonce, im.diverged = phaseHello, false, 0, 0
	im.lastMessage, im.connected, im.retry = now, now, retryFirst
	im.retryAt, im.patienceUntil, im.witnessNext = now.Add(SilentAfter), time.Time{}, now
	rd.StatusChanged = true
	if server != im.cfg.Owner && !slices.Contains(im.cfg.Holders, server) {
		im.leave(&rd, AlarmImpostor, string(server), "may not speak for "+string(im.cfg.Owner))
	}
	return rd
}

// Disconnect ends a session. The partition stays in force and what was staged stays
// staged, so that the next session continues with the difference.
func (im *Importer) Disconnect(now time.Time, session uint64) Ready {
	var rd Ready
	if session != im.session || session == 0 {
		return rd
	}
	im.session, im.phase, im.inBatch, im.protocol = 0, phaseIdle, false, 0
	rd.StatusChanged = true
	if im.cfg.Without&DefenceLastGood != 0 {
		old := im.inForce
		im.forget()
		im.emit(&rd, old)
	}
	return rd
}

// Step takes a message of a session. Messages of other sessions are ignored.
func (im *Importer) Step(now time.Time, session uint64, m Down) Ready {
	var rd Ready
	if session != im.session || im.phase == phaseIdle || im.phase == phaseLeaving {
		return rd
	}
	im.lastMessage = now
	if m.sequence() != im.seq+1 && im.cfg.Without&DefenceSequence == 0 {
		im.gap(now, &rd, m)
		return rd
	}
	im.seq = m.sequence()
	hello, isHello := m.(*Hello)
	if isHello != (im.phase == phaseHello) {
		im.leave(&rd, AlarmMalformed, string(im.server), "hello out of place")
		return rd
	}
	switch m := m.(type) {
	case *Hello:
		im.onHello(now, &rd, hello)
	case *Response:
		im.onResponse(now, &rd, m)
	case *Enumerate:
		im.onEnumerate(&rd, m)
	case *Heartbeat:
		im.onHeartbeat(now, &rd, m)
	default:
		im.leave(&rd, AlarmMalformed, string(im.server), "unknown message")
	}
	return rd
}

// gap handles a break in the stream's sequence: what is missing is unknown, so both
// sides start again from digests.
func (im *Importer) gap(now time.Time, rd *Ready, m Down) {
	if im.phase == phaseHello {
		im.leave(rd, AlarmMalformed, string(im.server), "stream does not begin with hello")
		return
	}
	if m.sequence() <= im.seq {
		return // a copy or a straggler: what it could say is known or superseded
	}
	im.seq = m.sequence()
	im.resync(now, rd)
}

func (im *Importer) onHello(now time.Time, rd *Ready, m *Hello) {
	switch {
	case m.Server != im.server || m.Owner != im.cfg.Owner || m.TrustDomain != im.cfg.TrustDomain:
		im.leave(rd, AlarmImpostor, string(im.server),
			fmt.Sprintf("says %s for %s (%s): want %s (%s)", m.Server, m.Owner, m.TrustDomain, im.cfg.Owner, im.cfg.TrustDomain))
		return
	case !im.negotiate(rd, m):
		return
	case im.future(now, m.Position.Epoch):
		im.leave(rd, AlarmFuture, string(im.server), "epoch "+m.Position.Epoch.String())
		return
	}
	if m.Server == im.cfg.Owner {
		im.fresh(now, rd)
	}
	if m.Position.Compare(im.stated.Position) < 0 {
		im.patienceUntil = now.Add(CatchUp)
	}
	im.resync(now, rd)
}

// negotiate finds the protocol to speak, or leaves with what is to be upgraded first.
func (im *Importer) negotiate(rd *Ready, m *Hello) bool {
	speaks, version := im.cfg.Build.Speaks(Protocols()), skew.Parse(im.cfg.Build.Version)
	theirs := skew.Range{Min: m.Protocol, Max: max(m.Protocol, m.Newest)}
	im.version, im.capabilities = words(m.Version, m.Capabilities)
	if speaks.Max < ProtocolVersions { // such a build reads nothing of that
		theirs.Max, im.version, im.capabilities = m.Protocol, "", nil
	}
	them, w := "cluster "+string(im.cfg.Owner), skew.Parse(im.version)
	var common bool
	if im.protocol, common = speaks.Common(theirs); !common {
		im.skew = skew.Refuse("this control plane", speaks, version, them, theirs, w)
	} else if !skew.Served(skew.ControlPlane, version, skew.ControlPlane, w) {
		im.skew = skew.Apart("this control plane", version, them, w)
	} else {
		im.skew = ""
		return true
	}
	im.protocol = 0
	im.leave(rd, AlarmVersion, string(im.server), im.skew)
	return false
}

// future reports whether an epoch was made so far ahead of our clock that believing
// it would shut out every honest one after it.
func (im *Importer) future(now time.Time, e mesh.Epoch) bool {
	return e.StartMillis > now.Add(mesh.MaxStampAhead).UnixMilli()
}

// resync subscribes anew with the digests of all that is here.
func (im *Importer) resync(now time.Time, rd *Ready) {
	im.sync++
	im.phase, im.inBatch = phaseSync, false
	im.retryAt = now.Add(im.retry)
	have := im.Have()
	s := &Subscribe{Protocol: im.protocol, Sync: im.sync, Known: im.stated.Position, Root: have.Root(), Digests: have.Digests()}
	if im.protocol >= ProtocolVersions {
		s.Capabilities, s.Version = Capabilities(), im.cfg.Build.Version
	}
	rd.Send = append(rd.Send, s)
}

// Have is what need not be sent again: stated, with what is staged on top.
func (im *Importer) Have() *Partition {
	set, removed := im.stagedLists()
	return im.stated.With(set, removed)
}

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

// maxPassed bounds what others may have us pass on.
const maxPassed = 4096

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

// refuse drops a batch as a whole, says so, and asks for another replica.
func (im *Importer) refuse(rd *Ready, m *Response, kind AlarmKind, detail string) {
	im.unstage()
	rd.Send = append(rd.Send, &Ack{Sync: m.Sync, Nonce: m.Nonce, Error: string(kind) + ": " + detail})
	im.leave(rd, kind, string(im.server), detail)
}

func (im *Importer) leave(rd *Ready, kind AlarmKind, subject, detail string) {
	im.phase, im.inBatch = phaseLeaving, false
	rd.Alarms = append(rd.Alarms, Alarm{kind, subject, detail})
	rd.Redial = Redial(kind)
	rd.StatusChanged = true
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

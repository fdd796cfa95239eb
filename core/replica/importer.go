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

// maxPassed bounds what others may have us pass on.
const maxPassed = 4096

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

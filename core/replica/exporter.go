//house:exempt state machine

package replica

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ExporterConfig says who speaks for whom.
type ExporterConfig struct {
	// Server is the cluster that this process belongs to, Owner the one whose
	// partition is served, TrustDomain the owner's.
	Server, Owner mesh.ClusterName
	TrustDomain   mesh.TrustDomain
	// Build is what this process is built as; the zero Build speaks Protocols.
	Build skew.Build
	// Version is the owner's, where that is not this build's: who re-serves passes it on.
	Version string
	// Limits bound what a peer may claim to hold.
	Limits Limits
	// ResponseBytes is the most that is unacknowledged; default and maximum MaxResponse.
	ResponseBytes int
}

// Out is what an Exporter wants done.
type Out struct {
	// Send goes to the importer in this order.
	Send []Down
	// Ahead, when not nil, is a position of the owner's history that the peer knows and
	// this replica does not. The owner's driver asks its store by a linearizable read: if
	// the store itself is behind, its history was rolled back and a new epoch must
	// begin; otherwise this replica merely lags. Histories roll back when a store
	// restarts, so a driver believes peers in the minutes after that only: at any other
	// time the claim is a lie, and an alarm. A re-server ignores it.
	Ahead *mesh.Position
	// Witness, when not nil, is what the peer holds over from an earlier epoch. The owner's
	// driver, if it believes the peer, writes the orphans that its store lacks and has not
	// deleted since, with the lineage, in one transaction; if it does not, it asks a
	// person. A re-server hands it to Importer.Pass.
	Witness *Witness
	Refused []Refusal
	Alarms  []Alarm
	// Close ends the stream, with the reason.
	Close string
}

type stage uint8

const (
	stageWait     stage = iota // no usable subscription yet
	stageVersions              // asked for versions
	stageBehind                // the peer knows more than we do
	stageFollow                // the peer holds base; a batch may be under way
)

// Exporter serves one partition to one peer. It is not safe for concurrent use.
//
// It keeps no list of what the peer has: once a batch is acknowledged the peer has
// exactly an earlier Partition ("base"), and the next batch is the difference to the
// newest. So coalescing costs nothing, a slow peer skips to the newest, and what a
// peer costs is a pointer. At most one response is unacknowledged.
type Exporter struct {
	cfg    ExporterConfig
	newest *Partition

	seq, nonce, awaiting, sync uint64
	stage                      stage
	known                      mesh.Position
	base                       *Partition // what the peer holds when settled
	asked                      *Partition // whose digests Enumerate compared, during stageVersions
	buckets                    map[uint8]bool
	held                       map[uint8][]Held
	heldCount                  int
	batch                      *batch
	nextBeat                   time.Time
	news                       bool // the report has not been sent
	beat                       int64
	report                     []byte
	witness                    []*Witness
	sent                       int
	// What the importer said of itself.
	protocol     int
	peerVersion  string
	capabilities []string
}

// batch is a difference on its way.
type batch struct {
	target  *Partition
	set     []*Resource
	removed []Name
}

// NewExporter serves the partition, which may be empty but not nil.
func NewExporter(cfg ExporterConfig, p *Partition) *Exporter {
	cfg.Limits = cfg.Limits.orDefault()
	if cfg.ResponseBytes <= 0 || cfg.ResponseBytes > MaxResponse {
		cfg.ResponseBytes = MaxResponse
	}
	return &Exporter{cfg: cfg, newest: p}
}

// Open greets the importer.
func (ex *Exporter) Open(now time.Time) Out {
	var o Out
	ex.nextBeat = now
	speaks := ex.cfg.Build.Speaks(Protocols())
	h := &Hello{Protocol: speaks.Min, Server: ex.cfg.Server, Owner: ex.cfg.Owner, TrustDomain: ex.cfg.TrustDomain, Position: ex.newest.Position}
	if speaks.Max >= ProtocolVersions {
		h.Newest, h.Capabilities, h.Version = speaks.Max, Capabilities(), cmp.Or(ex.cfg.Version, ex.cfg.Build.Version)
	}
	ex.send(&o, h)
	return o
}

// Peer is what the importer said of itself: the protocol that is spoken, 0 before it is, its version and capabilities.
func (ex *Exporter) Peer() (protocol int, version string, capabilities []string) {
	return ex.protocol, ex.peerVersion, ex.capabilities
}

// negotiate takes what the importer says of itself, or closes the stream with what is to be upgraded first.
func (ex *Exporter) negotiate(o *Out, m *Subscribe) bool {
	speaks, version := ex.cfg.Build.Speaks(Protocols()), skew.Parse(ex.cfg.Build.Version)
	theirs, capabilities := words(m.Version, m.Capabilities)
	if m.Protocol < speaks.Min || m.Protocol > speaks.Max {
		o.Close = skew.Refuse("cluster "+string(ex.cfg.Server), speaks, version, "the peer", skew.Range{Min: m.Protocol, Max: m.Protocol}, skew.Parse(theirs))
		return false
	}
	if w := skew.Parse(theirs); !skew.Served(skew.ControlPlane, version, skew.ControlPlane, w) {
		o.Close = skew.Apart("cluster "+string(ex.cfg.Server), version, "the peer", w)
		return false
	}
	ex.protocol, ex.peerVersion, ex.capabilities = m.Protocol, theirs, capabilities
	return true
}

// reports says whether the importer takes load reports.
func (ex *Exporter) reports() bool {
	return ex.protocol < ProtocolVersions || slices.Contains(ex.capabilities, CapabilityReports)
}

// Publish offers a newer state. One before the newest is ignored: a replica that
// fell behind itself has nothing to say.
func (ex *Exporter) Publish(p *Partition) Out {
	var o Out
	if p.Position.Compare(ex.newest.Position) < 0 {
		return o
	}
	ex.newest = p
	ex.advance(&o)
	return o
}

// SetReport sets the load report of the next heartbeats; the latest wins. One that is news brings the next heartbeat
// forward, by half of its period at most.
func (ex *Exporter) SetReport(b []byte) {
	if len(b) > MaxReport {
		b = nil // nobody would take it
	}
	ex.news = ex.news || !bytes.Equal(b, ex.report)
	ex.report = b
}

// SetBeat passes on the owner's beat, for those who re-serve. An owner's own
// exporter beats by its clock.
func (ex *Exporter) SetBeat(beat int64) { ex.beat = beat }

// Sent is the number of resources stated and names removed on this stream so far.
func (ex *Exporter) Sent() int { return ex.sent }

// Settled reports whether the peer has acknowledged the newest state.
func (ex *Exporter) Settled() bool {
	return ex.stage == stageFollow && ex.batch == nil && ex.same()
}

// same reports whether base says all that newest does but for the revision.
func (ex *Exporter) same() bool {
	return ex.base == ex.newest || ex.base.Position.Epoch == ex.newest.Position.Epoch && ex.base.Root() == ex.newest.Root()
}

// Tick sends heartbeats.
func (ex *Exporter) Tick(now time.Time) Out {
	var o Out
	due := ex.nextBeat
	if ex.news {
		due = due.Add(-HeartbeatEvery / 2)
	}
	if now.Before(due) {
		return o
	}
	ex.nextBeat, ex.news = now.Add(HeartbeatEvery), false
	if ex.cfg.Server == ex.cfg.Owner {
		ex.beat = now.UnixMilli()
	}
	hb := &Heartbeat{Beat: ex.beat, Position: ex.newest.Position, Awaiting: ex.awaiting}
	if ex.reports() {
		hb.Report = ex.report
	}
	if ex.Settled() {
		hb.Settled, hb.Root = true, ex.newest.Root()
	}
	ex.send(&o, hb)
	return o
}

// Step takes a message of the peer.
func (ex *Exporter) Step(m Up) Out {
	var o Out
	switch m := m.(type) {
	case *Subscribe:
		ex.onSubscribe(&o, m)
	case *Versions:
		ex.onVersions(&o, m)
	case *Ack:
		ex.onAck(&o, m)
	case *Witness:
		ex.onWitness(&o, m)
	default:
		o.Close = "unknown message"
	}
	return o
}

func (ex *Exporter) onSubscribe(o *Out, m *Subscribe) {
	if !ex.negotiate(o, m) {
		return
	}
	if m.Sync <= ex.sync {
		return // a straggler
	}
	ex.sync, ex.known = m.Sync, m.Known
	ex.batch, ex.awaiting, ex.base, ex.held, ex.heldCount = nil, 0, nil, nil, 0
	if ex.newest.Position.Compare(m.Known) < 0 {
		known := m.Known
		o.Ahead = &known
		o.Alarms = append(o.Alarms, Alarm{AlarmRolledBack, string(ex.cfg.Owner),
			fmt.Sprintf("a peer knows %s:%d, we are at %s:%d", known.Epoch, known.Revision, ex.newest.Position.Epoch, ex.newest.Position.Revision)})
	}
	if m.Root == ex.newest.Root() {
		ex.stage, ex.base = stageFollow, ex.newest
		ex.begin(o) // says that there is nothing to say
		return
	}
	var differ []uint8
	for i, d := range ex.newest.Digests() {
		if d != m.Digests[i] {
			differ = append(differ, uint8(i))
		}
	}
	ex.asked, ex.buckets, ex.held = ex.newest, map[uint8]bool{}, map[uint8][]Held{}
	// A bucket that the peer says is empty needs no enumeration.
	differ = slices.DeleteFunc(differ, func(b uint8) bool {
		if m.Digests[b] == (Digest{}) {
			ex.held[b] = nil
			return true
		}
		ex.buckets[b] = true
		return false
	})
	ex.stage = stageVersions
	if len(differ) == 0 {
		ex.resume(o)
		return
	}
	ex.send(o, &Enumerate{Sync: m.Sync, Buckets: differ})
}

func (ex *Exporter) onVersions(o *Out, m *Versions) {
	if ex.stage != stageVersions || m.Sync != ex.sync {
		return
	}
	if ex.heldCount += len(m.Held); ex.heldCount > 2*ex.cfg.Limits.Resources || len(m.Buckets) > Buckets {
		o.Close = "more versions than there may be resources"
		return
	}
	for _, b := range m.Buckets {
		if !ex.buckets[b] {
			continue
		}
		delete(ex.buckets, b)
		ex.held[b] = nil
	}
	for _, h := range m.Held {
		b := h.bucket()
		if _, asked := ex.held[b]; asked && slices.Contains(m.Buckets, b) && h.check() == nil {
			ex.held[b] = append(ex.held[b], h)
		}
	}
	if len(ex.buckets) == 0 {
		ex.resume(o)
	}
}

// resume turns what the peer said that it holds into the first batch: asked for the
// buckets that agreed, its own list for the others.
func (ex *Exporter) resume(o *Out) {
	if ex.newest.Position.Compare(ex.known) < 0 {
		ex.stage = stageBehind
		return
	}
	b := &batch{target: ex.newest}
	for i := range Buckets {
		held, listed := ex.held[uint8(i)]
		if !listed {
			if ex.asked.buckets[i] == ex.newest.buckets[i] {
				continue
			}
			held = ex.asked.held(uint8(i))
		}
		slices.SortFunc(held, func(a, b Held) int { return a.Name.Compare(b.Name) })
		held = slices.CompactFunc(held, func(a, b Held) bool { return a.Name == b.Name })
		b.set, b.removed = diffBucket(held, ex.newest.buckets[i], b.set, b.removed)
	}
	b.set, b.removed = order(b.set, b.removed)
	ex.asked, ex.buckets, ex.held, ex.heldCount = nil, nil, nil, 0
	ex.stage, ex.batch = stageFollow, b
	ex.next(o)
}

// advance sends what is new if nothing is on its way.
func (ex *Exporter) advance(o *Out) {
	switch {
	case ex.stage == stageBehind && ex.newest.Position.Compare(ex.known) >= 0:
		ex.resume(o)
	case ex.stage == stageFollow && ex.batch == nil && !ex.same():
		ex.begin(o)
	case ex.stage == stageFollow && ex.batch == nil:
		ex.base = ex.newest // only the revision moved: the heartbeat tells
	}
}

// begin starts the batch from base to newest, which may be empty. While the peer
// knows more than we do it waits: we catch up before we send.
func (ex *Exporter) begin(o *Out) {
	if ex.newest.Position.Compare(ex.known) < 0 {
		ex.asked, ex.held = ex.base, map[uint8][]Held{}
		ex.stage = stageBehind
		return
	}
	b := &batch{target: ex.newest}
	b.set, b.removed = Diff(ex.base, ex.newest)
	ex.batch = b
	ex.next(o)
}

// next sends the next response of the batch: additions first, then removals.
func (ex *Exporter) next(o *Out) {
	b := ex.batch
	m := &Response{Nonce: ex.nonce + 1, Sync: ex.sync, Position: b.target.Position}
	ex.nonce++
	n, size := 0, 0
	for n < len(b.set) && n < MaxNames && (n == 0 || size+b.set[n].size() <= ex.cfg.ResponseBytes) {
		size += b.set[n].size()
		n++
	}
	m.Set, b.set = b.set[:n:n], b.set[n:]
	if len(b.set) == 0 {
		n = 0
		for n < len(b.removed) && n < MaxNames && (n == 0 && len(m.Set) == 0 || size+400 <= ex.cfg.ResponseBytes) {
			size += 400 // more than the largest name
			n++
		}
		m.Removed, b.removed = b.removed[:n:n], b.removed[n:]
	}
	if m.Last = len(b.set) == 0 && len(b.removed) == 0; m.Last {
		m.Lineage, m.Root = b.target.Lineage, b.target.Root()
	}
	ex.sent += len(m.Set) + len(m.Removed)
	ex.awaiting = m.Nonce
	ex.send(o, m)
}

func (ex *Exporter) onAck(o *Out, m *Ack) {
	if m.Sync != ex.sync || m.Nonce != ex.awaiting || ex.awaiting == 0 || ex.batch == nil {
		return // of something superseded, or said twice
	}
	ex.awaiting = 0
	if m.Error != "" {
		ex.stage, ex.batch, ex.base = stageWait, nil, nil
		o.Alarms = append(o.Alarms, Alarm{AlarmRefused, string(ex.cfg.Owner), clip(m.Error)})
		return
	}
	if len(ex.batch.set) > 0 || len(ex.batch.removed) > 0 {
		ex.next(o)
		return
	}
	ex.base, ex.batch = ex.batch.target, nil
	ex.known = ex.base.Position
	o.Refused = m.Refused[:min(16, len(m.Refused))]
	ex.advance(o)
}

// onWitness gathers the parts of a witness; parts out of order start over.
func (ex *Exporter) onWitness(o *Out, m *Witness) {
	if m.Part == 0 {
		ex.witness = nil
	}
	if m.Parts < 1 || m.Parts > 64 || m.Part != len(ex.witness) || m.Part >= m.Parts || len(m.Crossed) > maxEpochs ||
		len(ex.witness) > 0 && ex.witness[0].ID != m.ID {
		ex.witness = nil
		return
	}
	size := 0
	for _, r := range m.Orphans {
		if r == nil || r.check() != nil || !Tightens(r.Kind) || r.Stamp.Origin != ex.cfg.Owner {
			ex.witness = nil
			o.Alarms = append(o.Alarms, Alarm{AlarmMalformed, string(ex.cfg.Owner), "witness"})
			return
		}
		if size += r.size(); size > 2*MaxResponse {
			ex.witness = nil
			return
		}
	}
	ex.witness = append(ex.witness, m)
	if len(ex.witness) < m.Parts {
		return
	}
	whole := &Witness{ID: m.ID, Parts: 1, Crossed: m.Crossed}
	for _, w := range ex.witness {
		whole.Orphans = append(whole.Orphans, w.Orphans...)
	}
	ex.witness, o.Witness = nil, whole
}

func (ex *Exporter) send(o *Out, m Down) {
	ex.seq++
	switch m := m.(type) {
	case *Hello:
		m.Seq = ex.seq
	case *Response:
		m.Seq = ex.seq
	case *Enumerate:
		m.Seq = ex.seq
	case *Heartbeat:
		m.Seq = ex.seq
	}
	o.Send = append(o.Send, m)
}

// clip bounds a text of a peer before it is shown.
func clip(s string) string { return s[:min(len(s), 256)] }

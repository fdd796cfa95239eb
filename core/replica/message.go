package replica

import (
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of the protocol. They hold for what is sent and for what is accepted.
const (
	// MaxResponse is the most that is unacknowledged on a stream, in bytes. A resource
	// larger than it would travel alone; MaxBody keeps that from happening.
	MaxResponse = 1 << 20
	// MaxBody is the largest body of a resource, in bytes. An object of the store has at
	// most 1 MiB; its canonical encoding must leave room for the envelope.
	MaxBody = MaxResponse - 4<<10
	// MaxNames is the most names in one Response, in either list.
	MaxNames = 16 << 10
	// MaxReport is the largest report beside the log, in bytes.
	MaxReport = 64 << 10
)

// Protocols of the federation, each the one before and more. It rises by one at most in a minor version, so that the two
// minor versions back are served by speaking two protocols back.
const (
	// ProtocolFirst has greetings that name one protocol.
	ProtocolFirst = 1
	// ProtocolVersions has greetings that name a range, versions and capabilities.
	ProtocolVersions = 2
)

// Protocols are those that this code speaks. A Hello is written in the oldest of the speaker's protocols and says which is
// its newest; the importer answers in the newest that both speak.
func Protocols() skew.Range { return skew.Range{Min: ProtocolFirst, Max: ProtocolVersions} }

// CapabilityReports says that an importer takes load reports. Of ProtocolFirst every importer does.
const CapabilityReports = "load-reports"

// Capabilities are those of this code.
func Capabilities() []string { return []string{CapabilityReports} }

// Bounds of what a peer says of itself.
const (
	maxCapabilities = 32
	maxWord         = 64
)

// words bounds what a peer says of itself: it is shown to people.
func words(version string, capabilities []string) (string, []string) {
	var out []string
	for _, c := range capabilities[:min(len(capabilities), maxCapabilities)] {
		out = append(out, word(c))
	}
	return word(version), out
}

func word(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxWord)], "") }

// Down is a message from exporter to importer: *Hello, *Response, *Enumerate or
// *Heartbeat. All down messages of a stream share one sequence without gaps; the
// sequence means nothing outside its stream.
type Down interface{ sequence() uint64 }

// Up is a message from importer to exporter: *Subscribe, *Versions, *Ack or
// *Witness.
type Up interface{ up() }

// Hello opens a stream, with sequence 1.
type Hello struct {
	Seq uint64
	// Protocol is the oldest that the exporter speaks, Newest the newest; 0, of ProtocolFirst, is Protocol.
	Protocol, Newest int
	Capabilities     []string
	// Version is the owner's build, for people; "" is not known.
	Version string
	// Server is the cluster that speaks, Owner the one that is spoken for: they differ
	// when a sibling or a primary re-serves what it holds.
	Server, Owner mesh.ClusterName
	// TrustDomain is the owner's.
	TrustDomain mesh.TrustDomain
	Position    mesh.Position
}

// Response is one message of a batch. A batch turns what the importer held into
// the owner's state at Position; it counts only when its last message has come.
type Response struct {
	Seq, Nonce uint64
	// Sync is the subscription that it answers: an answer to an older one is dropped.
	Sync     uint64
	Position mesh.Position
	Set      []*Resource
	Removed  []Name
	// Last ends the batch; Lineage and Root are then those of the whole state.
	Last    bool
	Lineage Lineage
	Root    Digest
}

// Enumerate asks for the versions in the buckets whose digests differ.
type Enumerate struct {
	Seq, Sync uint64
	Buckets   []uint8
}

// Heartbeat is the lease, beside the log: the latest wins.
type Heartbeat struct {
	Seq uint64
	// Beat is the clock of the owner's replica that made it, in Unix milliseconds, and
	// passes unchanged through those who re-serve: only the owner makes its facts fresh.
	Beat int64
	// Position is the newest that the exporter has.
	Position mesh.Position
	// Settled: the importer has acknowledged everything up to Position, whose root is
	// Root. Comparing it is the anti-entropy, and moves the importer's position on
	// when revisions passed that did not concern it.
	Settled bool
	Root    Digest
	// Awaiting is the nonce whose Ack has not come, 0 for none.
	Awaiting uint64
	// Report is a measurement of demand and capacity, opaque here.
	Report []byte
}

// Subscribe begins, or begins again, with what the importer has.
type Subscribe struct {
	// Protocol is the one that is spoken from here on. The rest is not said in ProtocolFirst.
	Protocol     int
	Capabilities []string
	Version      string
	Sync         uint64
	// Known is the position below which the importer accepts nothing.
	Known mesh.Position
	// Root and Digests are of all that it has, staged resources included.
	Root    Digest
	Digests [Buckets]Digest
}

// Versions answers Enumerate, in parts of at most 1 MiB, a bucket never split.
type Versions struct {
	Sync    uint64
	Buckets []uint8
	Held    []Held
}

// Ack confirms a Response. With Error the batch as a whole was refused; Refused
// lists resources that were taken but not put in force, for the owner's status.
type Ack struct {
	Sync, Nonce uint64
	Error       string
	Refused     []Refusal
}

// Refusal is a resource that is not in force, and why.
type Refusal struct {
	Name   Name
	Reason string
}

// Witness tells an owner whose history restarted what is known of its earlier one:
// up to which revision, and which policies of it the new history lacks. The
// owner takes them over (or decides not to) and says so by its Lineage. A witness may
// come in parts; it counts when all Parts are there.
type Witness struct {
	ID          uint64
	Part, Parts int
	Crossed     Lineage
	Orphans     []*Resource
}

func (m *Hello) sequence() uint64     { return m.Seq }
func (m *Response) sequence() uint64  { return m.Seq }
func (m *Enumerate) sequence() uint64 { return m.Seq }
func (m *Heartbeat) sequence() uint64 { return m.Seq }
func (*Subscribe) up()                {}
func (*Versions) up()                 {}
func (*Ack) up()                      {}
func (*Witness) up()                  {}

// AlarmKind says what an alarm is about; the closed list.
type AlarmKind string

// The alarms.
const (
	AlarmImpostor   AlarmKind = "impostor"        // speaks for a cluster or trust domain that is not its own
	AlarmVersion    AlarmKind = "version-skew"    // no common protocol version
	AlarmBehind     AlarmKind = "behind"          // a replica did not catch up with what is known
	AlarmRegressed  AlarmKind = "regressed"       // sent a position before the known one
	AlarmFuture     AlarmKind = "future"          // an epoch or stamp too far ahead of our clock
	AlarmForeign    AlarmKind = "foreign"         // a resource that is not the owner's to state
	AlarmInvalid    AlarmKind = "invalid"         // a resource that does not decode or breaks a rule
	AlarmMalformed  AlarmKind = "malformed"       // a message that breaks the protocol
	AlarmTooLarge   AlarmKind = "too-large"       // beyond the limits
	AlarmDiverged   AlarmKind = "diverged"        // digests differ where they should not: repaired
	AlarmHeldOver   AlarmKind = "held-over"       // policies of a lost history are kept in force
	AlarmRolledBack AlarmKind = "ahead-of-us"     // a peer knows more of our own history than we do
	AlarmRefused    AlarmKind = "refused-by-peer" // a peer refused what we sent
)

// Alarm is something a person should see. Alarms are values, never a reason to
// stop.
type Alarm struct {
	Kind    AlarmKind
	Subject string
	Detail  string
}

func (a Alarm) String() string {
	if a.Detail == "" {
		return fmt.Sprintf("%s: %s", a.Kind, a.Subject)
	}
	return fmt.Sprintf("%s: %s: %s", a.Kind, a.Subject, a.Detail)
}

// Timing of the protocol. The driver calls Tick at least every second.
const (
	HeartbeatEvery = time.Second
	// StaleAfter without a fresh heartbeat a partition is marked stale; it stays in force.
	StaleAfter = 3 * time.Second
	// SilentAfter without any message a session is given up (half-open TCP).
	SilentAfter = 10 * time.Second
	// CatchUp is the patience with a replica that is behind what is known.
	CatchUp = 5 * time.Second
	// retryFirst is the wait before a subscription that had no answer is repeated; it
	// doubles up to retryMax.
	retryFirst = 5 * time.Second
	retryMax   = 40 * time.Second
	// witnessEvery repeats a witness until the lineage covers it.
	witnessEvery = 5 * time.Second
)

// Limits bound what one owner may make us hold. The zero value is the default.
type Limits struct {
	Resources int // default 200,000
	Bytes     int // default 256 MiB
}

func (l Limits) orDefault() Limits {
	if l.Resources == 0 {
		l.Resources = 200_000
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 20
	}
	return l
}

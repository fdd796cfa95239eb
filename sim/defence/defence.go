// Package defence names what keeps a mesh right, so that a control run can do without one and show that a checker complains.
//
// Its one idea is that a checker that never complained proves nothing. It takes nothing away itself: simulator and product do.
//
// Read Control first, then Controls.
package defence

import "github.com/isthmus-mesh/isthmus/core/replica"

// Control is a defence that a run does without.
type Control string

// The defences, each the reason for a control run.
const (
	All            Control = ""
	NoPositions    Control = "positions"     // accept what is older than what is known
	NoDigests      Control = "digests"       // never compare roots: no anti-entropy
	NoSequence     Control = "sequence"      // neither gaps nor roots
	NoBatches      Control = "batches"       // put each message in force as it comes
	NoLastGood     Control = "last-good"     // drop a peer's facts with its link
	NoHoldOver     Control = "hold-over"     // believe the absences of a new epoch
	NoCrossed      Control = "crossed"       // a restart forgets which histories ended
	NoEpochs       Control = "epochs"        // never begin a new epoch
	NoSnapshot     Control = "snapshot"      // proxies start empty
	NoResume       Control = "resume"        // never say what is held already
	NoDeletions    Control = "deletions"     // an owner that restarts forgets which policies it deleted
	NoOrder        Control = "order"         // tell proxies of types in any order
	NoInvalidation Control = "invalidation"  // now and then a changed fact wakes nobody who read it
	NoOrigins      Control = "origins"       // what a peer takes away goes whoever stated it
	NoBackPressure Control = "back-pressure" // take what was sent for what was answered
	NoRedial       Control = "redial"        // wait long before a lost link is tried again
)

// Controls are all of them, each with the checkers that must miss it.
func Controls() map[Control][]string {
	return map[Control][]string{NoPositions: {"regressed"}, NoDigests: {"torn", "corrupted", "quiet"}, NoSequence: {"torn"}, NoBatches: {"torn"}, NoLastGood: {"lost"},
		NoHoldOver: {"loosened"}, NoCrossed: {"loosened"}, NoEpochs: {"loosened"}, NoSnapshot: {"boot"}, NoResume: {"hand-over"}, NoDeletions: {"resurrected"},
		NoOrder: {"absent-backend"}, NoInvalidation: {"compiled"}, NoOrigins: {"local-endpoint"}, NoBackPressure: {"bounded", "acknowledged"},
		NoRedial: {"deleted-while-cut"}}
}

// Importer is what the control run's importers lack.
func (c Control) Importer() replica.Defence {
	switch c {
	case NoPositions:
		return replica.DefencePosition
	case NoDigests:
		return replica.DefenceDigest
	case NoSequence:
		return replica.DefenceDigest | replica.DefenceSequence
	case NoBatches:
		return replica.DefenceBatch
	case NoLastGood:
		return replica.DefenceLastGood
	case NoHoldOver:
		return replica.DefenceHoldOver
	case NoCrossed:
		return replica.DefenceCrossed
	}
	return 0
}

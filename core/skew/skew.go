// Package skew judges how far apart the versions of a mesh's parts are, and in which order they are upgraded. Its one
// idea is that both answers follow from one rule, Served: a plan that never leaves a pair of parts unserved is found by
// asking it of every step.
//
// It does not decide what a stream may carry: protocols are negotiated by number (Range), and versions only name them
// for people. Of a build that has no version (a commit, "dev") it says that nothing is known.
//
// Read Version, then Judge.
package skew

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Back is how many minor versions back are served, and Ahead how many minor versions a proxy may be newer than
// the control plane that it follows.
const (
	Back  = 2
	Ahead = 1
)

// Version is that of a build; the zero Version is one that is not known.
type Version struct {
	Major, Minor, Patch int
	// Text is as it was written.
	Text string
}

// Known reports whether the build says its version.
func (v Version) Known() bool { return v.Text != "" }

// Parse reads a version as a build says it: v1.2.3, 1.2, v1.2.3-rc.1, or git describe's v1.2.3-4-gabcdef. Anything else
// is not known.
func Parse(text string) Version {
	rest, _, _ := strings.Cut(strings.TrimPrefix(text, "v"), "-")
	rest, _, _ = strings.Cut(rest, "+")
	parts := strings.Split(rest, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return Version{}
	}
	n := [3]int{}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return Version{}
		}
		n[i] = int(v)
	}
	return Version{n[0], n[1], n[2], text}
}

// Compare orders by major and minor version, which is all that skew is about.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor))
}

// Release is "MAJOR.MINOR".
func (v Version) Release() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Distance is by how many minor versions v is newer than o (negative: older); false across major versions.
func (v Version) Distance(o Version) (int, bool) { return v.Minor - o.Minor, v.Major == o.Major }

// within reports whether v is at most back minor versions older than o and at most ahead newer.
func within(v, o Version, back, ahead int) bool {
	d, comparable := v.Distance(o)
	return comparable && d >= -back && d <= ahead
}

// Served reports whether parts of these versions may work with each other: two control planes, two back in either
// direction; a proxy with the control plane that it follows, two back and one ahead; a command line as control planes. What
// is not known is given the benefit of the doubt: the streams negotiate.
func Served(a Role, av Version, b Role, bv Version) bool {
	switch {
	case !av.Known() || !bv.Known():
		return true
	case a.Proxy() && b.Proxy():
		return true // between proxies runs HTTP over mTLS
	case b.Proxy():
		return within(bv, av, Back, Ahead)
	case a.Proxy():
		return within(av, bv, Back, Ahead)
	}
	return within(av, bv, Back, Back)
}

// Role is what a part is.
type Role string

// The roles, in the order in which they are upgraded.
const (
	ControlPlane Role = "control-plane"
	Relay        Role = "relay"
	Gateway      Role = "gateway"
	Sidecar      Role = "sidecar"
	CLI          Role = "isthmus"
)

// order of upgrades.
func (r Role) order() int {
	switch r {
	case ControlPlane:
		return 0
	case Relay:
		return 1
	case Gateway:
		return 2
	case Sidecar:
		return 3
	}
	return 4
}

// Proxy reports whether it follows a control plane.
func (r Role) Proxy() bool { return r == Gateway || r == Sidecar }

// Range is which protocols a build speaks, by number.
type Range struct{ Min, Max int }

// Common is the newest protocol that both speak.
func (r Range) Common(o Range) (int, bool) {
	n := min(r.Max, o.Max)
	return n, n >= max(r.Min, o.Min)
}

// ParseRange reads what String writes; what cannot be read is the zero Range.
func ParseRange(text string) Range {
	lo, hi, ok := strings.Cut(text, "-")
	if !ok {
		hi = lo
	}
	a, err1 := strconv.ParseUint(lo, 10, 16)
	b, err2 := strconv.ParseUint(hi, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || b < a {
		return Range{}
	}
	return Range{int(a), int(b)}
}

// String is "MIN-MAX".
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }

// Build is what a process is built as: the version, as people know it, and the protocols that it speaks, where that is not
// what this code speaks: tests make older and newer builds so.
type Build struct {
	Version   string
	Protocols Range
}

// Speaks is the range of a protocol of which this code speaks r.
func (b Build) Speaks(r Range) Range {
	if b.Protocols != (Range{}) {
		return b.Protocols
	}
	return r
}

// Apart says of two control planes that Served refuses which of them is to be upgraded first.
func Apart(us string, ours Version, them string, theirs Version) string {
	first, older, newer := them, theirs, ours
	if ours.Compare(theirs) < 0 {
		first, older, newer = us, ours, theirs
	}
	if _, comparable := ours.Distance(theirs); !comparable {
		return fmt.Sprintf("%s is %s and %s is %s: nothing is served across major versions; upgrade %s first, to the last minor version of %d", us, ours.Text, them, theirs.Text, first, older.Major)
	}
	return fmt.Sprintf("%s is %s and %s is %s: %d minor versions back are served; upgrade %s first, to %d.%d at least", us, ours.Text, them, theirs.Text, Back, first, newer.Major, newer.Minor-Back)
}

// ApartFrom says of a control plane and a proxy that Served refuses which of them is to be upgraded first.
func ApartFrom(plane string, v Version, proxy string, w Version) string {
	if _, comparable := v.Distance(w); !comparable || v.Compare(w) > 0 {
		return Apart(plane, v, proxy, w)
	}
	return fmt.Sprintf("%s is %s and %s is %s: control planes go before the proxies that follow them, which may be %d minor version ahead; upgrade %s first, to %d.%d at least, or take the proxy back to %s",
		plane, v.Text, proxy, w.Text, Ahead, plane, w.Major, w.Minor-Ahead, v.Release())
}

// Refuse says why there is no common protocol and which of the two is to be upgraded first. Them is named as people
// know it; the versions may be unknown.
func Refuse(us string, ours Range, ourVersion Version, them string, theirs Range, theirVersion Version) string {
	name := func(who string, v Version, r Range) string {
		if v.Known() {
			who += " (" + v.Text + ")"
		}
		if r.Min == r.Max {
			return fmt.Sprintf("%s speaks protocol %d", who, r.Max)
		}
		return fmt.Sprintf("%s speaks protocols %d to %d", who, r.Min, r.Max)
	}
	first, older, newer := them, theirs, ours
	if theirs.Min > ours.Max {
		first, older, newer = us, ours, theirs
	}
	return fmt.Sprintf("%s, %s: %d minor versions back are served; upgrade %s first, to a version that speaks protocol %d (it is then served by both), before anything goes beyond that",
		name(us, ourVersion, ours), name(them, theirVersion, theirs), Back, first, max(newer.Min, older.Min))
}

package agent

import "runtime/debug"

// Thrifty has the collector run when the heap has grown by half, and not when it has doubled, unless gogc, which is what the
// environment says by GOGC, is set. What an attack makes a proxy hold for a moment stays resident until a collection, and half
// as much again comes with it. Requests allocate nothing in steady state, so that there is little to collect either way; so
// does a control plane's word to its proxies, and what a first configuration of all leaves behind is memory that nobody else
// has. It is for commands: it is the whole process that changes.
func Thrifty(gogc string) {
	if gogc == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// gcPercent is that of debug.SetGCPercent.
const gcPercent = 50

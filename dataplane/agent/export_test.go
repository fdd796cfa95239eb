package agent

import (
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http1"
)

// CrashAt has the process crash as soon as a service whose requests may take d is in force.
func (a *Agent) CrashAt(d time.Duration) {
	for {
		changed := a.store.change()
		for _, s := range a.store.state.Load().Services {
			if s.Traffic.RequestTimeout == d {
				panic("a fault of this proxy")
			}
		}
		<-changed
	}
}

// WithBounds changes the bounds of the own application's connections.
func (o Options) WithBounds(change func(*http1.Config)) Options {
	o.bounds = change
	return o
}

package agent

import "github.com/isthmus-mesh/isthmus/dataplane/http1"

// WithBounds changes the bounds of the own application's connections.
func (o Options) WithBounds(change func(*http1.Config)) Options {
	o.bounds = change
	return o
}

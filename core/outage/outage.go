// Package outage is what a proxy says of the places that it leaves out by itself: endpoints that it ejected, clusters that it
// tripped, services in whose place a fallback answers. Its one idea is that a report is a state and not a stream of changes, so that one that is lost does no harm.
//
// It decides nothing; core/balance does. Read Outage.
package outage

import "github.com/isthmus-mesh/isthmus/mesh"

// Most is how many outages one report holds; those beyond are only counted.
const Most = 16

// TextMax bounds the name of an endpoint, in bytes.
const TextMax = 64

// Place is what is left out, for one service.
type Place struct {
	Service mesh.ServiceName
	// Cluster is "" for the whole service.
	Cluster mesh.ClusterName
	// Endpoint is named as balance.Endpoint.Label does; "" is the whole cluster, which is tripped.
	Endpoint string
}

// Outage is one place at one time.
type Outage struct {
	Place
	Why   Why
	State State
}

// Why is the class of the failures. A later version may have more.
type Why uint8

// The classes.
const (
	Unknown Why = iota
	// NeverExecuted: what was sent was refused, or found no way, several times in a row.
	NeverExecuted
	// SuccessRate: it answers, and fails far more often than the others.
	SuccessRate
	// Relieved: requests to the whole service failed for good, and its fallback answers them. A control plane that does not know the class
	// counts it only, for it names no cluster.
	Relieved
)

// State is how far an outage is. A later version may have more.
type State uint8

// The states.
const (
	// Out: no request is sent there while another place is left.
	Out State = iota
	// Trial: it answered a probe, or its time is over: one request may try it.
	Trial
	// Over: it was out since the report before, or in it, and a request succeeded.
	Over
)

// Report is what one proxy says.
type Report struct {
	Outages []Outage
	// More is how many it leaves out for which Outages had no room.
	More int
}

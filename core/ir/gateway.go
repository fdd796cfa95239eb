package ir

import "github.com/isthmus-mesh/isthmus/mesh"

// Gateway is what an ingress gateway serves of a Gateway: the listeners that can be served.
type Gateway struct {
	Namespace, Name string
	Object          string // "Gateway shop/web@eu-west"
	TrustedHops     int
	// Home says that no other cluster serves it.
	Home      bool
	Listeners []Listener
}

// Listener is one door. Of those that share a port the one with the most specific Hostname that covers a request's host takes it.
type Listener struct {
	Name     string
	Hostname string
	Port     uint16
	Protocol mesh.ListenerProtocol
	// Hosts in order of precedence.
	Hosts []VirtualHost
}

// VirtualHost is a pattern of hosts with the routes for those, in order of precedence, that no more specific one of the listener
// covers.
type VirtualHost struct {
	Hostname string
	Routes   []Route
}

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
	// Terminations are the listeners at which TLS ends. They stand apart so that a proxy which does not know them serves none of
	// them, rather than in the clear.
	Terminations []Termination
}

// Termination is a listener at which TLS ends: requests come out of it at one of HTTPS, bytes at one of TLS.
type Termination struct {
	Listener
	// Certificates are those that can be used, in the order of the references.
	Certificates []Certificate
	// Invalid says why there is none; then no handshake succeeds.
	Invalid string
}

// Certificate is what a listener shows, and the key to it.
type Certificate struct {
	Object string // "Secret shop/web"
	// Chain is in PEM, the server's own first. It determines Key, in PEM.
	Chain string
	Key   mesh.Hidden
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

package proxy

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// portKey is a port of a service: a number may be there twice, once of UDP, as 53 is.
type portKey struct {
	number    uint16
	datagrams bool
}

// udpSuffix ends FieldTo where the number is that of a port of UDP. A server proxy that knows no UDP refuses it,
// and does not take the session for a connection.
var udpSuffix = []byte("/udp")

func noPort(service mesh.ServiceName, port uint16, datagrams bool) string {
	if datagrams {
		return fmt.Sprintf("service %s has no port %d of UDP", service, port)
	}
	return fmt.Sprintf("service %s has no port %d", service, port)
}

// inboundPort is a port of an inbound service with its target as the pool of
// connections wants it.
type inboundPort struct {
	ir.InboundPort
	target string
}

func newInboundPort(p ir.InboundPort) inboundPort {
	return inboundPort{p, p.Place()}
}

// Package tunnel is the transport between proxies: few long-lived HTTP/2 connections
// over mTLS that carry many requests and TCP streams, directly inside a network and through
// east-west gateways that pass bytes they cannot read. Its one idea is that the handshake is
// paid once: a request, and even a new TCP connection of an application, costs a stream.
//
// It chooses no endpoint and no route, decides no access and knows no reserved field of the
// proxies (dataplane/proxy does); certificates and their verification are package trust's.
// A gateway cannot say goodbye on a connection it cannot read: when it stops, what passes
// through it breaks.
//
// A Server also takes connections of other meshes' proxies, by HBONE: the same handshake and the same
// bounds, told apart by ALPN.
//
// Read Dialer (client side), Server (server side) and Gateway (between); docs/adr/0001 says
// why places behind a gateway are slots, docs/adr/0031 what HBONE is here.
package tunnel

import (
	"net/netip"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// ALPN is what proxies speak on port 15008: requests and CONNECT streams.
const ALPN = "isthmus/1"

// HBONE is the ALPN of proxies of other meshes: HTTP/2 whose streams are CONNECT, and nothing else. Who offers both is
// spoken to as a proxy of ours.
const HBONE = "h2"

// GatewayName is the server name of a trust domain's gateways themselves, as opposed to
// what lies behind them: whoever pings a gateway asks for it.
func GatewayName(td mesh.TrustDomain) string { return "gateway." + string(td) }

// Target is one server proxy, reached directly or as a slot behind gateways. It is the
// key under which connections are shared.
type Target struct {
	// Addr is the server proxy, or one of the gateways.
	Addr netip.AddrPort
	SNI  mesh.SNI
	// By is the trust domain whose gateways, Addr among them, are asked to pass connections on to the cluster of SNI, which
	// is not reached from here; "" is none.
	By mesh.TrustDomain
	// Moved is the generation at which the slot last moved: a slot that moved is another
	// target. Once the new one has a connection, those of the old one drain.
	Moved uint64
	// Connect is set for tunnels of bytes, which have connections of their own, so that
	// bulk does not delay requests.
	Connect bool
}

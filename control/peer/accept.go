package peer

import (
	"net"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

// Accepting is ln for a gRPC server of the federation: connections are read and written past the scheduler, as one message of a peer
// else wakes the runtime's monitor too, and give up what is not acknowledged, which gRPC can ask of a net.TCPConn alone.
func Accepting(ln net.Listener) net.Listener { return accepting{ln} }

type accepting struct{ net.Listener }

func (a accepting) Accept() (net.Conn, error) {
	conn, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if raw, set := direct.Raw(conn), giveUp(pingMax); raw != nil && set != nil {
		_ = set("", "", raw) // pings of gRPC notice it too
	}
	return direct.New(conn), nil
}

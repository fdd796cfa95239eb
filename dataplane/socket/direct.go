package socket

import (
	"net"
	"syscall"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

// Conn is a connection that is read and written past the scheduler.
type Conn = direct.Conn

// New returns c in a Conn, or c itself if its descriptor is not the connection's bytes.
func New(c net.Conn) net.Conn { return direct.New(c) }

// Raw returns the descriptor of a TCP or Unix connection, nil for any other.
func Raw(c net.Conn) syscall.RawConn { return direct.Raw(c) }

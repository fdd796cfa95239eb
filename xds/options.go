package xds

import (
	"context"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Liveness. gRPC lets a client ask for a sign of life no more often than each 10 s, a
// server as often as it likes: so servers ask connections that are quiet for pingAfter, and a
// client leaves a connection on which it read nothing for silenceMax. A control plane that
// was stopped with its sockets open is left within that time.
const (
	pingAfter  = 5 * time.Second
	silenceMax = 9500 * time.Millisecond
)

// A window holds one message of the largest size; it is fixed, because a window that is
// estimated costs a ping a message. The connection's holds a few types at once.
const (
	streamWindow     = MaxMessage + 64<<10
	connectionWindow = 4 * MaxMessage
	messageMax       = MaxMessage + 64<<10
	bufferSize       = 16 << 10
	writeSize        = 64 << 10 // shared by idle connections; large sets take a third less CPU than at 16 KiB
)

// ServerOptions are the options that a grpc.Server must be made with to carry a Server:
// message encoding, windows, limits and keepalive. Other services on the same server work as
// ever. Credentials are the caller's to add.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(messageMax),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(writeSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: 2 * silenceMax}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter, PermitWithoutStream: true}),
	}
}

// DialOptions are the options for connections that a Client uses: windows, limits and
// keepalive. Credentials are the caller's to add.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithDisableServiceConfig(),
		// A server that accepts and says nothing is left as soon as one that fell silent.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: silenceMax}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: silenceMax, PermitWithoutStream: true}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			network := "tcp"
			if path, ok := strings.CutPrefix(addr, "unix:"); ok {
				network, addr = "unix", path
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return LimitSilence(conn), nil
		}),
	}
}

// LimitSilence makes a connection fail when nothing was read from it for 9.5 s. It is part
// of DialOptions; who gives gRPC another dialer wraps its connections with it. The other end must
// be a server with ServerOptions, which asks only connections on which it receives nothing: who
// sends on one steadily must be answered as steadily. Read deadlines that the connection's
// user sets do not work.
func LimitSilence(conn net.Conn) net.Conn { return quiet{conn} }

type quiet struct{ net.Conn }

// Read implements net.Conn.
func (q quiet) Read(b []byte) (int, error) {
	if err := q.SetReadDeadline(time.Now().Add(silenceMax)); err != nil {
		return 0, err
	}
	return q.Conn.Read(b)
}

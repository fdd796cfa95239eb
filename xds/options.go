package xds

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Liveness. gRPC-Go lets a client ask for a sign of life no more often than each 10 s, and
// a ping of its own for each connection costs a wake-up and an answer. So a server says an
// empty word to clients to whom it has said nothing for beatAfter, those of beatLook at once, and a client
// leaves a stream on which it heard nothing for silenceMax: a control plane that was stopped with its sockets open is
// left within 10 s, and one that is late by two seconds is not. Servers find clients that are gone by pings, which may
// take longer.
const (
	beatAfter  = 7250 * time.Millisecond
	beatLook   = 250 * time.Millisecond
	silenceMax = 9500 * time.Millisecond
	pingAfter  = 2 * time.Minute
)

// A window holds one message of the largest size; it is fixed, because a window that is
// estimated costs a ping a message. The connection's holds a few types at once.
const (
	streamWindow     = MaxMessage + 64<<10
	connectionWindow = 4 * MaxMessage
	messageMax       = MaxMessage + 64<<10
	bufferSize       = 16 << 10
)

// Method is the method whose streams a Server converses on, to be registered with what carries
// them; its messages are at most MessageMax bytes. Clients of a carrier are asked whether they live after PingAfter, and
// have Patience.
const (
	Method     = fullName
	MessageMax = messageMax
	PingAfter  = pingAfter
	Patience   = 2 * silenceMax
)

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
	}
}

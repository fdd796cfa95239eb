package app

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// datagramMax is the largest datagram, in bytes (RFC 768).
const datagramMax = 1<<16 - 1

// receivePause is how long receiving rests after an error that may pass.
const receivePause = 50 * time.Millisecond

// Received is the answer to a datagram, one line of JSON.
type Received struct {
	Service   string           `json:"service"`
	Namespace string           `json:"namespace"`
	Cluster   mesh.ClusterName `json:"cluster"`
	Region    mesh.Region      `json:"region"`
	Zone      mesh.Zone        `json:"zone"`
	Instance  string           `json:"instance"`
	// From is the sidecar's end of the session: each client has another.
	From netip.AddrPort `json:"from"`
	// Text is what came.
	Text string `json:"text"`
}

// answerDatagrams answers each datagram until ctx ends. An instance that cannot have the port of UDP goes on without.
func answerDatagrams(ctx context.Context, at string, c Config, log *slog.Logger) (ended <-chan struct{}) {
	var lc net.ListenConfig
	s, err := lc.ListenPacket(ctx, "udp", at)
	if err == nil {
		if udp, ok := s.(*net.UDPConn); ok { // what is listened for is UDP
			return answerFrom(ctx, udp, c)
		}
		s.Close()
	}
	log.Warn("this instance answers no datagrams", "error", err)
	done := make(chan struct{})
	close(done)
	return done
}

// answerFrom answers what comes to a socket until ctx ends, and closes it.
func answerFrom(ctx context.Context, udp *net.UDPConn, c Config) (ended <-chan struct{}) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { udp.Close() })
	go func() {
		defer close(done)
		defer stop()
		defer udp.Close()
		b := make([]byte, datagramMax)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(b)
			switch {
			case err == nil:
				line, err := json.Marshal(Received{c.Service, c.Namespace, c.Cluster, c.Region, c.Zone, c.Instance, from, string(b[:n])})
				if err == nil {
					_, _ = udp.WriteToUDPAddrPort(append(line, '\n'), from) // one that is too large is lost, as UDP has it
				}
			case errors.Is(err, net.ErrClosed):
				return
			default:
				select {
				case <-time.After(receivePause):
				case <-ctx.Done():
				}
			}
		}
	}()
	return done
}

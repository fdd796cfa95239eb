package probe

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
	"golang.org/x/net/http2"
)

// conn is a connection that speaks just enough HTTP/2 (RFC 9113) to ping: a preface,
// settings, and PING frames (§6.7). One goroutine hears; ask may be called by another.
type conn struct {
	net.Conn
	framer *http2.Framer // its reading half belongs to hear

	mu    sync.Mutex // of the framer's writing half
	asked uint64
	// answered is hear's own.
	answered uint64
}

// writeMax bounds a write. It waits only when the kernel's buffer is full, which a
// handful of frames of 17 bytes cannot do; a connection where it does is broken.
const writeMax = time.Second

// frameMax bounds what a gateway may send in one frame. RFC 9113 §4.2 lets it send 16 KiB.
const frameMax = 16 << 10

// greet makes raw a connection to a gateway of the peer, by its identity.
func (p *Prober) greet(ctx context.Context, raw net.Conn) (*conn, error) {
	tc := tls.Client(raw, trust.ClientConfig(p.cfg.Source, trust.AcceptServers(p.cfg.Peer.TrustDomain, p.cfg.Gateway), p.cfg.Name, "h2"))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("greet: %w", err)
	}
	c := &conn{Conn: tc, framer: http2.NewFramer(tc, tc)}
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(frameMax)
	if err := c.write(func() error {
		_, err := tc.Write([]byte(http2.ClientPreface))
		return errors.Join(err, c.framer.WriteSettings())
	}); err != nil {
		return nil, fmt.Errorf("greet: %w", err)
	}
	return c, nil
}

var errLeaving = errors.New("hear: the gateway is leaving")

func (c *conn) write(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(writeMax)); err != nil {
		return err
	}
	return f()
}

// ask sends a question.
func (c *conn) ask() error {
	return c.write(func() error {
		c.asked++
		return c.framer.WritePing(false, [8]byte(binary.BigEndian.AppendUint64(nil, c.asked)))
	})
}

// hear reads until the connection ends, and calls answered for each answer.
func (c *conn) hear(answered func()) error {
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return fmt.Errorf("hear: %w", err)
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				if err := c.write(func() error { return c.framer.WritePing(true, f.Data) }); err != nil {
					return fmt.Errorf("answer a ping: %w", err)
				}
				continue
			}
			c.answered++
			if got := binary.BigEndian.Uint64(f.Data[:]); got != c.answered {
				return fmt.Errorf("hear: the answer to question %d, want %d", got, c.answered)
			}
			answered()
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			if err := c.write(c.framer.WriteSettingsAck); err != nil {
				return fmt.Errorf("acknowledge settings: %w", err)
			}
		case *http2.GoAwayFrame: // RFC 9113 §6.8: it drains; another may serve
			return errLeaving
		}
	}
}

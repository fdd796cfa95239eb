package tunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
)

// What strangers can make a gateway say of its own name is bounded, and what passes by itself at a start is
// no warning.
const (
	// complaintsMax lines a second are written; the next says how many were left out.
	complaintsMax = 4
	// certificateGrace is how long a gateway may wait for its first certificate before that is a warning.
	certificateGrace = 10 * time.Second
)

// complaints are lines about handshakes that failed. The zero value is ready; it is safe for concurrent use.
type complaints struct {
	mu      sync.Mutex
	second  int64
	lines   int
	omitted int
	// waiting is when the own certificate was first found missing.
	waiting time.Time
}

// handshake says that a handshake with the gateway itself failed.
func (c *complaints) handshake(ctx context.Context, log *slog.Logger, now time.Time, remote net.Addr, err error) {
	level := slog.LevelWarn
	var fault *trust.Error
	switch {
	case errors.As(err, &fault) && fault.Fault == trust.FaultOwnCertificate:
		if level = c.missing(now); level < slog.LevelInfo {
			return
		}
	case errors.Is(err, io.EOF): // it left: a dial that was given up says nothing of us
		level = slog.LevelDebug
	}
	omitted, ok := c.room(now)
	if !ok {
		return
	}
	log.Log(ctx, level, "a connection to the gateway itself was refused", "remote", remote.String(), "error", err, "omitted", omitted)
}

// missing is the level at which the want of a certificate is said: once as news, as a warning when it lasts.
func (c *complaints) missing(now time.Time) slog.Level {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting.IsZero() {
		c.waiting = now
		return slog.LevelInfo
	}
	if now.Sub(c.waiting) < certificateGrace {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// room reports whether another line may be written in this second, and how many were not.
func (c *complaints) room(now time.Time) (omitted int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := now.Unix(); s != c.second {
		c.second, c.lines = s, 0
	}
	if c.lines++; c.lines > complaintsMax {
		c.omitted++
		return 0, false
	}
	omitted, c.omitted = c.omitted, 0
	return omitted, true
}

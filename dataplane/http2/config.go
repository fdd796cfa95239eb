package http2

import (
	"errors"
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Budget is memory shared by many connections, from which stream windows grow beyond
// their first size. Both methods may be called from any goroutine and must not
// block nor call back into this package.
type Budget interface {
	// Take asks for n bytes and reports whether they were granted.
	Take(n int) bool
	// Give returns n bytes taken before.
	Give(n int)
}

// Config bounds one connection. The zero value asks for the defaults.
type Config struct {
	// MaxConcurrentStreams is announced by a server (RFC 9113 §5.1.2), and is a
	// client's own bound below what its server announces. Default 256.
	MaxConcurrentStreams int
	// FirstStreams is how many streams a server works on at once at the beginning of a connection, below
	// MaxConcurrentStreams; further ones wait, unread. Each that ends in order allows one more, and so many more are
	// allowed every 20 ms. Default 32; negative is no such bound.
	FirstStreams int
	// StuckStreams is how many requests a server works on at once whose client has shut the window of their answers
	// before it took anything worth the name; see freshOctets. Further ones wait for it, and then are refused. Default
	// 16; negative is no such bound.
	StuckStreams int
	// InitialWindow is the receive window of a new stream, in bytes: 16 KiB, which is one of the largest frames, to
	// MaxWindow. Default 65,535.
	InitialWindow int
	// MaxWindow bounds, in bytes, what a window may grow to as the measured product of
	// bandwidth and delay asks for it. Default 16 MiB.
	MaxWindow int
	// Near says that a round trip to the peer costs little: a stream's window then stays as it begins until its reader has taken
	// nearTaken times as much, and is never larger than what he has taken, as TCP begins (RFC 5681 §3.1): who stops reading holds no more.
	Near bool
	// ConnBuffer bounds received bytes that nobody has read yet, over all streams of
	// the connection, beside what Budget granted. While it is not exhausted a reader
	// that does not drain stops its own stream only. Default 3 MiB.
	ConnBuffer int
	// Budget grants the growth of stream windows; nil grants all up to MaxWindow.
	Budget Budget

	// MaxHeaderBytes bounds a decoded field section, counted as RFC 9113 §6.5.2
	// does; it is announced. Default 64 KiB.
	MaxHeaderBytes int
	// OpenHeadBytes bounds, counted in the same way, the heads of all requests that a server works
	// on: further streams are refused, unexecuted. While more than 32 handlers wait for
	// the client to take what it has asked for, an eighth of it holds. Default 2 MiB,
	// at least eight heads; negative is none.
	OpenHeadBytes int
	// MaxContinuations bounds CONTINUATION frames in one field section. Default 8.
	MaxContinuations int
	// HeaderTableBytes bounds both HPACK tables, at most 4,096, which is also the
	// default; negative is none.
	HeaderTableBytes int
	// ControlRate and ControlBurst are the token bucket that every control frame and
	// every reset is taken from, in frames a second and frames; work done for the peer
	// refills it too (see bucket). Defaults 500 and 2,000.
	ControlRate, ControlBurst int
	// SendBuffer is the mark, in bytes, above which producers wait for the
	// flusher. Default 64 KiB.
	SendBuffer int

	// HandshakeTimeout bounds the wait for the peer's preface, and for the rest of a field
	// section that goes on in CONTINUATION. Default 10 s.
	HandshakeTimeout time.Duration
	// SettingsTimeout bounds the wait for the acknowledgement of SETTINGS (RFC 9113
	// §6.5.3). Default 10 s.
	SettingsTimeout time.Duration
	// WriteTimeout bounds one write: a peer that does not drain its socket for so
	// long is given up. Default 15 s.
	WriteTimeout time.Duration
	// IdleTimeout drains a server's connection on which nothing was read, with no stream open,
	// for so long. Default none.
	IdleTimeout time.Duration
	// DrainTimeout bounds a server's graceful end. Default 30 s.
	DrainTimeout time.Duration

	// Received are octets of the connection that its owner has read before, to learn that it
	// speaks HTTP/2: at most 32 KiB, which are copied.
	Received []byte
	// ConnectProtocol lets clients ask for extended CONNECT (RFC 8441). Servers only.
	ConnectProtocol bool
	// Now is a monotonic clock in nanoseconds; nil counts from the connection's start.
	// Only differences matter. Deadlines and timers are those of package time.
	Now func() int64
	// Report, if not nil, is called once by ServeConn with what sends the peer a report: a PING
	// that carries a count of 62 bits, for Reported at the other end. It may be called from any
	// goroutine, also after the connection's end, and drops a report that would have to wait.
	Report func(send func(count uint64))
	// Reported, if not nil, is told of the reports of the peer, on the goroutine that reads; it must not
	// block nor call back into this package.
	Reported func(count uint64)
	// Refused, if not nil, may change the head of a server's own answer to a request that is malformed, for the reason
	// given: a constant, never the peer's octets. The head bears the status and isthmus-reason. It is called under
	// the connection's lock and must not block.
	Refused func(fault string, h *message.Head)
	// Stuck, if not nil, is told once a connection that its client takes none of the answers to what it asked for, so that
	// StuckStreams bounds it. It is called on a goroutine that ServeConn waits for.
	Stuck func()
	// Panic, if not nil, is told of a handler's panic, whose stream is then reset; nil
	// lets the panic go on.
	Panic func(value any)
}

// The defaults of Config, and constants of the protocol.
const (
	defaultWindow     = 65535     // RFC 9113 §6.9.2
	maxWindowSize     = 1<<31 - 1 // RFC 9113 §6.9.1
	maxStreamID       = 1<<31 - 1
	minMaxFrame       = 16384 // RFC 9113 §6.5.2: SETTINGS_MAX_FRAME_SIZE is at least this; we announce no more
	maxMaxFrame       = 1<<24 - 1
	defaultTableBytes = 4096
	nearTaken         = 8 // initial windows
)

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func orDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}

// withDefaults returns cfg with every zero replaced.
func (cfg Config) withDefaults() Config {
	orInt(&cfg.MaxConcurrentStreams, 256)
	orInt(&cfg.FirstStreams, 32)
	orInt(&cfg.StuckStreams, 16)
	orInt(&cfg.InitialWindow, defaultWindow)
	orInt(&cfg.MaxWindow, 16<<20)
	orInt(&cfg.ConnBuffer, 3<<20)
	orInt(&cfg.MaxHeaderBytes, 64<<10)
	orInt(&cfg.OpenHeadBytes, max(2<<20, 8*cfg.MaxHeaderBytes))
	orInt(&cfg.MaxContinuations, 8)
	orInt(&cfg.HeaderTableBytes, defaultTableBytes)
	orInt(&cfg.ControlRate, 500)
	orInt(&cfg.ControlBurst, 2000)
	orInt(&cfg.SendBuffer, 64<<10)
	orDuration(&cfg.HandshakeTimeout, 10*time.Second)
	orDuration(&cfg.SettingsTimeout, 10*time.Second)
	orDuration(&cfg.WriteTimeout, 15*time.Second)
	orDuration(&cfg.DrainTimeout, 30*time.Second)
	cfg.HeaderTableBytes = max(cfg.HeaderTableBytes, 0)
	if cfg.Now == nil {
		start := time.Now()
		cfg.Now = func() int64 { return int64(time.Since(start)) }
	}
	return cfg
}

// Validate reports every fault of cfg, zeros being defaults.
func (cfg Config) Validate() error {
	cfg = cfg.withDefaults()
	var faults []error
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			faults = append(faults, fmt.Errorf("http2: %s is %d; want %d to %d", name, v, low, high))
		}
	}
	within("MaxConcurrentStreams", cfg.MaxConcurrentStreams, 1, 1<<20)
	within("MaxWindow", cfg.MaxWindow, defaultWindow, 1<<30)
	within("InitialWindow", cfg.InitialWindow, minMaxFrame, cfg.MaxWindow)
	within("ConnBuffer", cfg.ConnBuffer, max(cfg.InitialWindow, defaultWindow), 1<<30)
	within("MaxHeaderBytes", cfg.MaxHeaderBytes, 1<<10, 16<<20)
	if cfg.OpenHeadBytes >= 0 {
		within("OpenHeadBytes", cfg.OpenHeadBytes, 8*cfg.MaxHeaderBytes, 1<<30)
	}
	within("MaxContinuations", cfg.MaxContinuations, 1, 1<<10)
	within("HeaderTableBytes", cfg.HeaderTableBytes, 0, defaultTableBytes)
	within("ControlRate", cfg.ControlRate, 1, 1<<20)
	within("ControlBurst", cfg.ControlBurst, 1, 1<<20)
	within("SendBuffer", cfg.SendBuffer, 1<<10, 16<<20)
	within("the length of Received", len(cfg.Received), 0, readLarge)
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"HandshakeTimeout", cfg.HandshakeTimeout}, {"SettingsTimeout", cfg.SettingsTimeout},
		{"WriteTimeout", cfg.WriteTimeout}, {"DrainTimeout", cfg.DrainTimeout},
		{"IdleTimeout", cfg.IdleTimeout},
	} {
		if d.v < 0 {
			faults = append(faults, fmt.Errorf("http2: %s is %v; want more than zero", d.name, d.v))
		}
	}
	return errors.Join(faults...)
}

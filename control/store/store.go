package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

// Defaults of Config's fields.
const (
	DefaultPrefix           = "/isthmus/"
	DefaultDialTimeout      = 2 * time.Second
	DefaultRequestTimeout   = 5 * time.Second
	DefaultProgressInterval = 5 * time.Second
	DefaultBackoffMax       = 2 * time.Second
	DefaultPendingMax       = 4096
	DefaultPendingBytesMax  = 16 << 20
)

// Points of this package at which a test may make things go wrong.
const (
	// PointSend is before a write leaves; nothing has happened.
	PointSend failpoint.Point = "store.write.send"
	// PointAck is after the store acknowledged a write, before the caller
	// knows.
	PointAck failpoint.Point = "store.write.ack"
	// PointRead is before a get or a page of a list leaves.
	PointRead failpoint.Point = "store.read.send"
	// PointWatchOpen is before a watch stream is opened.
	PointWatchOpen failpoint.Point = "store.watch.open"
	// PointWatchReceive is after a watch message arrived, before it counts.
	PointWatchReceive failpoint.Point = "store.watch.receive"
)

// Failpoints lists the points of this package, for failpoint.New.
func Failpoints() []failpoint.Point {
	return []failpoint.Point{PointSend, PointAck, PointRead, PointWatchOpen, PointWatchReceive}
}

// Config says which store to use and how long to wait for it.
type Config struct {
	// Endpoints are where etcd listens: "unix:///PATH", "http://HOST:PORT" or
	// "https://HOST:PORT"; several for an external cluster. A Unix path may be
	// longer than a socket address. http is for tests: it sends in the clear.
	Endpoints []string
	// TLS is for https endpoints; nil is the system's roots and no client
	// certificate.
	TLS *tls.Config
	// Prefix starts every key, so that an external etcd can be shared. Empty is
	// DefaultPrefix.
	Prefix string
	// DialTimeout bounds one attempt to connect.
	DialTimeout time.Duration
	// RequestTimeout bounds every call, and each page of List.
	RequestTimeout time.Duration
	// ProgressInterval is how often an idle watch asks how far the store is.
	// A watch that hears nothing for three of them connects again.
	ProgressInterval time.Duration
	// BackoffMax bounds the wait between attempts to watch again; waits start
	// at a sixteenth of it and each is drawn from its upper half.
	BackoffMax time.Duration
	// PendingMax and PendingBytesMax bound, in keys and in bytes of values,
	// what one watch holds for a consumer that is slow. See Watch.
	PendingMax      int
	PendingBytesMax int

	// Away, where set, says why a store that does not answer may be away, nil for unknown. It
	// is asked when a call has failed so.
	Away func() error

	// Random feeds epochs and jitter; nil is crypto/rand.
	Random io.Reader
	// Log may be nil.
	Log *slog.Logger
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
}

// withDefaults returns c with every zero field that has a default filled in.
func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.DialTimeout, DefaultDialTimeout},
		{&c.RequestTimeout, DefaultRequestTimeout},
		{&c.ProgressInterval, DefaultProgressInterval},
		{&c.BackoffMax, DefaultBackoffMax},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.PendingMax == 0 {
		c.PendingMax = DefaultPendingMax
	}
	if c.PendingBytesMax == 0 {
		c.PendingBytesMax = DefaultPendingBytesMax
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports all faults of c at once. Zero fields that have defaults are
// not faults.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	if len(c.Endpoints) == 0 {
		faults = append(faults, errors.New("endpoints: at least one must be set"))
	}
	for _, e := range c.Endpoints {
		scheme, rest, ok := strings.Cut(e, "://")
		switch {
		case !ok || rest == "":
			faults = append(faults, fmt.Errorf("endpoint %q: want unix:///PATH or https://HOST:PORT", e))
		case scheme == "unix" && !strings.HasPrefix(rest, "/"):
			faults = append(faults, fmt.Errorf("endpoint %q: the path must be absolute", e))
		case scheme != "unix" && scheme != "http" && scheme != "https":
			faults = append(faults, fmt.Errorf("endpoint %q: scheme %q is none of unix, https, http", e, scheme))
		}
	}
	if !strings.HasSuffix(c.Prefix, "/") {
		faults = append(faults, fmt.Errorf("prefix %q: must end with /", c.Prefix))
	}
	for name, d := range map[string]time.Duration{
		"dialTimeout": c.DialTimeout, "requestTimeout": c.RequestTimeout,
		"progressInterval": c.ProgressInterval, "backoffMax": c.BackoffMax,
	} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("%s: %v is negative", name, d))
		}
	}
	if c.PendingMax < 0 || c.PendingBytesMax < 0 {
		faults = append(faults, errors.New("pendingMax, pendingBytesMax: must not be negative"))
	}
	return errors.Join(faults...)
}

// A Store reads, writes and watches objects. Its methods are safe for
// concurrent use.
type Store struct {
	cfg    Config
	client *clientv3.Client
	dialer *dialer
	where  string // the endpoints, for messages

	randomMu sync.Mutex // guards reads of cfg.Random

	heard atomic.Int64 // when a watch last heard the store, in Unix nanoseconds
}

// Heard is when a watch of this Store last heard from the store; the zero time is never. A store that
// answers is heard once in Config.ProgressInterval at least.
func (s *Store) Heard() time.Time {
	if ns := s.heard.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// Open returns a Store. It does not wait for the store to be there: a control
// plane starts from its snapshot when the store does not. Epoch tells.
func Open(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	c = c.withDefaults()
	tlsConfig := c.TLS
	if tlsConfig == nil && strings.HasPrefix(c.Endpoints[0], "https://") {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	}
	d := &dialer{}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   c.Endpoints,
		TLS:         tlsConfig,
		DialTimeout: c.DialTimeout,
		Logger:      zap.NewNop(), // every failure comes back as an error
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(d.credentials(tlsConfig)),
			grpc.WithContextDialer(d.dial),
			grpc.WithConnectParams(grpc.ConnectParams{
				// A store that was killed is back within 100 ms: look often.
				Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
				MinConnectTimeout: c.DialTimeout,
			}),
			// A store that hangs must not hang us: SIGSTOP, a dead link.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: c.RequestTimeout}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open store at %s: %w", strings.Join(c.Endpoints, ", "), err)
	}
	return &Store{cfg: c, client: client, dialer: d, where: strings.Join(c.Endpoints, ", ")}, nil
}

// Close ends the connections. Calls and watches in progress fail.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// bound returns ctx with the deadline of one request.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.RequestTimeout)
}

// random fills b.
func (s *Store) random(b []byte) error {
	s.randomMu.Lock()
	defer s.randomMu.Unlock()
	if _, err := io.ReadFull(s.cfg.Random, b); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	return nil
}

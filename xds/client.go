package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Batch is one response: changes of one type that were made together, or a part of them.
type Batch struct {
	Type      string
	Resources []Resource
	// Removed do not exist, or do no longer.
	Removed []string
	// Vector is how much the state knows that this comes from.
	Vector mesh.Vector
	// Complete says that all that is asked for of this type has now been answered: the
	// whole set of a wildcard, and every name.
	Complete bool
}

// Handler takes what a client receives.
type Handler interface {
	// Apply takes a batch; calls come in order from one goroutine. The result names the
	// resources that were refused, with reasons; the handler goes on with the versions before.
	Apply(Batch) map[string]error
}

// ClientConfig is what a client works with. Dial, Node and Handler are required.
type ClientConfig struct {
	// Dial connects to a server, at each attempt anew: it may pick another replica each
	// time. See DialOptions. The closer ends the connection.
	Dial func(ctx context.Context) (grpc.ClientConnInterface, io.Closer, error)
	// Node says who asks; it is called at each attempt. Its Vector should be that of the
	// snapshot that was applied; the client adds what it received since.
	Node    func() Node
	Handler Handler
	// MinBackoff and MaxBackoff bound the time between attempts, which doubles and of which a
	// random part is waited; 0 are 100 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
	// Rand is in [0, 1); nil is math/rand.
	Rand func() float64
	Now  func() time.Time // nil is time.Now
	Log  *slog.Logger     // nil discards
}

// Client follows a server and survives its loss: what was applied stays, and on the
// next connection only the difference is sent. Its methods are safe for concurrent use.
type Client struct {
	cfg  ClientConfig
	wake chan struct{}

	mu    sync.Mutex
	types map[string]*interest
	order []string // of types, as they were first asked for
	state ClientState
	// told is the vector of what was applied.
	told mesh.Vector
}

// interest is what a client wants and holds of one type. Guarded by the client's mutex.
type interest struct {
	want map[string]bool
	held map[string]string // versions by name
	// To be said on the stream in this order; nothing in between connections.
	leave, join map[string]bool
	complete    bool // on this stream
	// unsure are names held that did not fit the first request: unless sent again before the
	// set is complete, they do not exist any more.
	unsure map[string]bool
}

// ClientState is a client's view of itself, for an admin page.
type ClientState struct {
	Connected bool
	// Since is when that changed last.
	Since time.Time
	// Attempts counts connections tried, Streams those that were opened.
	Attempts, Streams int
	// Batches counts responses, Refused resources that the handler refused.
	Batches, Refused int
	// Dropped counts names not asked for because there were too many.
	Dropped int
	// Error is why the last stream ended or could not be opened.
	Error  string
	Vector mesh.Vector
	Types  []ClientType
}

// ClientType is one type of a ClientState.
type ClientType struct {
	Type string
	// Wanted counts names asked for, a wildcard as one; Held those held.
	Wanted, Held int
	// Digest is comparable to TypeStatus.AckedDigest.
	Digest   string
	Complete bool
}

// NewClient returns a client that is not connected before Run.
func NewClient(cfg ClientConfig) *Client {
	if cfg.MinBackoff == 0 {
		cfg.MinBackoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 10 * time.Second
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, wake: make(chan struct{}, 1), types: map[string]*interest{}, told: mesh.Vector{}}
}

// wantMax bounds the names of one type; a server bounds those of a stream.
const wantMax = maxNames * 3 / 4

func (c *Client) interest(t string) *interest {
	in := c.types[t]
	if in == nil {
		in = &interest{want: map[string]bool{}, held: map[string]string{}, leave: map[string]bool{}, join: map[string]bool{}}
		c.types[t] = in
		c.order = append(c.order, t)
	}
	return in
}

// Subscribe asks for resources of a type, or with Wildcard for all of them. What is
// asked for already stays as it is. Names of a type beyond 98,304 are dropped and counted.
func (c *Client) Subscribe(t string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.interest(t)
	for _, name := range names {
		if in.want[name] {
			continue
		}
		if len(in.want) >= wantMax {
			c.state.Dropped++
			continue
		}
		in.want[name] = true
		in.join[name] = true
	}
	c.poke()
}

// Unsubscribe ends the interest in resources. What was held of them is forgotten: the
// handler may drop it, and it is sent anew when asked for again. Names that a wildcard
// covers stay.
func (c *Client) Unsubscribe(t string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.interest(t)
	for _, name := range names {
		if !in.want[name] {
			continue
		}
		delete(in.want, name)
		if in.join[name] {
			delete(in.join, name)
		} else {
			in.leave[name] = true
		}
		if name == Wildcard {
			maps.DeleteFunc(in.held, func(name, _ string) bool { return !in.want[name] })
		} else if !in.want[Wildcard] {
			delete(in.held, name)
		}
	}
	c.poke()
}

// Seed says what is held already, from a snapshot. To be called before Run.
func (c *Client) Seed(rs []Resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rs {
		c.interest(r.Type).held[r.Name] = r.Version
	}
}

// Connected reports whether a stream is open.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Connected
}

// State returns the client's view of itself.
func (c *Client) State() ClientState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Vector = c.told.Clone()
	for _, t := range slices.Sorted(maps.Keys(c.types)) {
		in := c.types[t]
		var sum uint64
		for name, version := range in.held {
			sum += sumOf(name, version)
		}
		s.Types = append(s.Types, ClientType{t, len(in.want), len(in.held), digest(sum), in.complete})
	}
	return s
}

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run connects and follows until ctx ends, and returns its error.
func (c *Client) Run(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		progress, err := c.follow(ctx)
		c.note(false, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if progress {
			attempt = 0
		}
		wait := c.backoff(attempt)
		c.cfg.Log.Info("the control plane is not followed", "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// backoff is a random part of a time that doubles, at least a tenth of the least, so
// that a fleet does not return as one ("full jitter").
func (c *Client) backoff(attempt int) time.Duration {
	most := c.cfg.MaxBackoff
	if attempt < 30 {
		most = min(most, c.cfg.MinBackoff<<attempt)
	}
	return max(c.cfg.MinBackoff/10, time.Duration(c.cfg.Rand()*float64(most)))
}

func (c *Client) note(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if connected != c.state.Connected {
		c.state.Connected = connected
		c.state.Since = c.cfg.Now()
	}
	if connected {
		c.state.Streams++
		c.state.Error = ""
	} else if err != nil {
		c.state.Error = err.Error()
	}
}

// follow is one stream from dial to its end; progress says that something was received.
func (c *Client) follow(parent context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	c.mu.Lock()
	c.state.Attempts++
	c.mu.Unlock()
	conn, closer, err := c.cfg.Dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial the control plane: %w", err)
	}
	received := make(chan received)
	done := make(chan struct{})
	defer func() { // in this order: the stream, the connection, the receiver
		cancel(nil)
		if closer != nil {
			err = errors.Join(err, closer.Close())
		}
		<-done
	}()
	desc := &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, fullName, grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(messageMax))
	if err != nil {
		close(done)
		return false, fmt.Errorf("open a discovery stream: %w", err)
	}
	d := &dog{}
	d.timer = time.AfterFunc(silenceMax, func() {
		if d.asked.Load() { // a server says nothing to whom it does not know
			cancel(errSilent)
		}
	})
	defer d.timer.Stop()
	go func() {
		defer close(done)
		receive(ctx, stream, received, d.timer)
	}()
	return c.converse(ctx, stream, received, d)
}

// dog watches a stream: its timer runs while the client waits for something to arrive.
type dog struct {
	timer *time.Timer
	asked atomic.Bool
}

// errSilent ends a stream whose server gave no sign of life.
var errSilent = fmt.Errorf("the server was silent for %v", silenceMax)

// received is a response or the end of the stream.
type received struct {
	response *response
	err      error
}

// receive hands on what arrives, but signs of life. The timer runs while it waits; the
// time that the handler takes does not count.
func receive(ctx context.Context, stream grpc.ClientStream, to chan<- received, timer *time.Timer) {
	for {
		r := received{response: &response{}}
		timer.Reset(silenceMax)
		r.err = stream.RecvMsg(r.response)
		timer.Stop()
		if r.err == nil && r.response.typ == "" {
			continue
		}
		if cause := context.Cause(ctx); r.err != nil && cause != nil {
			r.err = cause
		}
		select {
		case to <- r:
		case <-ctx.Done():
			return
		}
		if r.err != nil {
			return
		}
	}
}

// converse sends what is to be said and applies what is received.
func (c *Client) converse(ctx context.Context, stream grpc.ClientStream, from <-chan received, d *dog) (progress bool, err error) {
	node := c.connect()
	c.note(true, nil)
	c.poke()
	for {
		select {
		case <-ctx.Done():
			return progress, context.Cause(ctx)
		case <-c.wake:
			asks, types := c.requests()
			for _, r := range asks {
				if node != nil { // once a stream
					r.node, r.types, node = node, types, nil
					d.asked.Store(true)
					d.timer.Reset(silenceMax)
				}
				if err := stream.SendMsg(r); err != nil {
					return progress, fmt.Errorf("ask for %s: %w", r.typ, ending(ctx, from, err))
				}
			}
		case r := <-from:
			if r.err != nil {
				return progress, fmt.Errorf("receive: %w", r.err)
			}
			progress = true
			answer, err := c.apply(r.response)
			if err != nil {
				return progress, err
			}
			if err := stream.SendMsg(answer); err != nil {
				return progress, fmt.Errorf("answer for %s: %w", answer.typ, ending(ctx, from, err))
			}
		}
	}
}

// ending is why a message could not be sent. gRPC says io.EOF to a sender whose stream has
// ended; the reason comes to the receiver.
func ending(ctx context.Context, from <-chan received, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	for {
		select {
		case r := <-from:
			if r.err != nil {
				return r.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// connect prepares the first requests of a stream and returns the node to show.
func (c *Client) connect() *Node {
	node := speaking(c.cfg.Node())
	c.mu.Lock()
	defer c.mu.Unlock()
	node.Vector = node.Vector.Clone()
	if node.Vector == nil {
		node.Vector = mesh.Vector{}
	}
	node.Vector.Merge(c.told)
	c.told = node.Vector.Clone()
	for _, in := range c.types {
		in.complete, in.unsure = false, nil
		clear(in.leave)
		in.join = maps.Clone(in.want)
	}
	return &node
}

// requestMax is how much of a message names and versions may take.
const requestMax = MaxMessage - 64<<10

// requests takes what is to be said: of each type what is left, then what is new with
// the versions held, in as many messages as it takes.
func (c *Client) requests() (out []*request, types int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.order {
		in := c.types[t]
		if len(in.leave)+len(in.join) == 0 {
			continue
		}
		out = append(out, in.requests(t)...)
		clear(in.leave)
		clear(in.join)
		types++
	}
	return out, types
}

func (in *interest) requests(t string) []*request {
	r := &request{typ: t, initial: map[string]string{}}
	out, size := []*request{r}, 0
	fits := func(n int) {
		if size+n > requestMax {
			r = &request{typ: t, initial: map[string]string{}}
			out, size = append(out, r), 0
		}
		size += n
	}
	for _, name := range slices.Sorted(maps.Keys(in.leave)) {
		fits(len(name) + 8)
		r.unsubscribe = append(r.unsubscribe, name)
	}
	if in.join[Wildcard] {
		in.complete = false
		r.subscribe = append(r.subscribe, Wildcard)
		for _, name := range slices.Sorted(maps.Keys(in.held)) {
			n := len(name) + len(in.held[name]) + 16
			if size+n > requestMax {
				if in.unsure == nil {
					in.unsure = map[string]bool{}
				}
				in.unsure[name] = true
				continue
			}
			size += n
			r.initial[name] = in.held[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.join)) {
		if name == Wildcard {
			continue
		}
		in.complete = false
		version, held := in.held[name]
		fits(2*len(name) + len(version) + 24)
		r.subscribe = append(r.subscribe, name)
		if held && !in.unsure[name] {
			r.initial[name] = version
		}
	}
	return out
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/core/ir"
)

// method is the call of delta discovery (envoy/service/discovery/v3/ads.proto).
const method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// Field numbers of discovery.proto.
const (
	reqNode, reqType, reqSubscribe, reqNonce = 1, 2, 3, 6
	respResources, respType, respNonce       = 2, 4, 5
	resName                                  = 3
)

// interest is what every proxy of a fleet asks for of one type: names, or with none everything. It has been served when it
// was sent as many resources as want, zero for none that counts.
type interest struct {
	typ   string
	names []string
	of    func(i int) []string // instead of names: of proxy i
	want  int
}

// server is where a fleet goes.
type server struct {
	addr      string
	tls       *tls.Config
	node      func(i int) []byte // a Node, encoded
	interests []interest
}

// fleet is proxies as a control plane sees them: a connection and a stream each. It reads what it is sent as far as
// names and acknowledges it, and keeps nothing: its own cost must not be that of proxies.
type fleet struct {
	server server
	conns  []*client // each set before its first configuration is there
	ctx    context.Context
	stop   context.CancelFunc
	run    sync.WaitGroup

	served  sync.WaitGroup // first configurations
	bytes   atomic.Int64
	splits  atomic.Int64 // resources of that type that arrived
	waiting atomic.Pointer[arrival]
	stale   atomic.Pointer[staleness]
	failed  atomic.Pointer[error]
}

// arrival is one change on its way to every stream.
type arrival struct {
	typ, name string
	seen      []atomic.Int64 // by stream: when, in nanoseconds since began
	left      atomic.Int64
	began     time.Time
	done      chan struct{}
}

// staleness are many changes on their way.
type staleness struct {
	typ     string
	index   map[string]int
	changed []atomic.Int64       // when, in nanoseconds since began, by name; 0 is never
	took    [10_000]atomic.Int64 // counts by milliseconds
	began   time.Time
}

// reader is one stream's end.
type reader struct {
	fleet *fleet
	i     int
	ack   []byte
	got   []int // resources so far, by interest
	left  int   // interests not served
	names int   // of a message
}

// connect opens n streams at once and returns when all have their first configuration.
func connect(ctx context.Context, s server, n int) (*fleet, error) {
	ctx, stop := context.WithCancel(ctx)
	f := &fleet{server: s, ctx: ctx, stop: stop, conns: make([]*client, n)}
	f.served.Add(n)
	for i := range n {
		f.run.Go(func() {
			if err := f.follow(i); ctx.Err() == nil {
				err = fmt.Errorf("stream %d: %w", i, err)
				f.failed.CompareAndSwap(nil, &err)
				stop()
			}
		})
	}
	if err := f.until(&f.served, 5*time.Minute); err != nil {
		f.close()
		return nil, fmt.Errorf("first configuration: %w", err)
	}
	return f, nil
}

// until waits for a group, for the fleet's failure, or for too long.
func (f *fleet) until(g *sync.WaitGroup, bound time.Duration) error {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	return f.wait(done, bound)
}

func (f *fleet) wait(done <-chan struct{}, bound time.Duration) error {
	t := time.NewTimer(bound)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-f.ctx.Done():
		if err := f.failed.Load(); err != nil {
			return *err
		}
		return f.ctx.Err()
	case <-t.C:
		return fmt.Errorf("not within %v", bound)
	}
}

// close ends the fleet.
func (f *fleet) close() {
	f.stop()
	f.run.Wait()
}

// dial connects, as a proxy does: a handshake for which a busy machine had no time is tried again, after a pause with full jitter.
func (f *fleet) dial() (*client, error) {
	for most := redialMin; ; most = min(2*most, redialMax) {
		c, err := dial(f.ctx, f.server.addr, f.server.tls)
		if err == nil || f.ctx.Err() != nil {
			return c, err
		}
		if err := rig.Pause(f.ctx, rand.N(most)); err != nil {
			return nil, err
		}
	}
}

// How long a proxy waits at most before it tries again, at first and at last (xds.ClientConfig).
const (
	redialMin = 100 * time.Millisecond
	redialMax = 10 * time.Second
)

// follow is one connection and its stream, until either ends.
func (f *fleet) follow(i int) error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.close()
	defer context.AfterFunc(f.ctx, c.close)()
	f.conns[i] = c
	id, err := c.open(method, nil)
	if err != nil {
		return err
	}
	r := &reader{fleet: f, i: i, got: make([]int, len(f.server.interests))}
	for _, in := range f.server.interests {
		if in.want > 0 {
			r.left++
		}
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer c.close()
	asking.Go(func() { // beside the reader, which is told how much may be sent
		if err := f.ask(c, id, i); err != nil {
			c.fail(err)
			c.close()
		}
	})
	return c.run(id, func(m []byte) error {
		if err := r.read(m); err != nil || r.ack == nil {
			return err
		}
		return c.send(id, r.ack, false)
	})
}

// ask sends the first requests of proxy i.
func (f *fleet) ask(c *client, id uint32, i int) error {
	for k, in := range f.server.interests {
		var q []byte
		if k == 0 {
			q = appendField(q, reqNode, f.server.node(i))
		}
		q = appendField(q, reqType, []byte(in.typ))
		names := in.names
		if in.of != nil {
			names = in.of(i)
		}
		for _, n := range names {
			q = appendField(q, reqSubscribe, []byte(n))
		}
		if err := c.send(id, q, false); err != nil {
			return err
		}
	}
	return nil
}

func appendField(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

var errShape = errors.New("not a DeltaDiscoveryResponse")

// read takes a response apart as far as names, and makes its acknowledgement.
func (r *reader) read(b []byte) error {
	now := time.Now()
	f := r.fleet
	f.bytes.Add(int64(len(b)))
	var typ, nonce []byte
	if !fields(b, func(n protowire.Number, v []byte) {
		switch n {
		case respType:
			typ = v
		case respNonce:
			nonce = v
		}
	}) {
		return errShape
	}
	if r.ack = nil; len(typ) == 0 {
		return nil // a sign of life
	}
	wait, stale := f.waiting.Load(), f.stale.Load()
	r.names = 0
	if !fields(b, func(n protowire.Number, v []byte) {
		if n != respResources {
			return
		}
		r.names++
		if wait == nil && stale == nil {
			return
		}
		fields(v, func(n protowire.Number, name []byte) {
			if n != resName {
				return
			}
			if wait != nil && wait.typ == string(typ) && wait.name == string(name) {
				wait.arrived(r.i, now)
			}
			if stale != nil && stale.typ == string(typ) {
				stale.arrived(name, now)
			}
		})
	}) {
		return errShape
	}
	if string(typ) == string(ir.TypeSplit) {
		f.splits.Add(int64(r.names))
	}
	for k, in := range f.server.interests {
		if in.want > 0 && in.typ == string(typ) && r.got[k] < in.want {
			if r.got[k] += r.names; r.got[k] >= in.want {
				if r.left--; r.left == 0 {
					f.served.Done()
				}
			}
		}
	}
	r.ack = appendField(appendField(nil, reqType, typ), reqNonce, nonce)
	return nil
}

// fields calls do for every length-delimited field.
func fields(b []byte, do func(protowire.Number, []byte)) bool {
	for len(b) > 0 {
		n, t, k := protowire.ConsumeTag(b)
		if k < 0 {
			return false
		}
		b = b[k:]
		if t != protowire.BytesType {
			if k = protowire.ConsumeFieldValue(n, t, b); k < 0 {
				return false
			}
			b = b[k:]
			continue
		}
		v, k := protowire.ConsumeBytes(b)
		if k < 0 {
			return false
		}
		do(n, v)
		b = b[k:]
	}
	return true
}

func (a *arrival) arrived(i int, now time.Time) {
	if a.seen[i].CompareAndSwap(0, max(int64(now.Sub(a.began)), 1)) && a.left.Add(-1) == 0 {
		close(a.done)
	}
}

func (s *staleness) arrived(name []byte, now time.Time) {
	i, ok := s.index[string(name)]
	if !ok {
		return
	}
	at := s.changed[i].Load()
	if at == 0 {
		return
	}
	took := (int64(now.Sub(s.began)) - at) / int64(time.Millisecond)
	s.took[min(max(took, 0), int64(len(s.took))-1)].Add(1)
}

// quantile is below what a share of the arrivals took.
func (s *staleness) quantile(q float64) (took time.Duration, n int64) {
	for i := range s.took {
		n += s.took[i].Load()
	}
	left := int64(q * float64(n))
	for i := range s.took {
		if left -= s.took[i].Load(); left < 0 {
			return time.Duration(i+1) * time.Millisecond, n
		}
	}
	return time.Duration(len(s.took)) * time.Millisecond, n
}

// spread makes a change and waits until every stream was sent the resource: how long it took for each, sorted, from before the
// change was asked for.
func (f *fleet) spread(typ, name string, change func() error) ([]time.Duration, error) {
	took, err := spread(typ, name, change, f)
	if err != nil {
		return nil, err
	}
	return took[0], nil
}

// spread is a change that several fleets are sent; the times are by fleet.
func spread(typ, name string, change func() error, fleets ...*fleet) ([][]time.Duration, error) {
	began := time.Now()
	var arrivals []*arrival
	for _, f := range fleets {
		n := len(f.conns)
		a := &arrival{typ: typ, name: name, seen: make([]atomic.Int64, n), began: began, done: make(chan struct{})}
		a.left.Store(int64(n))
		arrivals = append(arrivals, a)
		f.waiting.Store(a)
		defer f.waiting.Store(nil)
	}
	if err := change(); err != nil {
		return nil, err
	}
	var out [][]time.Duration
	for k, f := range fleets {
		a := arrivals[k]
		if err := f.wait(a.done, time.Minute); err != nil {
			return nil, fmt.Errorf("%s %s to %d proxies, of which %d did not get it: %w", typ, name, len(a.seen), a.left.Load(), err)
		}
		took := make([]time.Duration, len(a.seen))
		for i := range took {
			took[i] = time.Duration(a.seen[i].Load())
		}
		slices.Sort(took)
		out = append(out, took)
	}
	return out, nil
}

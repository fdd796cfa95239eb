package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// messageBytesMax bounds one message of a stream. etcd cuts what is longer than
// its own request limit, 1.5 MiB, into fragments, between events.
const messageBytesMax = 4 << 20

// silentTicks is how many unanswered progress requests end a stream.
const silentTicks = 3

var errSilent = errors.New("the store stopped answering")

// follow reads one stream of everything after w.seen until it breaks.
//
// It speaks etcd's watch protocol itself. etcd's client has a watcher, which
// connects again by itself and asks for the next revision: on a store that was
// wiped meanwhile, that revision is in the future, and the watcher waits for it
// in silence while changes pass by.
func (w *watcher) follow(ctx context.Context, cluster uint64) error {
	s := w.store
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A member that lost its cluster must end the stream, not go quiet.
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)

	opened := time.AfterFunc(s.cfg.RequestTimeout, func() { cancel(errSilent) })
	defer opened.Stop()
	stream, err := etcdserverpb.NewWatchClient(s.client.ActiveConnection()).
		Watch(ctx, grpc.MaxCallRecvMsgSize(messageBytesMax))
	if err != nil {
		return fmt.Errorf("open watch: %w", err)
	}
	if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key:           []byte(s.cfg.Prefix),
			RangeEnd:      []byte(clientv3.GetPrefixRangeEnd(s.cfg.Prefix)),
			StartRevision: w.seen.Revision + 1,
			Fragment:      true,
		},
	}}); err != nil {
		return fmt.Errorf("open watch: %w", err)
	}
	var heard atomic.Int64
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		askProgress(ctx, stream, s.cfg.ProgressInterval, &heard, cancel)
	}()
	defer func() {
		cancel(nil)
		<-asked
	}()
	part := assembler{prefix: s.cfg.Prefix}
	for {
		resp, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
				err = cause
			}
			return fmt.Errorf("watch: %w", err)
		}
		heard.Add(1)
		opened.Stop()
		if err := s.cfg.Failpoints.Hit(ctx, PointWatchReceive); err != nil {
			return err
		}
		if resp.Header.ClusterId != cluster {
			return errOtherEpoch
		}
		if resp.Canceled {
			if resp.CompactRevision > 0 {
				return errCompacted
			}
			return fmt.Errorf("watch: the store ended it: %s", resp.CancelReason)
		}
		if resp.Created {
			continue
		}
		changes, revision, err := part.add(resp)
		if err != nil {
			return err
		}
		if revision > 0 {
			if err := w.advance(changes, revision); err != nil {
				return err
			}
		}
	}
}

// askProgress asks at every interval how far the store is, so that the revision
// moves while nothing happens to us and a dead peer is noticed. It ends with ctx,
// and ends the stream when nothing at all was heard for silentTicks intervals.
func askProgress(ctx context.Context, stream etcdserverpb.Watch_WatchClient, every time.Duration, heard *atomic.Int64, cancel context.CancelCauseFunc) {
	t := time.NewTicker(every)
	defer t.Stop()
	last, silent := heard.Load(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := heard.Load()
		silent++
		if now != last {
			last, silent = now, 0
		}
		if silent >= silentTicks {
			cancel(errSilent)
			return
		}
		req := &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
			ProgressRequest: &etcdserverpb.WatchProgressRequest{},
		}}
		if stream.Send(req) != nil {
			return // Recv says why
		}
	}
}

// An assembler turns messages of a stream into whole revisions.
type assembler struct {
	prefix string
	rest   []change // of a revision that goes on in the next fragment
}

// add returns the changes of all revisions that resp completes and the last of
// these revisions; 0 is none.
//
// A message holds whole revisions, unless it is a fragment: then its last
// revision may go on in the next. With events, the header's revision is no guide:
// it is the store's, which may be ahead of what a watch was sent. Without, it
// answers a progress request, which etcd does only for a watch that was sent
// everything.
func (a *assembler) add(resp *etcdserverpb.WatchResponse) ([]change, int64, error) {
	if len(resp.Events) == 0 {
		if resp.Fragment || len(a.rest) > 0 {
			return nil, 0, nil
		}
		return nil, resp.Header.Revision, nil
	}
	changes := a.rest
	a.rest = nil
	for _, e := range resp.Events {
		if string(e.Kv.Key) == a.prefix+epochName {
			return nil, 0, errOtherEpoch
		}
		key, ok := decodeKey(a.prefix, e.Kv.Key)
		if !ok {
			continue
		}
		c := change{object: object(key, e.Kv), deleted: e.Type == mvccpb.DELETE}
		changes = append(changes, c)
	}
	last := resp.Events[len(resp.Events)-1].Kv.ModRevision
	if !resp.Fragment {
		return changes, last, nil
	}
	cut := len(changes)
	for cut > 0 && changes[cut-1].object.Revision == last {
		cut--
	}
	a.rest = append(a.rest, changes[cut:]...)
	return changes[:cut:cut], last - 1, nil
}

package store

import (
	"context"
	"encoding/hex"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A history is what a server says of itself: which history it continues, how
// far that is, and etcd's own name for the files it is in.
type history struct {
	Position
	cluster  uint64
	writtenA int64 // revision at which the epoch was written, to replace it
}

// Now returns the store's epoch and its current revision, and ErrUnavailable if
// the store is away. It gives a history that has no epoch yet, which is one that
// just began, a random one: a store that was wiped thus has another epoch.
func (s *Store) Now(ctx context.Context) (Position, error) {
	h, err := s.history(ctx)
	if err != nil {
		return Position{}, s.fail(ctx, "epoch", Key{}, err)
	}
	return h.Position, nil
}

// history reads the epoch, and writes it first if there is none.
func (s *Store) history(ctx context.Context) (history, error) {
	rctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.client.Get(rctx, s.cfg.Prefix+epochName)
	if err != nil {
		return history{}, err
	}
	if len(resp.Kvs) == 0 {
		return s.beginEpoch(rctx, 0)
	}
	kv := resp.Kvs[0]
	return history{
		Position: Position{Epoch: string(kv.Value), Revision: resp.Header.Revision},
		cluster:  resp.Header.ClusterId,
		writtenA: kv.ModRevision,
	}, nil
}

// beginEpoch replaces the epoch written at revision old, 0 for none, by a new
// one. Of several clients that see the same need one writes, and all return what
// it wrote.
func (s *Store) beginEpoch(ctx context.Context, old int64) (history, error) {
	var b [16]byte
	if err := s.random(b[:]); err != nil {
		return history{}, fmt.Errorf("begin epoch: %w", err)
	}
	key, epoch := s.cfg.Prefix+epochName, hex.EncodeToString(b[:])
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", old)).
		Then(clientv3.OpPut(key, epoch)).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return history{}, fmt.Errorf("begin epoch: %w", err)
	}
	h := history{
		Position: Position{Epoch: epoch, Revision: resp.Header.Revision},
		cluster:  resp.Header.ClusterId,
		writtenA: resp.Header.Revision,
	}
	if !resp.Succeeded {
		kvs := resp.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			return history{}, fmt.Errorf("begin epoch: the one written at revision %d is gone", old)
		}
		h.Epoch, h.writtenA = string(kvs[0].Value), kvs[0].ModRevision
	}
	return h, nil
}

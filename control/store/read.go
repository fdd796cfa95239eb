package store

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// listPage is how many objects one request of List asks for; a page of the
// largest objects is 64 MiB.
const listPage = 64

// listAttempts bounds how often List starts over because its revision was
// compacted under it, which takes a list of minutes to happen once.
const listAttempts = 3

// Get returns the object of key, or ErrNotFound. It sees every write that was
// acknowledged before.
func (s *Store) Get(ctx context.Context, key Key) (Object, error) {
	if err := key.validate(); err != nil {
		return Object{}, &Error{Op: "get", Key: key, Cause: err}
	}
	rctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.cfg.Failpoints.Hit(rctx, PointRead); err != nil {
		return Object{}, s.fail(ctx, "get", key, err)
	}
	resp, err := s.client.Get(rctx, key.encode(s.cfg.Prefix))
	if err != nil {
		return Object{}, s.fail(ctx, "get", key, err)
	}
	if len(resp.Kvs) == 0 {
		return Object{}, &Error{Op: "get", Key: key, Kind: ErrNotFound}
	}
	return object(key, resp.Kvs[0]), nil
}

// List returns the objects of scope, ordered by kind, namespace and name, all as
// of one revision, and that revision.
func (s *Store) List(ctx context.Context, scope Scope) ([]Object, int64, error) {
	if err := scope.validate(); err != nil {
		return nil, 0, &Error{Op: "list", Cause: err}
	}
	var err error
	for range listAttempts {
		var all []Object
		var at int64
		all, at, err = s.listOnce(ctx, scope)
		if err == nil {
			return all, at, nil
		}
		if !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return nil, 0, s.fail(ctx, "list", Key{}, err)
}

// listOnce reads scope page by page at the revision of the first page.
func (s *Store) listOnce(ctx context.Context, scope Scope) ([]Object, int64, error) {
	from := scope.encode(s.cfg.Prefix)
	end := clientv3.GetPrefixRangeEnd(from)
	var all []Object
	var at int64
	for {
		resp, err := s.page(ctx, from, end, at)
		if err != nil {
			return nil, 0, err
		}
		if at == 0 {
			at = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if key, ok := decodeKey(s.cfg.Prefix, kv.Key); ok {
				all = append(all, object(key, kv))
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return all, at, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) page(ctx context.Context, from, end string, at int64) (*clientv3.GetResponse, error) {
	rctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.cfg.Failpoints.Hit(rctx, PointRead); err != nil {
		return nil, err
	}
	return s.client.Get(rctx, from, clientv3.WithRange(end), clientv3.WithLimit(listPage), clientv3.WithRev(at))
}

// object is kv in our words.
func object(key Key, kv *mvccpb.KeyValue) Object {
	return Object{Key: key, Value: kv.Value, Revision: kv.ModRevision, Created: kv.CreateRevision}
}

package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// BatchMax bounds the writes of one Batch, as etcd does.
const BatchMax = 128

// batchBytesMax bounds the values of one Batch: etcd refuses a request above
// 1.5 MiB.
const batchBytesMax = ValueBytesMax + ValueBytesMax/4

// A Precondition says in which state of an object a write is wanted. Otherwise
// nothing is written, and the error says what was found. The zero Precondition
// is Any.
type Precondition struct {
	absent   bool
	revision int64
}

// Any writes whatever is there. A Delete still wants something to delete.
func Any() Precondition { return Precondition{} }

// MustNotExist writes only if there is no such object. It is not for Delete.
func MustNotExist() Precondition { return Precondition{absent: true} }

// AtRevision writes only if the object's Revision is n, above 0.
func AtRevision(n int64) Precondition { return Precondition{revision: n} }

// Put writes o's Value and returns the revision at which it was written. It
// fails with ErrExists, ErrConflict, ErrNotFound (AtRevision, and there is no
// such object), ErrTooLarge, ErrFull or ErrUnavailable.
//
// A nil error means the write is on the store's disk.
func (s *Store) Put(ctx context.Context, o Object, pre Precondition) (int64, error) {
	return s.write(ctx, "put", []Op{{Object: o, Pre: pre}})
}

// Delete removes the object of key and returns the revision at which it was
// removed. It fails as Put does, and with ErrNotFound.
func (s *Store) Delete(ctx context.Context, key Key, pre Precondition) (int64, error) {
	return s.write(ctx, "delete", []Op{{Object: Object{Key: key}, Delete: true, Pre: pre}})
}

// An Op is one write of a Batch.
type Op struct {
	// Object is what to put; only its Key counts when Delete is set.
	Object Object
	Delete bool
	Pre    Precondition
}

// Batch writes all of ops at one revision, or, if any precondition fails, none;
// the error then names the first that does. It holds at most BatchMax writes, one
// for a key, and 1.25 MiB.
func (s *Store) Batch(ctx context.Context, ops []Op) (int64, error) {
	return s.write(ctx, "batch", ops)
}

func (s *Store) write(ctx context.Context, op string, ops []Op) (int64, error) {
	if err := CheckOps(op, ops); err != nil {
		return 0, err
	}
	var compares []clientv3.Cmp
	var writes, reads []clientv3.Op
	for _, o := range ops {
		raw := o.Object.encode(s.cfg.Prefix)
		if c, ok := o.compare(raw); ok {
			compares = append(compares, c)
		}
		if o.Delete {
			writes = append(writes, clientv3.OpDelete(raw))
		} else {
			writes = append(writes, clientv3.OpPut(raw, string(o.Object.Value)))
		}
		reads = append(reads, clientv3.OpGet(raw, clientv3.WithKeysOnly()))
	}
	key := ops[0].Object.Key
	if len(ops) > 1 {
		key = Key{}
	}
	rctx, cancel := s.bound(ctx)
	defer cancel()
	if err := s.cfg.Failpoints.Hit(rctx, PointSend); err != nil {
		return 0, s.fail(ctx, op, key, err)
	}
	resp, err := s.client.Txn(rctx).If(compares...).Then(writes...).Else(reads...).Commit()
	if err != nil {
		return 0, s.fail(ctx, op, key, err)
	}
	if err := s.cfg.Failpoints.Hit(rctx, PointAck); err != nil {
		return 0, s.fail(ctx, op, key, err)
	}
	if !resp.Succeeded {
		return 0, refusal(op, ops, resp)
	}
	return resp.Header.Revision, nil
}

// compare is o's precondition in etcd's words, if there is anything to compare.
func (o Op) compare(raw string) (clientv3.Cmp, bool) {
	switch {
	case o.Pre.absent:
		return clientv3.Compare(clientv3.CreateRevision(raw), "=", 0), true
	case o.Pre.revision != 0:
		return clientv3.Compare(clientv3.ModRevision(raw), "=", o.Pre.revision), true
	case o.Delete:
		return clientv3.Compare(clientv3.CreateRevision(raw), ">", 0), true
	}
	return clientv3.Cmp{}, false
}

// refusal says which precondition of ops did not hold, from what was read
// instead of writing.
func refusal(op string, ops []Op, resp *clientv3.TxnResponse) error {
	for i, o := range ops {
		var current int64
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			current = kvs[0].ModRevision
		}
		if err := o.Refusal(op, current); err != nil {
			return err
		}
	}
	return &Error{Op: op, Cause: errors.New("etcd refused a write whose preconditions hold")}
}

// Refusal is why a write is not made of an object whose revision is current, 0 for none; nil if it is.
func (o Op) Refusal(op string, current int64) error {
	e := &Error{Op: op, Key: o.Object.Key, Current: current}
	switch {
	case o.Pre.absent && current != 0:
		e.Kind = ErrExists
	case o.Pre.revision != 0 && current == 0, o.Delete && current == 0:
		e.Kind = ErrNotFound
	case o.Pre.revision != 0 && current != o.Pre.revision:
		e.Kind = ErrConflict
	default:
		return nil
	}
	return e
}

// CheckOps finds the faults of a write that are the caller's.
func CheckOps(op string, ops []Op) error {
	if len(ops) == 0 {
		return &Error{Op: op, Cause: errors.New("nothing to write")}
	}
	if len(ops) > BatchMax {
		return &Error{Op: op, Kind: ErrTooLarge, Cause: fmt.Errorf("%d writes, at most %d are allowed", len(ops), BatchMax)}
	}
	size := 0
	seen := make(map[Key]bool, len(ops))
	for _, o := range ops {
		key := o.Object.Key
		e := &Error{Op: op, Key: key}
		size += len(o.Object.Value)
		switch err := key.validate(); {
		case err != nil:
			e.Cause = err
		case seen[key]:
			e.Cause = errors.New("is written twice in one batch")
		case o.Delete && o.Pre.absent:
			e.Cause = errors.New("cannot delete what must not exist")
		case o.Pre.revision < 0:
			e.Cause = fmt.Errorf("revision %d is negative", o.Pre.revision)
		case len(o.Object.Value) > ValueBytesMax:
			e.Kind = ErrTooLarge
			e.Cause = fmt.Errorf("%d bytes, at most %d are allowed", len(o.Object.Value), ValueBytesMax)
		default:
			seen[key] = true
			continue
		}
		return e
	}
	if size > batchBytesMax {
		return &Error{Op: op, Kind: ErrTooLarge, Cause: fmt.Errorf("%d bytes, at most %d are allowed", size, batchBytesMax)}
	}
	return nil
}

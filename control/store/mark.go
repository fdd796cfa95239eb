package store

import (
	"context"
	"crypto/sha256"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A mark is a write that a watch has seen, by which a history is known again. A revision alone would not do: a store of
// which an old copy was put back, and that somebody who did not know wrote on, may have come as far by the time a watch
// that was away asks again, with other writes. The zero mark is none.
type mark struct {
	key      Key
	revision int64
	deleted  bool
	value    [sha256.Size]byte
}

func markOf(c change) mark {
	return mark{c.object.Key, c.object.Revision, c.deleted, sha256.Sum256(c.object.Value)}
}

// lastOf is the mark of the latest of some objects.
func lastOf(all []Object) (m mark) {
	var last Object
	for _, o := range all {
		if o.Revision > last.Revision {
			last = o
		}
	}
	if last.Revision == 0 {
		return mark{}
	}
	return markOf(change{object: last})
}

// holds reports whether the store has the write where it was. What was compacted since is believed.
func (s *Store) holds(ctx context.Context, m mark) (bool, error) {
	if m.revision == 0 {
		return true, nil
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	key := m.key.encode(s.cfg.Prefix)
	resp, err := s.client.Get(ctx, key, clientv3.WithRev(m.revision))
	compacted := errors.Is(err, rpctypes.ErrCompacted)
	if compacted {
		resp, err = s.client.Get(ctx, key)
	}
	switch {
	case err != nil:
		return false, err
	case len(resp.Kvs) == 0:
		return m.deleted || compacted, nil
	case resp.Kvs[0].ModRevision == m.revision:
		return !m.deleted && sha256.Sum256(resp.Kvs[0].Value) == m.value, nil
	}
	return compacted && resp.Kvs[0].ModRevision > m.revision, nil
}

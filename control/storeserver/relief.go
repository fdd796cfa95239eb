package storeserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// reliefEvery is how often a full store looks whether there is room again.
const reliefEvery = 2 * time.Second

// reliefMax bounds one attempt to make room.
const reliefMax = time.Minute

// relieve lets a store that was full take writes again, until ctx ends.
//
// etcd raises an alarm when its database reaches the quota, refuses every
// further put, and keeps the alarm until an operator has compacted,
// defragmented and disarmed it. Deleting objects, which it still accepts, is all
// that the user of a mesh should have to do; the rest is done here.
func relieve(ctx context.Context, e *etcdserver.EtcdServer, quota int64, log *slog.Logger) {
	t := time.NewTicker(reliefEvery)
	defer t.Stop()
	var compacted int64 // the revision up to which there is nothing to gain
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !full(e) {
			compacted = 0
			continue
		}
		if compacted == 0 {
			log.Error("the store is full and refuses writes; delete objects or raise quotaBytes", "quota_bytes", quota)
		}
		// Nothing was written since: compacting again would gain nothing.
		if rev := e.KV().Rev(); rev == compacted {
			continue
		}
		at, err := makeRoom(ctx, e, quota)
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot make room in a full store", "error", err)
		}
		compacted = at
	}
}

// full says whether etcd refuses puts for want of space.
func full(e *etcdserver.EtcdServer) bool {
	for _, a := range e.Alarms() {
		if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// makeRoom drops all history, gives the freed pages back, and ends the alarm if
// that leaves a tenth of the quota. It returns the revision it compacted.
func makeRoom(ctx context.Context, e *etcdserver.EtcdServer, quota int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, reliefMax)
	defer cancel()
	rev := e.KV().Rev()
	_, err := e.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: rev, Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return 0, fmt.Errorf("compact revision %d: %w", rev, err)
	}
	if err := e.Backend().Defrag(); err != nil {
		return 0, fmt.Errorf("defragment: %w", err)
	}
	if e.Backend().Size() > quota-quota/10 {
		return rev, nil
	}
	if _, err := e.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action:   etcdserverpb.AlarmRequest_DEACTIVATE,
		MemberID: uint64(e.MemberID()),
		Alarm:    etcdserverpb.AlarmType_NOSPACE,
	}); err != nil {
		return 0, fmt.Errorf("end the alarm: %w", err)
	}
	return rev, nil
}

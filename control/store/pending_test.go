package store

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

// TestTakingRarelyOrOftenEndsTheSame: however often a consumer takes, it ends
// with the state that all changes in order make.
func TestTakingRarelyOrOftenEndsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pending{keysMax: 3, bytesMax: 20}
		want, got := map[Key]string{}, map[Key]string{}
		overflowed := false
		n := rapid.IntRange(0, 40).Draw(t, "changes")
		take := func() {
			e, ok := p.take()
			if !ok {
				return
			}
			if e.Resync {
				got = map[Key]string{}
			}
			for _, o := range e.Puts {
				got[o.Key] = string(o.Value)
			}
			for _, d := range e.Deletes {
				delete(got, d.Key)
			}
		}
		for revision := int64(1); revision <= int64(n); revision++ {
			c := change{deleted: rapid.Bool().Draw(t, "delete")}
			c.object.Key = Key{Kind: "K", Name: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "key"))}
			c.object.Revision = revision
			if c.deleted {
				delete(want, c.object.Key)
			} else {
				c.object.Value = fmt.Append(nil, revision)
				want[c.object.Key] = string(c.object.Value)
			}
			if !p.advance([]change{c}, revision) {
				overflowed = true
				if len(p.changes) != 0 || p.bytes != 0 {
					t.Fatalf("overflowed and still holds %d changes, %d bytes", len(p.changes), p.bytes)
				}
				var all []Object
				for k, v := range want {
					all = append(all, Object{Key: k, Value: []byte(v), Revision: revision})
				}
				p.reset(Position{Epoch: "e", Revision: revision}, all)
			}
			if !p.resync && (len(p.changes) > p.keysMax || p.bytes > p.bytesMax) {
				t.Fatalf("holds %d keys, %d bytes", len(p.changes), p.bytes)
			}
			if rapid.Bool().Draw(t, "take") {
				take()
			}
		}
		take()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("overflowed %v: got %v, want %v", overflowed, got, want)
		}
		if p.bytes != 0 || p.news {
			t.Fatalf("after taking all: %+v", p)
		}
	})
}

func event(name string, revision int64) *mvccpb.Event {
	key := Key{Kind: "K", Name: name}.encode("/p/")
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision}}
}

func message(fragment bool, header int64, events ...*mvccpb.Event) *etcdserverpb.WatchResponse {
	return &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: header}, Fragment: fragment, Events: events}
}

func TestFragmentsAreHeldUntilTheirRevisionIsWhole(t *testing.T) {
	a := assembler{prefix: "/p/"}
	for i, c := range []struct {
		in       *etcdserverpb.WatchResponse
		names    string
		revision int64
	}{
		{message(false, 9), "", 9}, // progress
		{message(false, 20, event("a", 10), event("b", 11)), "ab", 11},
		{message(true, 30, event("c", 12), event("d", 13)), "c", 12},
		{message(true, 30, event("e", 13)), "", 12},
		{message(true, 30, event("f", 13), event("g", 14)), "def", 13},
		{message(false, 30, event("h", 14), event("i", 15)), "ghi", 15},
		{message(false, 31), "", 31},
	} {
		changes, revision, err := a.add(c.in)
		names := ""
		for _, ch := range changes {
			names += ch.object.Name
		}
		if err != nil || names != c.names || revision != c.revision {
			t.Errorf("message %d: got %q at %d, %v; want %q at %d", i, names, revision, err, c.names, c.revision)
		}
	}
	foreign := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("/p/else"), ModRevision: 40}}
	if changes, revision, err := a.add(message(false, 40, foreign)); len(changes) != 0 || revision != 40 || err != nil {
		t.Errorf("an entry that is not ours: %v, %d, %v", changes, revision, err)
	}
	epoch := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("/p/epoch"), ModRevision: 41}}
	if _, _, err := a.add(message(false, 41, epoch)); err != errOtherEpoch {
		t.Errorf("a new epoch: %v", err)
	}
}

func FuzzDecodeKey(f *testing.F) {
	for _, seed := range []string{"/p/objects/K/ns/n", "/p/objects/K//n", "/p/epoch", "/p/objects/K/a/b/c", "/q/"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, ok := decodeKey("/p/", raw)
		if ok && k.encode("/p/") != string(raw) {
			t.Errorf("%q decodes to %v, which encodes to %q", raw, k, k.encode("/p/"))
		}
	})
}

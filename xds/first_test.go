package xds

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

const firstNames = 1000

// asking is a server with resources of one type, which some stream holds, and the first request of another that asks for all by name.
func asking(t testing.TB) (*Server, []byte) {
	t.Helper()
	s := NewServer(ServerConfig{Source: open{}, Order: []string{"t"}})
	r := &request{node: &Node{ID: "n"}, typ: "t"}
	var set []Update
	for i := range firstNames {
		name := fmt.Sprintf("bench/svc-%d", i)
		r.subscribe = append(r.subscribe, name)
		set = append(set, Update{Type: "t", Name: name, Resource: &Resource{Type: "t", Name: name, Version: "1", Body: make([]byte, 300)}})
	}
	first := r.append(nil)
	st := s.begun(t)
	if err := (&Conversation{st}).Take(first); err != nil {
		t.Fatal(err)
	}
	s.Publish(nil, set)
	return s, first
}

// begun is a stream of nobody.
func (s *Server) begun(t testing.TB) *stream {
	st := &stream{s: s, wake: func(bool) {}, out: make(chan *frame, maxTypes), beat: make(chan struct{}, 1), done: make(chan struct{})}
	if err := s.open(st); err != nil {
		t.Fatal(err)
	}
	return st
}

// served takes a stream from its first request to the last answer.
func (s *Server) served(t testing.TB, st *stream, first []byte) {
	if err := (&Conversation{st}).Take(first); err != nil {
		t.Fatal(err)
	}
	for len(st.out) > 0 {
		if err := s.request(st, &request{typ: "t", answers: (<-st.out).nonce}); err != nil {
			t.Fatal(err)
		}
	}
	if !st.settled() {
		t.Fatal("it was not sent all that it asked for")
	}
}

// TestAFirstConfigurationAllocatesNothingForEachName: a thousand proxies ask for a thousand names of each of four types. Names that are
// known take no copy each, and no more than the stream's marks and its places among subscribers are kept.
func TestAFirstConfigurationAllocatesNothingForEachName(t *testing.T) {
	s, first := asking(t)
	one := func() {
		st := s.begun(t)
		s.served(t, st, first)
		s.close(st)
	}
	for range 32 {
		one() // lists of subscribers grow to what they keep
	}
	if n := testing.AllocsPerRun(20, one); n > 64 {
		t.Errorf("%v allocations for a first configuration of %d names, want at most 64", n, firstNames)
	}
}

// TestEntriesAreFoundInWhateverOrder: an entry is found by its ID and by its name, whether clients ask in the order of those before or
// not, when entries in between were dropped, and when the list closed over them.
func TestEntriesAreFoundInWhateverOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewServer(ServerConfig{Source: open{}})
		g := s.group(groupKey{"", "t"})
		want := map[string]uint32{}
		var last *entry
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			name := fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "name"))
			if rapid.Bool().Draw(t, "drop") {
				if e := g.entries[name]; e != nil {
					g.release(e)
					delete(want, name)
				}
				continue
			}
			e := g.after(last, name)
			if id, known := want[name]; e.name != name || e.dropped || known && e.id != id {
				t.Fatalf("%q: found %+v, want ID %d (%v)", name, e, id, known)
			}
			want[name], last = e.id, e
		}
		for id := uint32(1); id <= g.nextID+1; id++ {
			if e := g.byID(id); e != nil && want[e.name] != id {
				t.Fatalf("ID %d is %+v", id, e)
			}
		}
		for name, id := range want {
			if e := g.byID(id); e == nil || e.name != name || g.entries[name] != e {
				t.Fatalf("ID %d is %+v, want %q", id, e, name)
			}
		}
	})
}

// BenchmarkFirst is the server's own share of a first configuration of a thousand names, and of its end.
func BenchmarkFirst(b *testing.B) {
	s, first := asking(b)
	b.ReportAllocs()
	for b.Loop() {
		st := s.begun(b)
		s.served(b, st, first)
		s.close(st)
	}
}

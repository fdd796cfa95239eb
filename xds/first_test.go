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
func (s *Server) begun(t interface{ Fatal(...any) }) *stream {
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

// TestWhoAsksForMuchIsToldTheSame plays one story to two servers, of which one has every subscription looked at for each change and the
// other lists each with each of its names: what streams are sent is the same, whoever comes, asks for more or less, and goes.
func TestWhoAsksForMuchIsToldTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var servers [2]*Server
		var streams [2][3]*stream
		for k, many := range []int{1, 1 << 30} {
			servers[k] = NewServer(ServerConfig{Source: open{}, Order: []string{"a"}})
			servers[k].manyNames = many
		}
		name := rapid.Map(rapid.IntRange(0, 9), func(n int) string { return fmt.Sprint("n", n) })
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i, do := rapid.IntRange(0, 2).Draw(t, "stream"), rapid.IntRange(0, 5).Draw(t, "do")
			names := rapid.SliceOfNDistinct(name, 1, 6, rapid.ID[string]).Draw(t, "names")
			version := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "version"))
			var sent [2]string
			for k, s := range servers {
				switch st := streams[k][i]; {
				case do == 0:
					var updates []Update
					for _, n := range names {
						u := Update{Type: "a", Name: n}
						if version != "0" {
							u.Resource = &Resource{Type: "a", Name: n, Version: version}
						}
						updates = append(updates, u)
					}
					s.Publish(nil, updates)
				case do == 1 && st != nil:
					s.close(st)
					streams[k][i] = nil
				case st == nil:
					streams[k][i] = s.begun(t)
					fallthrough
				default:
					r := &request{node: &Node{ID: "n"}, typ: "a"}
					if do == 2 && st != nil {
						r.unsubscribe = names
					} else {
						r.subscribe = names
					}
					if err := s.request(streams[k][i], r); err != nil {
						t.Fatal(err)
					}
				}
				for i, st := range streams[k] {
					for st != nil && len(st.out) > 0 {
						f := <-st.out
						for _, it := range f.items {
							sent[k] += fmt.Sprint(i, it.e.name, it.p == nil)
							if it.p != nil {
								sent[k] += it.p.version
							}
						}
						if err := s.request(st, &request{typ: "a", answers: f.nonce}); err != nil {
							t.Fatal(err)
						}
					}
					if st != nil {
						audit(t, st)
					}
				}
				for _, g := range s.groups {
					for _, e := range g.entries {
						listed := 0
						for _, no := range e.subs {
							if g.members[no] != nil {
								listed++
							}
						}
						if listed != e.listed {
							t.Fatalf("%d subscribers of %q are listed and %d counted", listed, e.name, e.listed)
						}
					}
				}
			}
			if sent[0] != sent[1] {
				t.Fatalf("%q was sent where all are broad, %q where none is", sent[0], sent[1])
			}
		}
	})
}

// TestStreamsThatFollowTheSameShareTheList: of the names that they follow there is one list a type, and not one a stream, also after names came
// and went for those that follow all there are. The control is a stream that asks for some others, which has its own.
func TestStreamsThatFollowTheSameShareTheList(t *testing.T) {
	s, first := asking(t)
	all := (&request{node: &Node{ID: "n"}, typ: "t"}).append(nil)
	var named, wild []*stream
	for range 5 {
		named, wild = append(named, s.begun(t)), append(wild, s.begun(t))
		s.served(t, named[len(named)-1], first)
		if err := (&Conversation{wild[len(wild)-1]}).Take(all); err != nil {
			t.Fatal(err)
		}
	}
	other := s.begun(t)
	if err := (&Conversation{other}).Take((&request{node: &Node{ID: "n"}, typ: "t", subscribe: []string{"bench/svc-7", "bench/svc-9"}}).append(nil)); err != nil {
		t.Fatal(err)
	}
	lists := func(of []*stream) int {
		seen := map[*uint32]bool{}
		for _, st := range of {
			seen[&st.subs[0].ids[0]] = true
		}
		return len(seen)
	}
	answer := func() {
		for _, st := range append(append([]*stream{other}, named...), wild...) {
			for len(st.out) > 0 {
				if err := s.request(st, &request{typ: "t", answers: (<-st.out).nonce}); err != nil {
					t.Fatal(err)
				}
			}
			audit(t, st)
		}
	}
	s.Publish(nil, []Update{{Type: "t", Name: Wildcard}})
	answer()
	if n := lists(append(named, wild...)); n != 1 {
		t.Errorf("%d lists of ten streams that follow the same, want one", n)
	}
	for n := range 3 {
		add, gone := fmt.Sprintf("bench/new-%d", n), fmt.Sprintf("bench/new-%d", n-1)
		s.Publish(nil, []Update{{Type: "t", Name: add, Resource: &Resource{Type: "t", Name: add, Version: "1"}}, {Type: "t", Name: gone}})
		answer()
		if a, b := lists(named), lists(wild); a != 1 || b != 1 {
			t.Errorf("after change %d %d and %d lists, want one of those that follow some and one of those that follow all", n, a, b)
		}
	}
	if n := lists(append(named, other)); n != 2 {
		t.Errorf("%d lists, want one more for who asks for others: this proves nothing", n)
	}
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

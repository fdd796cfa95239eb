package xds

import (
	"fmt"
	"testing"
)

// BenchmarkOneChange is the server's own share of one change to 1,000 streams that hold
// 1,000 resources each: index, cursors, encoding and acknowledgements, without gRPC.
func BenchmarkOneChange(b *testing.B) {
	const streams, resources = 1000, 1000
	s := NewServer(ServerConfig{Source: open{}, Order: []string{"t"}, MaxFirst: streams})
	var all []*stream
	answer := func(f *frame) *request { return &request{typ: "t", answers: f.nonce} }
	for range streams {
		st := &stream{s: s, wake: func(bool) {}, out: make(chan *frame, maxTypes), done: make(chan struct{})}
		if err := s.open(st); err != nil {
			b.Fatal(err)
		}
		if err := s.request(st, &request{node: &Node{ID: "n"}, typ: "t"}); err != nil {
			b.Fatal(err)
		}
		all = append(all, st)
	}
	update := func(name, version int) Update {
		return Update{Type: "t", Name: fmt.Sprint(name), Resource: &Resource{Type: "t", Name: fmt.Sprint(name), Version: fmt.Sprint(version), Body: make([]byte, 300)}}
	}
	var set []Update
	for i := range resources {
		set = append(set, update(i, 0))
	}
	s.Publish(nil, append(set, Update{Type: "t", Name: Wildcard}))
	drain := func() {
		for _, st := range all {
			for len(st.out) > 0 {
				if err := s.request(st, answer(<-st.out)); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	drain()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		s.Publish(nil, []Update{update(7, i)})
		drain()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i*streams), "ns/stream")
}

package xds

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var exampleRequest = request{
	node: &Node{ID: "shop/cart-0", Cluster: "eu", Mode: "sidecar", Zone: "eu-1", Version: "1.2", Capabilities: []string{"a", "b"},
		Vector: mesh.Vector{"eu": {Epoch: mesh.Epoch{StartMillis: 7, ID: "x"}, Revision: 3}}},
	types: 3, typ: "t", subscribe: []string{"a", "*"}, unsubscribe: []string{"b"}, initial: map[string]string{"a": "1", "c": "2"},
	nonce: "42", nack: true, message: "no", refused: []refusal{{"a", "why"}, {"b", ""}},
}

// envoyRequest is exampleRequest in Envoy's types.
func envoyRequest() *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{
		Node: &core.Node{Id: "shop/cart-0", Cluster: "eu", Locality: &core.Locality{Zone: "eu-1"},
			UserAgentVersionType: nil, ClientFeatures: []string{"a", "b"},
			Metadata: must(structpb.NewStruct(map[string]any{metadataMode: "sidecar", metadataTypes: "3", metadataVector: "eu=7.x:3"}))},
		TypeUrl: "t", ResourceNamesSubscribe: []string{"a", "*"}, ResourceNamesUnsubscribe: []string{"b"},
		InitialResourceVersions: map[string]string{"a": "1", "c": "2"}, ResponseNonce: "42",
		ErrorDetail: &status.Status{Message: "no", Details: []*anypb.Any{must(anypb.New(&errdetails.ResourceInfo{ResourceName: "a", Description: "why"})),
			must(anypb.New(&errdetails.ResourceInfo{ResourceName: "b"}))}},
	}
}

func TestRequestsAreEnvoys(t *testing.T) {
	want := envoyRequest()
	want.Node.UserAgentVersionType = &core.Node_UserAgentVersion{UserAgentVersion: "1.2"}
	var got discovery.DeltaDiscoveryRequest
	if err := proto.Unmarshal(exampleRequest.append(nil), &got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&got, want) {
		t.Errorf("Envoy reads %v, want %v", &got, want)
	}
	var back request
	if err := back.parse(must(proto.Marshal(want))); err != nil {
		t.Fatal(err)
	}
	expect := exampleRequest
	expect.nonce, expect.answers = "", 42
	if d := cmp.Diff(expect, back, cmp.AllowUnexported(request{}, refusal{})); d != "" {
		t.Errorf("what Envoy writes is read otherwise (-want +got):\n%s", d)
	}
}

func TestResponsesAreEnvoys(t *testing.T) {
	vector := mesh.Vector{"eu": {Epoch: mesh.Epoch{StartMillis: 7, ID: "x"}, Revision: 3}}
	for _, size := range []int{1, 200, joinMax, 500 << 10} {
		r := &Resource{Type: "t", Name: "a", Version: "1", Body: bytes.Repeat([]byte{7}, size)}
		f := &frame{nonce: 9, items: []item{{&entry{name: "a"}, newPiece(r)}, {&entry{name: "gone"}, nil}, {&entry{name: "b"}, newPiece(&Resource{Type: "t", Name: "b"})}}}
		f.encode(vector.String(), "t", true)
		encoded := f.buffers.Materialize()
		if f.size != len(encoded) {
			t.Errorf("a frame of %d bytes says it has %d", len(encoded), f.size)
		}
		var got discovery.DeltaDiscoveryResponse
		if err := proto.Unmarshal(encoded, &got); err != nil {
			t.Fatal(err)
		}
		want := &discovery.DeltaDiscoveryResponse{SystemVersionInfo: vector.String(), TypeUrl: "t", Nonce: "9", RemovedResources: []string{"gone"},
			ControlPlane: &core.ControlPlane{Identifier: complete}, Resources: []*discovery.Resource{
				{Name: "a", Version: "1", Resource: &anypb.Any{TypeUrl: "t", Value: r.Body}}, {Name: "b", Resource: &anypb.Any{TypeUrl: "t"}}}}
		if !proto.Equal(&got, want) {
			t.Errorf("at %d bytes Envoy reads another response", size)
		}
		var back response
		if err := back.parse(must(proto.Marshal(want))); err != nil {
			t.Fatal(err)
		}
		expect := response{vector: vector, typ: "t", nonce: "9", removed: []string{"gone"}, complete: true,
			resources: []Resource{*r, {Type: "t", Name: "b"}}}
		back.resources[1].Body = nil // read as empty
		if !reflect.DeepEqual(expect, back) {
			t.Errorf("at %d bytes what Envoy writes is read otherwise", size)
		}
	}
}

func TestOtherMessagesKeepTheirEncoding(t *testing.T) {
	want := envoyRequest()
	data, err := codec{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got discovery.DeltaDiscoveryRequest
	if err := (codec{}).Unmarshal(data, &got); err != nil || !proto.Equal(want, &got) {
		t.Errorf("read %v, %v", &got, err)
	}
}

func TestAnAcknowledgementAllocatesNothing(t *testing.T) {
	r := request{typ: "type.isthmus.dev/v1/Endpoints"}
	ack := mem.BufferSlice{mem.SliceBuffer((&request{typ: r.typ, nonce: "123456"}).append(nil))}
	if n := testing.AllocsPerRun(100, func() {
		r.reset()
		if err := (codec{}).Unmarshal(ack, &r); err != nil || r.answers != 123456 {
			t.Fatal(err, r.answers)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// FuzzRequest holds the reader of requests against Envoy's and the writer.
func FuzzRequest(f *testing.F) {
	f.Add(exampleRequest.append(nil))
	f.Add(must(proto.Marshal(envoyRequest())))
	f.Add([]byte{8, 1, 0x12, 1, 't'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		if r.parse(b) != nil {
			return
		}
		var e discovery.DeltaDiscoveryRequest
		if err := proto.Unmarshal(b, &e); err != nil {
			return // we skip what we do not read, Envoy checks it too
		}
		if r.typ != e.TypeUrl || !slices.Equal(r.subscribe, e.ResourceNamesSubscribe) || !slices.Equal(r.unsubscribe, e.ResourceNamesUnsubscribe) ||
			r.nack != (e.ErrorDetail != nil) || !maps.Equal(r.initial, e.InitialResourceVersions) {
			t.Errorf("read %+v, Envoy reads %v", r, &e)
		}
		r.nonce = fmt.Sprint(r.answers)
		var again request
		if err := again.parse(r.append(nil)); err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		again.nonce = r.nonce
		if d := cmp.Diff(r, again, cmp.AllowUnexported(request{}, refusal{}), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("written and read again (-want +got):\n%s", d)
		}
	})
}

// FuzzResponse: reading a response does not fail badly.
func FuzzResponse(f *testing.F) {
	fr := &frame{nonce: 9, items: []item{{&entry{name: "a"}, newPiece(&Resource{Type: "t", Name: "a", Version: "1", Body: []byte("x")})}, {&entry{name: "gone"}, nil}}}
	fr.encode("eu=7.x:3", "t", true)
	f.Add(fr.buffers.Materialize())
	f.Fuzz(func(t *testing.T, b []byte) {
		var r response
		if r.parse(b) == nil {
			for _, res := range r.resources {
				if res.Type != r.typ || len(res.Body) > len(b) {
					t.Errorf("resource %+v of a response of type %q", res, r.typ)
				}
			}
		}
	})
}

// FuzzConversation plays requests to a server: it must keep its books whatever a client
// says.
func FuzzConversation(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Add([]byte{0, 0, 4, 4, 8, 1, 9, 5, 12, 12, 3, 7, 11, 15, 2, 6, 10, 14})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		s := NewServer(ServerConfig{Source: open{}, Order: []string{"a", "b"}})
		st := &stream{s: s, wake: func(bool) {}, out: make(chan *frame, maxTypes), done: make(chan struct{})}
		if err := s.open(st); err != nil {
			t.Fatal(err)
		}
		var last *frame
		for i, c := range script {
			r := request{node: &Node{ID: "n"}, typ: string('a' + rune(c>>2&3))}
			name := string('p' + rune(c>>4&3))
			switch c & 3 {
			case 0:
				r.subscribe = []string{name, Wildcard}[:1+c>>7]
				r.initial = map[string]string{name: "1", "z": "1"}
			case 1:
				r.unsubscribe = []string{name, Wildcard}[c>>7:]
			case 2:
				if last != nil {
					r.answers, r.nack = last.nonce, c>>7 == 1
				}
			case 3:
				u := Update{Type: r.typ, Name: name}
				if c>>7 == 1 {
					u.Resource = &Resource{Type: r.typ, Name: name, Version: fmt.Sprint(i)}
				}
				updates := []Update{u}
				if c>>6&1 == 1 {
					updates = append(updates, Update{Type: r.typ, Name: Wildcard})
				}
				s.Publish(nil, updates)
				continue
			}
			if err := s.request(st, &r); err != nil {
				t.Fatal(err)
			}
			for len(st.out) > 0 {
				last = <-st.out
			}
			audit(t, st)
		}
		s.close(st)
		for _, g := range s.groups {
			for _, e := range g.entries {
				if e.refs != 0 || e.live != 0 || len(e.subs) != 0 {
					t.Fatalf("entry %+v is held by a stream that was closed", e)
				}
			}
			if len(g.members) != 0 || len(g.wilds) != 0 || len(g.sums.no) != 0 {
				t.Fatalf("group %+v is held by a stream that was closed", g)
			}
		}
		if s.counters.Panics != 0 {
			t.Fatal("a fault was caught")
		}
	})
}

type open struct{}

func (open) Scope(Node, string) (string, error) { return "", nil }
func (open) Watch(_, _, _ string)               {}
func (open) Unwatch(_, _, _ string)             {}

// audit recounts what a stream keeps counts of.
func audit(t interface{ Fatalf(string, ...any) }, st *stream) {
	for _, b := range st.subs {
		var sum uint64
		n, named, unanswered := 0, 0, 0
		for i, m := range b.marks {
			e := b.g.byID(b.ids[i])
			if e == nil {
				t.Fatalf("mark %v of an entry that is gone", m)
			}
			if i > 0 && b.ids[i-1] >= b.ids[i] {
				t.Fatalf("marks out of order: %v", b.ids)
			}
			if m.number() > sumAbsent {
				n++
				sum += b.g.sum(m)
			}
			if m.is(isNamed) {
				named++
				if !e.known {
					unanswered++
				}
			}
		}
		if len(b.ids) != len(b.marks) {
			t.Fatalf("%d names of %d marks", len(b.ids), len(b.marks))
		}
		if n != b.heldN || sum != b.held || named != b.named || unanswered != b.unanswered {
			t.Fatalf("counted %d of sum %x, %d named, %d unanswered; kept %d, %x, %d, %d", n, sum, named, unanswered, b.heldN, b.held, b.named, b.unanswered)
		}
	}
}

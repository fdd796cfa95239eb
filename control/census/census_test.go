package census

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/sibling"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func stream(id string, connected int64) xds.ClientStatus {
	return xds.ClientStatus{Node: xds.Node{ID: id, Cluster: "eu"}, Connected: time.Unix(connected, 0)}
}

// TestAProxyThatMovedIsListedOnce: where it is connected last, whichever replica is asked first.
func TestAProxyThatMovedIsListedOnce(t *testing.T) {
	a := Replica{Proxies: []xds.ClientStatus{stream("shop/b", 1), stream("shop/a", 5)}}
	b := Replica{Proxies: []xds.ClientStatus{stream("shop/b", 3)}, Err: nil}
	gone := Replica{Err: errors.New("no answer")}
	for _, all := range [][]Replica{{a, b, gone}, {gone, b, a}} {
		got := merge(all)
		if len(got) != 2 || got[0].Node.ID != "shop/a" || got[1].Node.ID != "shop/b" || got[1].Connected.Unix() != 3 {
			t.Errorf("%+v", got)
		}
	}
}

// TestOnlyReplicasAreTold: neither a proxy nor the control plane of another cluster learns of this cluster's proxies.
func TestOnlyReplicasAreTold(t *testing.T) {
	own := mesh.TrustDomainOf("eu", mesh.DefaultDomain)
	for _, c := range []struct {
		id   mesh.Identity
		err  error
		code codes.Code
	}{
		{peer.IdentityOf(own), nil, codes.OK},
		{peer.IdentityOf(mesh.TrustDomainOf("us", mesh.DefaultDomain)), nil, codes.PermissionDenied},
		{mesh.Identity{TrustDomain: own, Namespace: "shop", ServiceAccount: "control-plane"}, nil, codes.PermissionDenied},
		{mesh.Identity{}, errors.New("no certificate"), codes.Unauthenticated},
	} {
		s := &Server{TrustDomain: own, Version: "v0.1.0", Identify: func(context.Context) (mesh.Identity, error) { return c.id, c.err },
			Proxies: func() []xds.ClientStatus { return []xds.ClientStatus{stream("shop/a", 1)} }}
		got, err := s.Seen(context.Background(), &wirepb.SeenRequest{})
		if status.Code(err) != c.code || (err == nil) != (got.GetVersion() == "v0.1.0") {
			t.Errorf("%s: %v, %v; want %v", c.id, got, err, c.code)
		}
	}
}

// TestADeadReplicaIsNotWaitedFor: it is asked all the same, and named with the reason, and what came of it is told.
func TestADeadReplicaIsNotWaitedFor(t *testing.T) {
	if patience(0) != askMax || patience(1) != againMax || againMax >= askMax {
		t.Errorf("patience %v, and %v with one that did not answer", patience(0), patience(1))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close() // nobody is there
	told := map[string]error{}
	c := &Census{Self: "me", Clock: clock.Real{}, Own: &Server{Proxies: func() []xds.ClientStatus { return nil }},
		All:      func() []sibling.Replica { return []sibling.Replica{{Name: "me"}, {Name: "dead", Federation: at}} },
		Silent:   func(string) time.Duration { return 3 * time.Minute },
		Answered: func(name string, err error) { told[name] = err },
		Dial:     peer.DialConfig{Source: trust.NewSource(clock.Real{}), TrustDomain: "eu.isthmus.local", Clock: clock.Real{}}}
	got := c.Replicas()
	if len(got) != 2 || got[1].Err == nil || !strings.Contains(got[1].Err.Error(), "it has not answered for 3m0s") || told["dead"] == nil || len(told) != 1 {
		t.Errorf("%+v, told %v", got, told)
	}
}

// TestAReplicaAloneAsksNobody, also before it has written itself down.
func TestAReplicaAloneAsksNobody(t *testing.T) {
	for _, known := range [][]sibling.Replica{{{Name: "me"}}, nil} {
		c := &Census{Self: "me", All: func() []sibling.Replica { return known }, Clock: clock.Real{},
			Own: &Server{Version: "v0.1.0", Proxies: func() []xds.ClientStatus { return []xds.ClientStatus{stream("shop/a", 1)} }}}
		if got := c.Replicas(); len(got) != 1 || !got[0].Self || got[0].Version != "v0.1.0" || len(c.Proxies()) != 1 {
			t.Errorf("%+v", got)
		}
	}
}

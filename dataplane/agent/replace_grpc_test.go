package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoingCalls is an application of gRPC: any method is a stream that says again what it hears.
func echoingCalls(t testing.TB) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			m := &wrapperspb.StringValue{}
			if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-served })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// caller is a client of gRPC that has the sidecar for its server.
func caller(t testing.TB, outbound netip.AddrPort) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+outbound.String(), grpc.WithAuthority("catalog.shop:8082"), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// call is a stream both ways.
type call struct {
	grpc.ClientStream
	cancel context.CancelFunc
}

func dialCall(c *grpc.ClientConn) (*call, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Catalog/Follow")
	if err != nil {
		cancel()
		return nil, err
	}
	return &call{s, cancel}, nil
}

// say sends a message and wants it back.
func (c *call) say(text string) error {
	stop := time.AfterFunc(bound, c.cancel)
	defer stop.Stop()
	if err := c.SendMsg(wrapperspb.String(text)); err != nil {
		return err
	}
	m := &wrapperspb.StringValue{}
	if err := c.RecvMsg(m); err != nil {
		return err
	}
	if m.Value != text {
		return fmt.Errorf("said %q, heard %q", text, m.Value)
	}
	return nil
}

// end says that no more is said, and wants the status OK.
func (c *call) end() error {
	defer c.cancel()
	if err := c.CloseSend(); err != nil {
		return err
	}
	if err := c.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the call ended with %w", err)
	}
	return nil
}

// calls is a short call: three messages, each way.
func calls(c *grpc.ClientConn) error {
	s, err := dialCall(c)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := s.say(fmt.Sprint("message ", i)); err != nil {
			s.cancel()
			return err
		}
	}
	return s.end()
}

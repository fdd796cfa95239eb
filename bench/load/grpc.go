package load

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Health is the application of gRPC: the health service of grpc-go, over h2c. It serves until
// ctx ends.
func Health(ctx context.Context, address string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(ln)
}

// GRPC is connections of grpc-go to a way.
type GRPC struct{ conns []*grpc.ClientConn }

// DialGRPC prepares n connections. authority is what the requests are for.
func DialGRPC(ctx context.Context, n int, target, authority string) (*GRPC, error) {
	g := &GRPC{}
	for range n {
		c, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority), grpc.WithNoProxy())
		if err == nil {
			g.conns = append(g.conns, c)
			_, err = grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		}
		if err != nil {
			g.Close()
			return nil, fmt.Errorf("gRPC to %s: %w", target, err)
		}
	}
	return g, nil
}

// Unary calls total times, from so many goroutines a connection, each as soon as its former
// call has been answered. It returns how many were answered.
func (g *GRPC) Unary(ctx context.Context, each, total int) (int, error) {
	var left atomic.Int64
	left.Store(int64(total))
	n := each * len(g.conns)
	errs, done := make([]error, n), make([]int, n)
	var all sync.WaitGroup
	for i := range n {
		client := grpc_health_v1.NewHealthClient(g.conns[i%len(g.conns)])
		all.Go(func() {
			for left.Add(-1) >= 0 {
				callCtx, stop := context.WithTimeout(ctx, RequestTimeout)
				_, err := client.Check(callCtx, &grpc_health_v1.HealthCheckRequest{})
				stop()
				if errs[i] = err; err != nil {
					return
				}
				done[i]++
			}
		})
	}
	all.Wait()
	sum := 0
	var err error
	for i := range done {
		sum += done[i]
		err = cmp.Or(err, errs[i])
	}
	return sum, err
}

// Close ends the connections.
func (g *GRPC) Close() {
	for _, c := range g.conns {
		_ = c.Close()
	}
}

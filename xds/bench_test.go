package xds_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// accepting is a Handler that takes everything.
type accepting struct{}

func (accepting) Apply(xds.Batch) map[string]error { return nil }

const (
	envAddress = "ISTHMUS_XDS_BENCH_ADDRESS"
	envClients = "ISTHMUS_XDS_BENCH_CLIENTS"
)

// clientProcess is what TestMain runs for a benchmark that starts this program again as its
// clients' process, so that the server's costs can be told from theirs. It returns the exit code.
func clientProcess(address string) int {
	n, err := strconv.Atoi(os.Getenv(envClients))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin) // until the benchmark ends
		stop()
	}()
	var wg sync.WaitGroup
	for i := range n {
		c := xds.NewClient(xds.ClientConfig{Handler: accepting{}, Node: func() xds.Node { return xds.Node{ID: fmt.Sprint("bench/", i)} },
			Dial: func(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
				conn, err := grpc.NewClient("passthrough:"+address, append(xds.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
				return conn, conn, err
			}})
		c.Subscribe(typeTarget, xds.Wildcard)
		wg.Go(func() { c.Run(ctx) })
	}
	wg.Wait()
	return 0
}

// fleet is a server over loopback with clients in another process.
type fleet struct {
	*xds.Server
	origin *origin
	n      int
	stop   func()
}

func newFleet(b *testing.B, clients, resources, size int) *fleet {
	f := &fleet{origin: newOrigin(), n: clients}
	for i := range resources {
		f.origin.keep([]xds.Update{put(typeTarget, fmt.Sprintf("shop/service-%05d", i), fmt.Sprint(i, strings.Repeat("x", size)))})
	}
	f.Server = xds.NewServer(xds.ServerConfig{Source: f.origin, Order: []string{typeTarget},
		Identify: func(context.Context) (mesh.Identity, error) { return someone, nil }})
	f.origin.Watch("all", typeTarget, xds.Wildcard)
	server := carried(f.Server)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	wg.Go(func() { server.Serve(ctx, lis) })
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envAddress+"="+lis.Addr().String(), envClients+"="+strconv.Itoa(clients))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	f.stop = func() {
		in.Close()
		cmd.Wait()
		cancel()
		wg.Wait()
	}
	return f
}

// until waits, for a minute at most, that the server has received so many requests.
func (f *fleet) until(b *testing.B, requests uint64) {
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for f.Counters().Requests < requests {
		if time.Now().After(deadline) {
			b.Fatalf("%d requests after a minute, want %d", f.Counters().Requests, requests)
		}
		<-tick.C
		if a := f.origin.answers(); len(a) > 0 {
			f.Publish(at(1), a)
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func rss() float64 {
	b, _ := os.ReadFile("/proc/self/statm")
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(string(f[1]))
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// BenchmarkFleet measures what a server pays for 1,000 clients with 1,000 resources of
// 2.7 kB: the first configuration of all, then one change to all at a time.
func BenchmarkFleet(b *testing.B) {
	const clients = 1000
	started, before := time.Now(), cpu()
	f := newFleet(b, clients, 1000, 2700)
	defer f.stop()
	f.until(b, clients*4) // one request and three answers each: 2.7 MB take three messages
	first, firstCPU, resident := time.Since(started), cpu()-before, rss()
	var mem0, mem1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem0)
	before = cpu()
	requests := f.Counters().Requests
	i := 0
	for b.Loop() {
		i++
		requests += clients
		f.Publish(at(1), []xds.Update{put(typeTarget, "shop/service-00007", fmt.Sprint(i, strings.Repeat("y", 300)))})
		f.until(b, requests)
	}
	used := cpu() - before
	runtime.ReadMemStats(&mem1)
	b.ReportMetric(first.Seconds(), "s-first-config")
	b.ReportMetric(firstCPU.Seconds(), "cpu-s-first-config")
	b.ReportMetric(resident, "MB-rss")
	b.ReportMetric(float64(used.Milliseconds())/float64(i), "cpu-ms/change")
	b.ReportMetric(float64(used.Nanoseconds())/float64(i*clients), "cpu-ns/stream")
	b.ReportMetric(float64(mem1.Mallocs-mem0.Mallocs)/float64(i*clients), "allocs/stream")
}

package storeserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// segmentBytes is what each of the log's files, two at least, takes from
	// the disk at once. etcd's 64 MB suit a machine that does nothing else.
	segmentBytes = 4 << 20
	// tick is raft's clock. A store of one member elects itself within
	// electionTicks of it, which is most of the time to ready; it has nobody
	// whose silence it could mistake. A shorter tick starts sooner and costs
	// an idle store more: ready in 35-135 ms and 1.4 % of a core at 25 ms,
	// 60-165 ms and 1.0 % at 50 ms, 210-410 ms and 0.7 % at 100 ms.
	tick          = 50 * time.Millisecond
	electionTicks = 5
	// startMax bounds replaying the log of a large store on a slow disk.
	startMax = 2 * time.Minute
	// slowRequest is what etcd warns about. Its own 100 ms are reached on a
	// laptop that builds something.
	slowRequest = time.Second
	// drainMax is how long calls in flight get to end. Watches never end by
	// themselves, so it is also what a stop costs with a watcher connected.
	drainMax = 250 * time.Millisecond
)

// Run serves a store until ctx ends, and then stops it cleanly and returns nil.
// It returns an error when the store cannot be served, or stops by itself; on
// errors of its log etcd ends the process without returning here at all.
//
// A process calls Run once: it sets etcd's package variables.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("run store: %w", err)
	}
	c = c.withDefaults()
	g, err := openGround(c)
	if err != nil {
		return fmt.Errorf("run store: %w", err)
	}
	defer g.close()
	if err := c.Failpoints.Hit(ctx, PointStart); err != nil {
		return fmt.Errorf("run store: %w", err)
	}
	if err := serve(ctx, c, g, log); err != nil {
		return fmt.Errorf("run store in %s: %w", c.DataDir, err)
	}
	return nil
}

// serve runs etcd and its gRPC services on the client socket until ctx ends.
func serve(ctx context.Context, c Config, g *ground, log *slog.Logger) error {
	ec, err := etcdConfig(c, g, log)
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer e.Close()
	if err := protect(c, e); err != nil {
		return err
	}
	start := time.NewTimer(startMax)
	defer start.Stop()
	select {
	case <-e.Server.ReadyNotify():
	case <-e.Server.StopNotify():
		return errors.New("etcd stopped while it started")
	case err := <-e.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-start.C:
		return fmt.Errorf("etcd is not ready after %v", startMax)
	case <-ctx.Done():
		return nil
	}

	l, tlsConfig, err := listen(c, g)
	if err != nil {
		return err
	}
	// etcd's own services without etcd's own listener, which would add HTTP
	// handlers and a multiplexer to tell them from gRPC.
	gs := v3rpc.Server(e.Server, tlsConfig, nil, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime:             5 * time.Second,
		PermitWithoutStream: true,
	}))
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	defer func() {
		drain(gs)
		<-served
	}()
	rctx, endRelief := context.WithCancel(ctx)
	relieved := make(chan struct{})
	go func() {
		defer close(relieved)
		relieve(rctx, e.Server, c.QuotaBytes, log)
	}()
	defer func() {
		endRelief()
		<-relieved
	}()
	if err := c.Failpoints.Hit(ctx, PointReady); err != nil {
		return err
	}
	c.Ready()
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		served <- err
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-e.Server.StopNotify():
		return errors.New("etcd stopped by itself")
	case err := <-e.Err():
		return fmt.Errorf("etcd failed: %w", err)
	}
}

// protect gives the socket for other members its mode.
func protect(c Config, e *embed.Etcd) error {
	if c.Cluster != nil {
		return nil
	}
	for _, p := range e.Peers {
		if err := os.Chmod(p.Addr().String(), 0o600); err != nil {
			return fmt.Errorf("protect %s: %w", c.PeerSocket, err)
		}
	}
	return nil
}

// drain lets calls in flight end, and ends those that do not. Returning from it
// means that gs serves nothing any more.
func drain(gs *grpc.Server) {
	t := time.AfterFunc(drainMax, gs.Stop)
	defer t.Stop()
	gs.GracefulStop()
}

// etcdConfig is c in etcd's words.
func etcdConfig(c Config, g *ground, log *slog.Logger) (*embed.Config, error) {
	wal.SegmentSizeBytes = segmentBytes
	backend.InitialMmapSize = uint64(c.QuotaBytes)

	token, err := newToken()
	if err != nil {
		return nil, err
	}
	// What a member calls itself is written into its files at the first start.
	// It is never dialled, and must not depend on where the directory is.
	self := url.URL{Scheme: "unix", Host: "localhost:0"}
	ec := embed.NewConfig()
	ec.Name = c.Name
	ec.Dir = c.DataDir
	ec.ListenPeerUrls, ec.ListenClientUrls = nil, nil
	ec.AdvertisePeerUrls, ec.AdvertiseClientUrls = []url.URL{self}, []url.URL{self}
	ec.InitialCluster = c.Name + "=" + self.String()
	// The token makes the cluster's ID, which every answer carries. A random
	// one lets a client tell a store that was wiped from the one it knew.
	ec.InitialClusterToken = token
	if c.PeerSocket != "" {
		addr, err := g.address(c.PeerSocket)
		if err != nil {
			return nil, err
		}
		if err := removeSocket(addr); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", c.PeerSocket, err)
		}
		// etcd listens for peers on a URL's host alone.
		ec.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: addr}}
	}

	ec.TickMs = uint(tick.Milliseconds())
	ec.ElectionMs = electionTicks * ec.TickMs
	if c.Cluster != nil {
		c.Cluster.apply(c.Name, ec)
	}
	ec.QuotaBackendBytes = c.QuotaBytes
	ec.SnapshotCount = c.SnapshotCount
	ec.SnapshotCatchUpEntries = c.SnapshotCount / 10 // for members to come; a store has none
	ec.MaxWalFiles = 2
	ec.AuthToken = "" // the socket's mode is the whole of access control
	ec.AutoCompactionMode = embed.CompactorModePeriodic
	ec.AutoCompactionRetention = c.HistoryKeep.String()
	ec.BootstrapDefragThresholdMegabytes = 16
	ec.WarningUnaryRequestDuration = slowRequest
	ec.WarningApplyDuration = slowRequest
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(log))
	return ec, nil
}

// newToken returns 16 random bytes as text.
func newToken() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make cluster token: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

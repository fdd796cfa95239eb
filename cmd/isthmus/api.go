package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/authority"
	"github.com/isthmus-mesh/isthmus/api/capacities"
	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/api/events"
	"github.com/isthmus-mesh/isthmus/api/returns"
	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/direct"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// serveWithAPI runs a control plane with its door beside it: package plane knows no
// people, package api no sockets of the mesh.
func serveWithAPI(ctx context.Context, cfg plane.Config, p *plane.Plane, log *slog.Logger) error {
	if !cfg.API.IsValid() {
		return p.Run(ctx)
	}
	token, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return fmt.Errorf("the API needs a token: %w", err)
	}
	more := drains.Handlers(p.Drains())
	maps.Copy(more, events.Handlers(p.Events(), time.Now))
	maps.Copy(more, returns.Handlers(p.Load()))
	maps.Copy(more, capacities.Handlers(p.Load()))
	maps.Copy(more, authority.Handlers(cfg.Cluster, cfg.TrustDomain(), p.Authority()))
	server, err := api.NewServer(api.Config{Cluster: cfg.Cluster, Objects: p.Objects(), World: p.World, View: p.View(), Vector: p.Vector,
		Proxies: p.Census().Proxies, OwnProxies: p.Proxies, Replicas: func() []api.Replica { return replicas(p) }, Peers: func() []api.PeerStatus { return peers(p) }, Bundle: p.Bundle, NewToken: p.NewToken, Stamp: p.Stamp, Ready: p.Ready,
		Digests: p, Forecast: p.Load(), More: more, MoreMetrics: func() string { return moreMetrics(cfg, p) },
		Verdicts: func() ([]consistency.Verdict, []consistency.VerdictEvent) {
			return consistency.Judged(p.Verdicts(), time.Now())
		},
		Refused: func() []api.RefusedProxy { return refused(p) },
		Uplink:  func() *api.Uplink { return uplink(p) },
		Version: version, Token: string(bytes.TrimSpace(token)), Addresses: p.Addresses(), Log: log,
		ProxyConfig: func(ctx context.Context, id string) ([]byte, error) { return proxyConfig(ctx, cfg, p.World(), id) }})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.API.String())
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() {
		err := server.Run(ctx, direct.Listen(ln))
		if err != nil && ctx.Err() == nil {
			stop(fmt.Errorf("serve the API: %w", err))
		}
		done <- err
	}()
	err = p.Run(ctx)
	stop(err)
	<-done
	return err
}

func uplink(p *plane.Plane) *api.Uplink {
	s, remote := p.Uplink()
	if !remote {
		return nil
	}
	out := &api.Uplink{Primary: s.Primary, Since: s.Since}
	if s.Err != nil {
		out.Problem = s.Err.Error()
	}
	return out
}

func peers(p *plane.Plane) []api.PeerStatus {
	var out []api.PeerStatus
	for _, l := range p.Peers() {
		s := api.PeerStatus{Cluster: l.Cluster, State: l.State.String(), InSync: l.Status.InSync, Stale: l.Status.Stale,
			Position: l.Status.Position, RTT: l.RTT, Gateways: l.Gateways, Via: l.Via.By, ViaRTT: l.Via.RTT,
			Received: l.Received, Sent: l.Sent, Loss: l.Loss, StateAge: time.Since(l.Since),
			Version: l.Status.Version, Protocol: l.Status.Protocol, Problem: l.Status.Skew}
		if l.Since.IsZero() {
			s.StateAge = 0
		}
		if s.Problem == "" && l.Err != nil {
			s.Problem = l.Err.Error()
		}
		if !l.Status.LastFresh.IsZero() {
			s.Age = time.Since(l.Status.LastFresh)
		}
		out = append(out, s)
	}
	return out
}

func refused(p *plane.Plane) (out []api.RefusedProxy) {
	for _, r := range p.RefusedProxies() {
		out = append(out, api.RefusedProxy{ID: r.Node.ID, Version: r.Node.Version, Problem: r.Why, At: r.At.UTC()})
	}
	return out
}

func replicas(p *plane.Plane) (out []api.Replica) {
	for _, r := range p.Census().Replicas() {
		one := api.Replica{Name: r.Name, API: r.API, Version: r.Version, Self: r.Self, Proxies: len(r.Proxies)}
		if r.Err != nil {
			one.Problem = r.Err.Error()
		}
		out = append(out, one)
	}
	return out
}

// adminPort is a proxy's admin port.
const adminPort = 15020

// proxyConfig asks a proxy what it runs: at the address its workload states.
func proxyConfig(ctx context.Context, cfg plane.Config, w *world.World, id string) ([]byte, error) {
	n, err := mesh.ParseServiceName(id)
	if err != nil {
		return nil, err
	}
	f, ok := w.Get(mesh.Key{Kind: mesh.KindWorkload, Origin: cfg.Cluster, Namespace: n.Namespace, Name: n.Name})
	if !ok {
		return nil, fmt.Errorf("no workload of cluster %s is named %s", cfg.Cluster, id)
	}
	at := netip.AddrPortFrom(f.Value.(*mesh.Workload).Proxy.Addr(), adminPort)
	dialer := net.Dialer{}
	if cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.Local, 0))
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/config", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask proxy %s at %s: %w", id, at, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("ask proxy %s at %s: %w", id, at, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask proxy %s at %s: status %d", id, at, resp.StatusCode)
	}
	return body, nil
}

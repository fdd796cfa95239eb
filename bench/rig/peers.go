package rig

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
)

// Ports of the configurations in bench/peer: of what a client speaks to, and of the application
// behind.
const (
	PortH2, PortH1              = 8080, 8081 // HAProxy as a client's sidecar: what it speaks to its other half
	PortSingle                  = 8080       // HTTP/1.1 through one proxy
	PortBytes, PortBulk         = 9000, 9001
	PortGRPC                    = 9002
	PortGateway                 = 15443
	PortNGINX                   = 10080 // nginx as a client's sidecar
	NGINXBytes, NGINXBulk       = 11000, 11001
	NGINXGRPC                   = 11002
	AppHTTP, AppSink, AppHealth = 8080, 8081, 8082
)

// Peers are the proxies that ours are compared with, as the configurations in bench/peer have
// them.
type Peers struct {
	Certs, Configs string // folders
	Dir            string // where nginx puts its files; only it needs one
	Threads        int    // of HAProxy
	App            netip.Addr
	Client, Server netip.Addr // of a pair
	Single         netip.Addr // of a proxy that is alone, HAProxy's; nginx has the next
	SNI            string     // what the gateway passes
	Log            netip.AddrPort
}

func (p *Peers) env(single netip.Addr) []string {
	sni := p.SNI
	if sni == "" {
		sni = "none.invalid"
	}
	return []string{"BENCH_CERTS=" + p.Certs, fmt.Sprint("BENCH_THREADS=", p.Threads), "BENCH_APP=" + p.App.String(), "BENCH_CLIENT=" + p.Client.String(),
		"BENCH_SERVER=" + p.Server.String(), "BENCH_SINGLE=" + single.String(), "BENCH_SNI=" + sni, "BENCH_LOG=" + p.Log.String()}
}

func (p *Peers) part(config string, at netip.Addr, port uint16) Part {
	return Part{Config: filepath.Join(p.Configs, config), Listens: netip.AddrPortFrom(at, port).String()}
}

// HAProxyPair starts a caller's sidecar and a service's.
func (p *Peers) HAProxyPair(ctx context.Context) (*Peer, error) {
	return HAProxy(ctx, p.env(p.Single), p.part("haproxy-server.cfg", p.Server, 15008), p.part("haproxy-client.cfg", p.Client, PortH2))
}

// HAProxySingle starts a proxy that is alone.
func (p *Peers) HAProxySingle(ctx context.Context) (*Peer, error) {
	return HAProxy(ctx, p.env(p.Single), p.part("haproxy-single.cfg", p.Single, PortSingle))
}

// NGINXPair is HAProxyPair for nginx.
func (p *Peers) NGINXPair(ctx context.Context) (*Peer, error) {
	return NGINX(ctx, p.Dir, p.env(p.Single), p.part("nginx-server.conf", p.Server, 16008), p.part("nginx-client.conf", p.Client, PortNGINX))
}

// NGINXSingle is HAProxySingle for nginx, at the address after HAProxy's.
func (p *Peers) NGINXSingle(ctx context.Context) (*Peer, error) {
	at := p.Single.Next()
	return NGINX(ctx, p.Dir, p.env(at), p.part("nginx-single.conf", at, PortSingle))
}

// SinkLogs receives the logs that proxies send by UDP, and throws them away, until ctx ends.
func SinkLogs(ctx context.Context) (netip.AddrPort, error) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return netip.AddrPort{}, err
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

package main

import (
	"fmt"
	"net/netip"

	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// ends is a contest's way through ours and through the baseline, which is nil if there is
// none.
func (s *stage) ends(of func(*ground) *way) (ours, baseline *way) {
	if s.baseline != nil {
		baseline = of(s.baseline)
	}
	return of(s.ours), baseline
}

// out is a port of the application.
func (s *stage) out(port uint16) string { return netip.AddrPortFrom(s.app, port).String() }

// alone is a way through the shell's sidecar to an application outside the mesh.
func (s *stage) alone(connect, request []byte) func(*ground) *way {
	return func(g *ground) *way {
		return &way{name: "one proxy", Way: load.Way{Target: g.explicit, Connect: connect, Request: request}, pids: []int{g.shell},
			admins: g.admins[:1], authority: s.out(rig.AppHealth)}
	}
}

// pair is a way through both sidecars to a service.
func pair(service string, request []byte) func(*ground) *way {
	return func(g *ground) *way {
		return &way{name: "a pair of sidecars", Way: load.Way{Target: g.at[service], Request: request}, pids: []int{g.shell, g.sidecar},
			admins: g.admins, authority: "rpc.bench.svc.clusterset.local:9002"}
	}
}

// gateway is a way through the gateway, to what stands for a server proxy.
func gateway(g *ground) *way {
	first, err := hello(g.name("pass"))
	w := &way{name: "a gateway", Way: load.Way{Target: g.mesh.Cluster(cluster).Gateway.String(), Request: first}, pids: []int{g.gateway},
		admins: []string{fmt.Sprintf("http://%s:15020", g.mesh.Cluster(cluster).Gateway.Addr())}}
	if err != nil {
		w.fail(err)
	}
	return w
}

// singles are the peers alone, pairs those in a pair.
func (s *stage) singles(port uint16, request []byte) []*way {
	at := s.haproxy.at.Single
	return []*way{s.haproxy.way(s.haproxy.single, at, port, request, ""), s.nginx.way(s.nginx.single, at.Next(), port, request, "")}
}

func (s *stage) pairs(haproxy, nginx uint16, request []byte) []*way {
	return []*way{s.haproxy.ofPair(haproxy, request, ""), s.nginx.ofPair(nginx, request, "")}
}

func (r *rivals) ofPair(port uint16, request []byte, mode string) *way {
	return r.way(r.pair, r.at.Client, port, request, mode)
}

func (r *rivals) way(p *rig.Peer, at netip.Addr, port uint16, request []byte, mode string) *way {
	w := &way{Way: load.Way{Target: netip.AddrPortFrom(at, port).String(), Request: request}, missing: r.why, authority: "app.bench"}
	if p != nil {
		w.name, w.pids = p.Name+mode, p.PIDs
	}
	return w
}

// contests are the rows of CPU.
func (s *stage) contests() []contest {
	get := load.Get(path, host)
	first, _ := hello(s.sni) // gateway says if there is none
	h2 := s.haproxy.ofPair(rig.PortH2, get, ", h2")
	pooled := []*way{s.haproxy.ofPair(rig.PortH1, get, ", http/1.1"), s.nginx.ofPair(rig.PortNGINX, get, ", http/1.1")}
	plain := load.Get("http://"+s.out(rig.AppHTTP)+path, s.out(rig.AppHTTP))
	through := fmt.Sprintf("CPU a request through a pair of sidecars over mTLS, HTTP/1.1 at both ends, %d connections", connections)
	out := []contest{
		{row: "mtls-pair-vs-h2", title: through, target: 0.9, peers: []*way{h2}, run: requests},
		{row: "mtls-pair-vs-h1", title: through + ", against pooled HTTP/1.1", target: 0.5, peers: pooled, run: requests},
		{row: "h1", title: fmt.Sprintf("CPU a request through one proxy in the clear, HTTP/1.1 keep-alive, %d connections", connections), target: 1.05,
			peers: s.singles(rig.PortSingle, get), run: requests},
		{row: "l4-rr", title: "CPU a request and response of bytes through one proxy", target: 1, peers: s.singles(rig.PortBytes, get), run: requests},
		{row: "l4-bulk", unit: "µs/MiB", title: "CPU a MiB of one long TCP stream through one proxy", target: 0.6, peers: s.singles(rig.PortBulk, nil), run: bulk},
		{row: "l4-bulk-mtls", unit: "µs/MiB", title: "the same through a pair of sidecars over mTLS", target: 0.75,
			peers: s.pairs(rig.PortBulk, rig.NGINXBulk, nil), run: bulk},
		{row: "grpc", title: "CPU a unary gRPC call through one proxy, h2 at both ends, 16 calls at a time", target: 0.5, peers: s.singles(rig.PortGRPC, nil), run: calls},
		{row: "grpc-mtls", title: "the same through a pair of sidecars over mTLS", target: 0.5, peers: s.pairs(rig.PortGRPC, rig.NGINXGRPC, nil), run: calls},
		{row: "conn-tunnel", title: "CPU a new TCP connection with one request, through a pair of sidecars over mTLS", target: 0.12,
			peers: s.pairs(rig.PortBytes, rig.NGINXBytes, get), run: conns},
		{row: "gateway-bulk", unit: "µs/MiB", title: "CPU a MiB through an east-west gateway that passes TLS by its server name", target: 0.5,
			peers: s.singles(rig.PortGateway, first), run: bulk},
	}
	ends := []func(*ground) *way{pair("near", get), pair("near", get), s.alone(nil, plain), s.alone(load.ConnectTo(s.out(rig.AppHTTP)), get),
		s.alone(load.ConnectTo(s.out(rig.AppSink)), nil), pair("sink", nil), s.alone(nil, nil), pair("rpc", nil), pair("raw", get), gateway}
	for i := range out {
		out[i].ours, out[i].baseline = s.ends(ends[i])
		if out[i].unit == "" {
			out[i].unit = "µs"
		}
	}
	return out
}

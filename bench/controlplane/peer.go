package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	xdsserver "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The peer is a server over go-control-plane's linear caches, one a type, as its users build one: a Cluster, a
// ClusterLoadAssignment and a RouteConfiguration a service, with as many endpoints as ours. It is told what to change by lines
// on its standard input ("endpoint 17", "route 17", "add 1000") and says "ok" when the cache has it.

// peerMain serves until its input ends.
func peerMain(ctx context.Context, in io.Reader, out io.Writer, address string, services, endpoints int) error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	caches := map[string]*cache.LinearCache{}
	mux := cache.MuxCache{Caches: map[string]cache.Cache{}, Classify: func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() }}
	initial := map[string]map[string]types.Resource{resource.ClusterType: {}, resource.EndpointType: {}, resource.RouteType: {}}
	for i := range services {
		initial[resource.ClusterType][name(i)] = peerCluster(i)
		initial[resource.EndpointType][name(i)] = peerEndpoints(i, endpoints, 0)
		initial[resource.RouteType][name(i)] = peerRoute(i, 0)
	}
	for t, r := range initial {
		caches[t] = cache.NewLinearCache(t, cache.WithInitialResources(r))
		mux.Caches[t] = caches[t]
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})),
		grpc.MaxConcurrentStreams(1<<20), grpc.StaticStreamWindowSize(2<<20), grpc.StaticConnWindowSize(4<<20))
	discovery.RegisterAggregatedDiscoveryServiceServer(g, xdsserver.NewServer(ctx, &mux, nil))
	defer g.Stop()
	go func() { _ = g.Serve(ln) }() // until Stop
	fmt.Fprintln(out, "ok")
	lines := bufio.NewScanner(in)
	for version := 1; lines.Scan(); version++ {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		i, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		switch verb {
		case "endpoint":
			err = caches[resource.EndpointType].UpdateResource(name(i), peerEndpoints(i, endpoints, version))
		case "route":
			err = caches[resource.RouteType].UpdateResource(name(i), peerRoute(i, version))
		case "add":
			err = caches[resource.ClusterType].UpdateResource(name(i), peerCluster(i))
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "ok")
	}
	return lines.Err()
}

func name(i int) string { return fmt.Sprintf("bench/svc-%d", i) }

func peerCluster(i int) *cluster.Cluster {
	return &cluster.Cluster{Name: name(i), ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}}}}
}

func peerEndpoints(i, n, version int) *endpoint.ClusterLoadAssignment {
	out := &endpoint.LocalityLbEndpoints{Locality: &core.Locality{Region: "eu", Zone: "a"}}
	for e := range n {
		octet := e
		if e == 0 {
			octet = 10 + version%197
		}
		out.LbEndpoints = append(out.LbEndpoints, &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
			Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
				Address: fmt.Sprintf("10.%d.%d.%d", i>>8, i&255, octet), PortSpecifier: &core.SocketAddress_PortValue{PortValue: 15008}}}}}}})
	}
	return &endpoint.ClusterLoadAssignment{ClusterName: name(i), Endpoints: []*endpoint.LocalityLbEndpoints{out}}
}

func peerRoute(i, version int) *route.RouteConfiguration {
	return &route.RouteConfiguration{Name: name(i), VirtualHosts: []*route.VirtualHost{{Name: name(i), Domains: []string{name(i)}, Routes: []*route.Route{{
		Match:  &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: fmt.Sprintf("/v%d", version)}},
		Action: &route.Route_Route{Route: &route.RouteAction{ClusterSpecifier: &route.RouteAction_Cluster{Cluster: name(i)}}}}}}}}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer"}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// startPeer runs this program again as the peer.
func startPeer(services, endpoints int) (*child, server, error) {
	none := server{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, none, err
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		return nil, none, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, none, err
	}
	c, err := spawn(exe, "-be", "peer", "-peer-address", address, "-services", fmt.Sprint(services), "-endpoints", fmt.Sprint(endpoints))
	if err != nil {
		return nil, none, err
	}
	return c, server{addr: address, tls: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, node: func(i int) []byte {
		return appendField(nil, 1, fmt.Appendf(nil, "bench/proxy-%d", i))
	}, interests: []interest{
		{typ: resource.ClusterType, names: []string{"*"}, want: services},
		{typ: resource.EndpointType, names: names(services), want: services},
		{typ: resource.RouteType, names: names(services), want: services},
	}}, nil
}

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = name(i)
	}
	return out
}

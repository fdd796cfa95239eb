package storeserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	// clusterTick is raft's clock where there are several members, which do mistake silence for death: a member
	// that does not get to run for an election's time costs an election, so it is long beside what a busy
	// machine makes a process wait, and short beside what a writer waits for (store.DefaultRequestTimeout).
	clusterTick          = 100 * time.Millisecond
	clusterElectionTicks = 10
)

// Cluster says which cluster of stores a store is a member of. All members are given the same Members and Token,
// and start on empty directories once; a member that lost its directory is refused by the others, since it may
// have voted and forgotten it.
type Cluster struct {
	// Members are the peer addresses of all members by name, this one included.
	Members map[string]netip.AddrPort `json:"members"`
	// Token tells this cluster from others.
	Token string `json:"token"`
	// Client is where clients are answered; Peer, which Members names too, where members are.
	Client netip.AddrPort `json:"client"`
	// CA, Certificate and Key are PEM files. Whoever connects, client or member, shows a certificate of CA, and
	// so does this store.
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

func (k *Cluster) faults(name string) (faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("cluster: "+format, args...))
	}
	if !k.Members[name].IsValid() {
		fault("members: there is none of the store's own name, %q", name)
	}
	if len(k.Members) < 3 || len(k.Members)%2 == 0 {
		fault("members: %d: want an odd number, at least 3: fewer, or one more, survive no more failures", len(k.Members))
	}
	if k.Token == "" {
		fault("token: must be set")
	}
	if !k.Client.IsValid() {
		fault("client: must be set")
	}
	for field, path := range map[string]string{"ca": k.CA, "certificate": k.Certificate, "key": k.Key} {
		if path == "" {
			fault("%s: must be set: members and clients are known by certificates", field)
		}
	}
	return faults
}

// apply says it in etcd's words.
func (k *Cluster) apply(name string, ec *embed.Config) {
	peer := func(a netip.AddrPort) url.URL { return url.URL{Scheme: "https", Host: a.String()} }
	ec.TickMs, ec.ElectionMs = uint(clusterTick.Milliseconds()), clusterElectionTicks*uint(clusterTick.Milliseconds())
	ec.ListenPeerUrls = []url.URL{peer(k.Members[name])}
	ec.AdvertisePeerUrls = ec.ListenPeerUrls
	ec.AdvertiseClientUrls = []url.URL{peer(k.Client)}
	ec.InitialClusterToken, ec.InitialCluster = k.Token, ""
	for _, n := range slices.Sorted(maps.Keys(k.Members)) {
		if ec.InitialCluster != "" {
			ec.InitialCluster += ","
		}
		u := peer(k.Members[n])
		ec.InitialCluster += n + "=" + u.String()
	}
	ec.PeerTLSInfo = transport.TLSInfo{CertFile: k.Certificate, KeyFile: k.Key, TrustedCAFile: k.CA, ClientCertAuth: true}
	// What a configuration that leaves them out would be refused for: a member catches up from its log, not from
	// a snapshot, while it was away for less than this.
	ec.SnapshotCatchUpEntries = ec.SnapshotCount
}

// server is the TLS of the client address.
func (k *Cluster) server() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(k.Certificate, k.Key)
	if err != nil {
		return nil, fmt.Errorf("the store's certificate: %w", err)
	}
	pem, err := os.ReadFile(k.CA)
	if err != nil {
		return nil, fmt.Errorf("the store's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("the store's CA: " + k.CA + " holds no PEM certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: roots,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}, nil
}

// listen opens what clients are answered on; the TLS is nil on a Unix socket.
func listen(c Config, g *ground) (net.Listener, *tls.Config, error) {
	if c.Cluster == nil {
		l, err := g.listen(c.ClientSocket)
		return l, nil, err
	}
	t, err := c.Cluster.server()
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", c.Cluster.Client.String())
	return l, t, err
}

package api

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/forecast"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	out := Status{Cluster: s.cfg.Cluster, Ready: true, Version: s.cfg.Version, Vector: s.cfg.Vector().String(),
		Peers: []Peer{}, Proxies: s.proxyList()}
	if err := s.cfg.Ready(); err != nil {
		out.Ready, out.Problem = false, err.Error()
	}
	if s.cfg.Uplink != nil {
		out.Uplink = s.cfg.Uplink()
	}
	for i := range out.Proxies {
		out.Proxies[i].Types = nil // proxy-status has them
	}
	for _, p := range s.cfg.Peers() {
		out.Peers = append(out.Peers, peerOf(p))
	}
	out.Verdicts, out.VerdictEvents = s.cfg.Verdicts()
	if s.cfg.Replicas != nil {
		if out.Replicas = s.cfg.Replicas(); len(out.Replicas) == 1 {
			out.Replicas = nil
		}
	}
	if s.cfg.Refused != nil {
		out.Refused = s.cfg.Refused()
	}
	if s.cfg.Bundle != nil {
		b := s.cfg.Bundle()
		out.Certificates = Certificates{TrustDomain: b.TrustDomain, Generation: b.Generation, Roots: len(b.Roots)}
		for _, der := range b.Roots {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("read the bundle of %s: %w", b.TrustDomain, err)
			}
			if e := &out.Certificates.Expires; e.IsZero() || c.NotAfter.Before(*e) {
				*e = c.NotAfter
			}
		}
	}
	return reply(w, http.StatusOK, out)
}

func peerOf(p PeerStatus) Peer {
	out := Peer{Cluster: p.Cluster, InSync: p.InSync && !p.Stale, State: p.State, Stale: p.Stale, AgeSeconds: p.Age.Seconds(),
		StateAgeSeconds: p.StateAge.Seconds(), Up: p.Up(), Loss: p.Loss,
		RTTMillis: float64(p.RTT.Microseconds()) / 1000, Via: p.Via, ViaRTTMillis: float64(p.ViaRTT.Microseconds()) / 1000, Gateways: p.Gateways, Version: p.Version, Protocol: p.Protocol, Problem: p.Problem}
	if p.Position != (mesh.Position{}) {
		out.Position = fmt.Sprintf("%s:%d", p.Position.Epoch, p.Position.Revision)
	}
	return out
}

func (s *Server) proxies(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]any{"cluster": s.cfg.Cluster, "proxies": s.proxyList()})
}

func (s *Server) proxyList() []Proxy {
	out := []Proxy{}
	for _, c := range s.cfg.Proxies() {
		out = append(out, s.proxyOf(c))
	}
	return out
}

func (s *Server) proxyOf(c xds.ClientStatus) Proxy {
	p := Proxy{ID: c.Node.ID, Cluster: c.Node.Cluster, Identity: c.Node.Identity.String(), Mode: c.Node.Mode, Zone: c.Node.Zone,
		Connected: true, Since: c.Connected.UTC(), InSync: c.InSync(), Version: c.Node.Version, Vector: c.Node.Vector.String()}
	if p.Cluster == "" {
		p.Cluster = s.cfg.Cluster
	}
	switch {
	case c.Behind:
		p.Waiting = "catching up"
	case c.Queued:
		p.Waiting = "queued"
	}
	for _, t := range c.Types {
		p.Sent, p.Acked, p.Nacks = p.Sent+t.Sent, p.Acked+t.Acked, p.Nacks+len(t.Refused)
		_, short, _ := strings.Cut(t.Type, "/v1/")
		if short == "" {
			short = t.Type
		}
		pt := ProxyType{Type: short, InSync: t.InSync, Sent: t.Sent, Acked: t.Acked, Queued: t.Queued, SentDigest: t.SentDigest, AckedDigest: t.AckedDigest}
		for _, r := range t.Refused {
			pt.Refused = append(pt.Refused, Refused{r.Name, r.Version, r.Message})
		}
		p.Types = append(p.Types, pt)
	}
	return p
}

func (s *Server) proxyConfig(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("namespace") + "/" + r.PathValue("workload")
	refuse := func(status int, problem, remedy string) error {
		return &Error{Status: status, Op: "read the configuration of proxy", Object: id, Problem: problem, Remedy: remedy}
	}
	if s.cfg.ProxyConfig == nil {
		return refuse(http.StatusNotImplemented, "this control plane does not reach its proxies' admin endpoints", "")
	}
	known := false
	for _, c := range s.cfg.Proxies() {
		known = known || c.Node.ID == id
	}
	if !known {
		return refuse(http.StatusNotFound, "no such proxy is connected to cluster "+string(s.cfg.Cluster), "see isthmus proxy-status --all-clusters")
	}
	text, err := s.cfg.ProxyConfig(r.Context(), id)
	if err != nil {
		return refuse(http.StatusBadGateway, err.Error(), "see whether its process runs")
	}
	if !json.Valid(text) {
		return refuse(http.StatusBadGateway, "the proxy did not answer with JSON", "")
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // a caller who left is no error
	return nil
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	verdicts, _ := s.cfg.Verdicts()
	_, _ = io.WriteString(w, consistency.Metrics(s.cfg.Cluster, s.cfg.Version, s.cfg.OwnProxies(), s.cfg.Peers(), verdicts)+s.cfg.MoreMetrics()) // a caller who left is no error
	return nil
}

func (s *Server) digests(w http.ResponseWriter, _ *http.Request) error {
	if s.cfg.Digests == nil {
		return &Error{Status: http.StatusNotImplemented, Op: "read", Object: "digests", Problem: "this control plane has none"}
	}
	return reply(w, http.StatusOK, consistency.Said(s.cfg.Cluster, s.cfg.Digests, s.cfg.Proxies(), s.cfg.Now()))
}

func (s *Server) digestObjects(w http.ResponseWriter, r *http.Request) error {
	side, cluster := r.PathValue("side"), r.PathValue("cluster")
	if s.cfg.Digests == nil {
		return &Error{Status: http.StatusNotImplemented, Op: "read", Object: "digests", Problem: "this control plane has none"}
	}
	out, err := consistency.Look(s.cfg.Digests, side, cluster, r.URL.Query().Get("buckets"))
	if err != nil {
		return &Error{Status: http.StatusNotFound, Op: "read the digests of", Object: cluster, Problem: err.Error(), Remedy: "see isthmus get clusters"}
	}
	return reply(w, http.StatusOK, out)
}

// forecast answers what the loss of clusters or regions ("lost", comma-separated) would do.
func (s *Server) forecast(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	refuse := func(status int, problem, remedy string) error {
		return &Error{Status: status, Op: "foresee the loss of", Object: query.Get("lost"), Problem: problem, Remedy: remedy}
	}
	if s.cfg.Forecast == nil {
		return refuse(http.StatusNotImplemented, "this control plane spreads no load", "")
	}
	users := cmp.Or(query.Get("users"), forecast.UsersMove)
	if users != forecast.UsersMove && users != forecast.UsersGone {
		return refuse(http.StatusBadRequest, fmt.Sprintf("users %q is not known", users), "write move or gone")
	}
	lost, err := forecast.Resolve(s.places(), strings.Split(query.Get("lost"), ","))
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error(), "")
	}
	return reply(w, http.StatusOK, forecast.Ask(s.cfg.Cluster, s.cfg.Forecast, lost, users))
}

// places are the clusters as this one knows them.
func (s *Server) places() (out []forecast.Place) {
	w := s.cfg.World()
	for _, k := range w.Members(world.Small(mesh.KindCluster)) {
		if f, ok := w.Get(k); ok && k.Origin == s.cfg.Cluster {
			out = append(out, forecast.Place{Cluster: mesh.ClusterName(k.Name), Region: f.Value.(*mesh.Cluster).Region})
		}
	}
	return out
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, VersionInfo{s.cfg.Cluster, s.cfg.Version})
}

func (s *Server) bundle(w http.ResponseWriter, _ *http.Request) error {
	if s.cfg.Bundle == nil {
		return &Error{Status: http.StatusNotImplemented, Op: "read", Object: "bundle", Problem: "this control plane has no authority of its own"}
	}
	b := s.cfg.Bundle()
	return reply(w, http.StatusOK, Bundle{b.TrustDomain, b.Roots, b.Generation})
}

// tokenBytes bounds the request for a token.
const tokenBytes = 8 << 10

func (s *Server) tokens(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		Identity string `json:"identity"`
	}
	refuse := func(status int, problem, remedy string) error {
		return &Error{Status: status, Op: "make a join token for", Object: ask.Identity, Problem: problem, Remedy: remedy}
	}
	if s.cfg.NewToken == nil {
		return refuse(http.StatusNotImplemented, "this control plane has no authority of its own", "")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, tokenBytes))
	if err == nil {
		err = json.Unmarshal(body, &ask)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error(), `send {"identity": "spiffe://…"}`)
	}
	id, err := mesh.ParseIdentity(ask.Identity)
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error(), "")
	}
	token, err := s.cfg.NewToken(r.Context(), id)
	if err != nil {
		return refuse(http.StatusForbidden, err.Error(), "")
	}
	return reply(w, http.StatusCreated, map[string]string{"token": token})
}

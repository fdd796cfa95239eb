// Package entry finds where a request from outside the mesh belongs, for those who explain it. Its one idea is that the tables
// which an ingress gateway looks it up in are made here too, of what it is told.
//
// It follows no request further (package api does). Read Find.
package entry

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Source is the word for who is outside the mesh.
const Source = "outside"

// Ask is what comes to an ingress gateway of the view's cluster.
type Ask struct {
	// Scheme is "http", "grpc", "tcp", "udp", or "https" and "tls" for what asks for a server name: requests where TLS ends here.
	Scheme string
	// Host is asked for, and Port is the listener's, also where it is opened at another.
	Host string
	Port uint16
	// Head is made that of a connection where bytes come in.
	Head *message.Head
}

// Find returns what the pipeline of an ingress gateway takes the request for, or why it has nothing to take.
func Find(w *world.World, view ir.View, a Ask) (s *ir.Service, why string, err error) {
	gateways, err := served(w, view)
	if err != nil {
		return nil, "", err
	}
	tables := ingress.New(gateways, 0)
	door := ingress.Door{Number: a.Port, Datagrams: a.Scheme == "udp"}
	ports := tables.Ports()
	at := slices.IndexFunc(ports, func(p *ingress.Port) bool { return p.Door == door })
	if at < 0 {
		return nil, fmt.Sprintf("no listener of a Gateway that is served in cluster %s has %s: %s", view.Cluster, door, there(ports)), nil
	}
	var name mesh.ServiceName
	requests, end := ports[at].Protocol == mesh.ListenerHTTP, tables.Ends(door, a.Host)
	if end != nil && end.Invalid != "" {
		return nil, "the listener has no certificate that can be used, and no handshake succeeds: " + end.Invalid, nil
	}
	switch p := ports[at].Protocol; {
	case a.Scheme == "https" && end != nil && end.Protocol == mesh.ListenerHTTPS:
		requests = true
		a.Head.Authority, a.Head.Scheme = a.Head.KeepString(a.Host), a.Head.KeepString("https")
		name = tables.Find(a.Port, a.Head).Service
	case p == mesh.ListenerHTTP && (a.Scheme == "http" || a.Scheme == "grpc"):
		a.Head.Authority = a.Head.KeepString(a.Host)
		name = tables.Find(a.Port, a.Head).Service
	case ports[at].Opened() == mesh.ListenerTLS && (a.Scheme == "https" || a.Scheme == "tls"):
		name = tables.Carried(door, a.Host)
	case p == mesh.ListenerUDP, p == mesh.ListenerTCP: // bytes, whatever is in them
		name = tables.Carried(door, "")
	default:
		return nil, fmt.Sprintf("%s of cluster %s speaks %s, and %s:// does not", door, view.Cluster, p, a.Scheme), nil
	}
	if !requests {
		a.Head.Method, a.Head.Path = a.Head.KeepString("CONNECT"), nil
	}
	for _, s := range tables.Services() {
		if s.Name == name && strings.HasPrefix(s.Routes[0].Object, string(mesh.KindGateway)+" ") { // of what nobody takes
			return nil, nowhere(s.Name, a), nil
		}
		if s.Name == name {
			return s, "", nil
		}
	}
	return nil, "no listener takes it", nil
}

// Listener is the listener and Gateway of a service that Find returned.
func Listener(s mesh.ServiceName) string {
	p := strings.SplitN(s.Name, ":", 4) // gateway:GATEWAY:LISTENER:HOST
	return "listener " + p[2] + " of Gateway " + s.Namespace + "/" + p[1]
}

// nowhere says what nobody takes.
func nowhere(s mesh.ServiceName, a Ask) string {
	if strings.HasPrefix(s.Name, "gateway::") {
		return fmt.Sprintf("no listener of port %d has the host %s", a.Port, a.Host)
	}
	text := "no route that is attached to " + Listener(s)
	if a.Scheme == "tcp" || a.Scheme == "udp" {
		return "there is " + text
	}
	return text + " is for host " + a.Host
}

// served are the Gateways that the cluster's ingress gateways serve.
func served(w *world.World, view ir.View) (out []*ir.Gateway, err error) {
	seen := map[mesh.ServiceName]bool{}
	for f := range w.All() {
		n := mesh.ServiceName{Namespace: f.Namespace, Name: f.Name}
		if f.Kind != mesh.KindGateway || seen[n] {
			continue
		}
		seen[n] = true
		g, err := derive.Eval(w, compile.GatewayOf, compile.GatewayKey{Namespace: n.Namespace, Name: n.Name, View: view})
		if err != nil {
			return nil, fmt.Errorf("explain: Gateway %s: %w", n, err)
		}
		if g != nil {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *ir.Gateway) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// there says which ports there are.
func there(ports []*ingress.Port) string {
	if len(ports) == 0 {
		return "there is none; isthmus get gateways -A -o wide tells what became of each"
	}
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%d (%s)", p.Number, p.Protocol))
	}
	return "there are " + strings.Join(out, ", ") + "; name the port of the listener, not the one at which it is opened"
}

package api

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// addressed is the condition of an imported service that says why it has no address, or not the one that was
// asked for.
const addressed = "Addressed"

// imports lists the services that only other clusters have, of those that q asks for.
func (s *Server) imports(q question, own map[mesh.Key]bool) []item {
	if q.kind.Kind != string(mesh.KindService) {
		return nil
	}
	w := s.cfg.World()
	seen := map[mesh.ServiceName]bool{}
	var out []item
	for f := range w.All() {
		n := mesh.ServiceName{Namespace: f.Namespace, Name: f.Name}
		if f.Kind != mesh.KindRemoteService || seen[n] || own[mesh.Key{Namespace: n.Namespace, Name: n.Name}] || q.namespace != "" && q.namespace != n.Namespace {
			continue
		}
		seen[n] = true
		if it, ok := s.imported(w, n); ok && q.labels.Matches(it.object.Labels) {
			out = append(out, it)
		}
	}
	return out
}

// imported is a service that only other clusters have, as the Service that this cluster's proxies see; false
// if there is none, or an own one.
func (s *Server) imported(w *world.World, n mesh.ServiceName) (item, bool) {
	exporters := exportersOf(w, n)
	name := s.exists(w, n)
	if len(exporters) == 0 || name == nil {
		return item{}, false
	}
	spec := map[string]any{"ports": portObjects(name.Ports)}
	if name.Address.IsValid() {
		spec["clusterIP"] = name.Address.String()
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "spec": spec,
		"metadata": map[string]string{"name": n.Name, "namespace": n.Namespace}})
	if err != nil {
		return item{}, false
	}
	r := manifest.Parse(string(exporters[0]), text, manifest.Options{Namespace: n.Namespace, Stored: true})
	if len(r.Objects) != 1 {
		return item{}, false
	}
	fact, ok := r.Objects[0].Fact(exporters[0])
	return item{object: r.Objects[0], origin: exporters[0], fact: &fact}, ok
}

// exportersOf lists the clusters that a service is imported from, by name; none if it is an own one.
func exportersOf(w *world.World, n mesh.ServiceName) []mesh.ClusterName {
	if _, own := w.Get(mesh.Key{Kind: mesh.KindService, Origin: w.Self(), Namespace: n.Namespace, Name: n.Name}); own {
		return nil
	}
	var out []mesh.ClusterName
	for _, k := range w.Members(world.Named(mesh.KindRemoteService, n.Namespace, n.Name)) {
		if _, joined := w.Get(mesh.Key{Kind: mesh.KindCluster, Origin: w.Self(), Name: string(k.Origin)}); joined {
			out = append(out, k.Origin)
		}
	}
	slices.Sort(out)
	return out
}

// portObjects writes ports as a Service does, so that they are read as what they are.
func portObjects(ports []ir.Port) []map[string]any {
	applications := map[mesh.Protocol]string{mesh.ProtocolHTTP: "http", mesh.ProtocolHTTP2: "kubernetes.io/h2c", mesh.ProtocolGRPC: "grpc", mesh.ProtocolTCP: "tcp"}
	out := []map[string]any{}
	for i, p := range ports {
		o := map[string]any{"port": p.Port, "protocol": "TCP"}
		if p.Name != "" {
			o["name"] = p.Name
		} else if len(ports) > 1 {
			o["name"] = fmt.Sprintf("port-%d", i)
		}
		switch p.Protocol {
		case mesh.ProtocolUDP:
			o["protocol"] = "UDP"
		case mesh.ProtocolAuto:
		default:
			o["appProtocol"] = applications[p.Protocol]
		}
		out = append(out, o)
	}
	return out
}

// origins says where a service is from, and of one from elsewhere what it lacks here.
func (st *statuses) origins(n mesh.ServiceName, out *ServiceStatus) {
	out.Origins = exportersOf(st.world, n)
	if len(out.Origins) == 0 {
		out.Origins = []mesh.ClusterName{st.world.Self()}
		return
	}
	no := func(reason, message string) {
		out.Conditions = append(out.Conditions, Condition{Type: addressed, Status: isFalse, Reason: reason, Message: message})
	}
	if st.server.cfg.Addresses == nil {
		no("NoRange", "the control plane of cluster "+string(st.world.Self())+" has no serviceRange to give addresses from; the explicit proxy reaches the service")
		return
	}
	if p := st.server.cfg.Addresses.Problem(n); p != "" {
		no("NotGiven", p)
		return
	}
	if v, err := derive.Eval(st.world, compile.NameOf, compile.In{Service: n, View: st.server.cfg.View}); err == nil && v != nil && !v.Address.IsValid() {
		no("Pending", "the control plane has not given it an address yet")
	}
}

// theirs refuses to change a service that only other clusters have.
func (s *Server) theirs(key store.Key, q question) error {
	if q.kind.Kind != string(mesh.KindService) {
		return nil
	}
	exporters := exportersOf(s.cfg.World(), mesh.ServiceName{Namespace: key.Namespace, Name: key.Name})
	if len(exporters) == 0 {
		return nil
	}
	return s.ownedBy(key, exporters[0])
}

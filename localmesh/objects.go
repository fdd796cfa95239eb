//house:exempt a table: the objects that each control plane is told

package localmesh

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Names of objects that every local mesh has.
const (
	systemNamespace = "isthmus-system"
	managedLabel    = "app.kubernetes.io/managed-by"
	managedBy       = "isthmus-up"
)

// fields is an object, or a part of one, before it is written.
type fields map[string]any

// object is one with our label, so that what `isthmus up` wrote can be told from what
// people did.
func object(apiVersion, kind, namespace, name string, rest fields) fields {
	meta := fields{"name": name, "labels": fields{managedLabel: managedBy}}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	o := fields{"apiVersion": apiVersion, "kind": kind, "metadata": meta}
	for k, v := range rest {
		o[k] = v
	}
	return o
}

const (
	ours = "isthmus.dev/v1alpha1"
	mcs  = "multicluster.x-k8s.io/v1alpha1"
)

// Objects are what cluster c is told at start, as YAML: the mesh, its clusters with the
// roots (DER) that verify each, and the workloads of its own. The same plan and roots give
// the same bytes.
func (p *Plan) Objects(c *Cluster, roots map[mesh.ClusterName][][]byte) ([]byte, error) {
	list := []fields{
		object(ours, "Mesh", "", "mesh", fields{"spec": fields{"domain": p.Domain}}),
		object("v1", "Namespace", "", systemNamespace, nil),
		object("v1", "Namespace", "", "default", nil),
		object("v1", "ServiceAccount", systemNamespace, "gateway", nil),
		object("v1", "ServiceAccount", "default", "shell", nil),
	}
	if c.Ingress {
		list = append(list, object("v1", "ServiceAccount", systemNamespace, "ingress", nil))
	}
	for _, other := range p.Clusters {
		list = append(list, p.clusterObject(c, other, roots[other.Name]))
	}
	list = append(list, object(ours, "AccessPolicy", systemNamespace, "allow-within-mesh", fields{"spec": fields{
		"targetRefs": []fields{{"group": "isthmus.dev", "kind": "Mesh", "name": "mesh"}},
		"action":     "Allow",
		"rules":      []fields{{"from": []fields{{"identities": []string{"*"}}}}},
	}}))
	namespaces := map[string]bool{"default": true, systemNamespace: true}
	for _, w := range slices.Concat(c.Workloads, p.imports(c)) {
		if !namespaces[w.Namespace] {
			namespaces[w.Namespace] = true
			list = append(list, object("v1", "Namespace", "", w.Namespace, nil))
		}
		if slices.Contains(c.Workloads, w) {
			list = append(list, p.serviceObjects(c, w)...)
		} else {
			list = append(list, p.importObject(c, w))
		}
	}
	for _, i := range c.Instances {
		list = append(list, p.workloadObject(c, i))
	}
	return marshal(list)
}

// clusterObject is a cluster as cluster c reaches it: peers at c's ends of links.
func (p *Plan) clusterObject(c, other *Cluster, roots [][]byte) fields {
	spec := fields{
		"region": other.Region, "network": other.Network, "role": mesh.RolePrimary, "trustDomain": other.TrustDomain,
		"accepts": []fields{{"origin": "*", "kind": "*", "namespace": "*"}},
	}
	if len(other.Zones) > 0 {
		spec["zones"] = other.Zones
	}
	if other.Provider != "" {
		spec["provider"] = other.Provider
	}
	if other.Jurisdiction != "" {
		spec["jurisdiction"] = other.Jurisdiction
	}
	gateway := p.Layout.Gateway(c.N)
	var planes []string
	for i := range other.Planes() {
		if other == c {
			planes = append(planes, at(p.Layout.Replica(c.N, i), portFederation).String())
		} else {
			planes = append(planes, p.Layout.Federation(c.N, other.N, i).String())
		}
	}
	if other != c {
		gateway = p.Layout.LinkEnd(c.N, other.N)
		// In whole milliseconds: 1.5s is no duration of Gateway API (GEP-2257).
		if rtt := p.Link(c.Name, other.Name).Shape.RTT.Round(time.Millisecond); rtt > 0 {
			spec["rtt"] = fmt.Sprintf("%dms", rtt.Milliseconds())
		}
	}
	spec["gateways"] = []string{at(gateway, portGateway).String()}
	if other.Ingress { // clients outside the mesh reach it past the links
		spec["ingresses"] = []string{p.Layout.Ingress(other.N).String()}
	}
	if other.Remote() {
		spec["role"], spec["primaries"] = string(mesh.RoleRemote), other.Primaries
	} else if other == c || c.Follows(other) {
		spec["controlPlanes"] = planes
	}
	if len(roots) > 0 {
		var text bytes.Buffer
		for _, der := range roots {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer takes everything
		}
		spec["trustBundle"] = text.String()
	}
	return object(ours, "Cluster", "", string(other.Name), fields{"spec": spec})
}

// taking lets an object have its address though an earlier mesh file may have given it to another service: see
// prune.go for why nobody knows it as the other's.
func taking(o fields) fields {
	o["metadata"].(fields)["annotations"] = fields{mesh.TakeAddressAnnotation: "true"}
	return o
}

func (p *Plan) serviceObjects(c *Cluster, w *manifest.LocalWorkload) []fields {
	out := []fields{
		object("v1", "ServiceAccount", w.Namespace, w.Name, nil),
		taking(object("v1", "Service", w.Namespace, w.Name, fields{"spec": fields{
			"clusterIP": p.Layout.Service(c.N, p.indexOf(w)).String(),
			"selector":  fields{"app": w.Name},
			"ports":     []fields{{"name": cmp.Or(w.Protocol, manifest.DefaultProtocol), "port": w.ServicePort, "targetPort": w.Port}},
		}})),
	}
	if w.Export {
		out = append(out, object(mcs, "ServiceExport", w.Namespace, w.Name, nil))
	}
	return out
}

// importObject asks for the address at which cluster c sees a service of others, the one that it has in
// every cluster: what runs here is told of it before anybody has heard of the service.
func (p *Plan) importObject(c *Cluster, w *manifest.LocalWorkload) fields {
	return taking(object(mcs, "ServiceImport", w.Namespace, w.Name, fields{"spec": fields{
		"type":  "ClusterSetIP",
		"ips":   []string{p.Layout.Service(c.N, p.indexOf(w)).String()},
		"ports": []fields{{"name": cmp.Or(w.Protocol, manifest.DefaultProtocol), "port": w.ServicePort}},
	}}))
}

func (p *Plan) workloadObject(c *Cluster, i *Instance) fields {
	spec := fields{
		"address":        p.Layout.App(c.N, i.N).String(),
		"ports":          []fields{{"name": cmp.Or(i.Workload.Protocol, manifest.DefaultProtocol), "port": i.Workload.Port}},
		"serviceAccount": i.Workload.Name,
		"proxy":          at(p.Layout.Sidecar(c.N, i.N), portInbound).String(),
	}
	if i.Zone != "" {
		spec["locality"] = fields{"zone": i.Zone}
	}
	if i.Workload.Lanes > 0 {
		spec["capacity"] = fields{"lanes": i.Workload.Lanes}
	}
	o := object(ours, "Workload", i.Workload.Namespace, i.Name(), fields{"spec": spec})
	o["metadata"].(fields)["labels"] = fields{managedLabel: managedBy, "app": i.Workload.Name}
	return o
}

// marshal writes objects as kubectl would print them, after they were found to be without
// fault: what a user's file must pass, ours must pass.
func marshal(list []fields) ([]byte, error) {
	var out bytes.Buffer
	for n, o := range list {
		text, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("write the objects of the mesh: %w", err)
		}
		r := manifest.Parse("isthmus-up", text, manifest.Options{})
		if len(r.Faults) > 0 {
			return nil, fmt.Errorf("write the objects of the mesh: %v", r.Faults[0])
		}
		yaml, err := manifest.Marshal(r.Objects[0])
		if err != nil {
			return nil, fmt.Errorf("write the objects of the mesh: %w", err)
		}
		if n > 0 {
			out.WriteString("---\n")
		}
		out.Write(yaml)
	}
	return out.Bytes(), nil
}

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// addressing is the objects of an apply with the addresses that services got.
type addressing struct {
	objects []manifest.Object
	faults  []manifest.Fault
}

// addresses gives each service without an address the one it has, in this cluster or as one that only others
// have, or the next free one. An address is one service's: a second one that asks for it is a fault, as is
// an import that does. What is given is written down before the services are, unless dry is set, so that
// replicas give no address twice. The caller holds s.writing.
func (s *Server) addresses(ctx context.Context, objects []manifest.Object, dry bool) (addressing, error) {
	out := addressing{objects: objects}
	if s.cfg.Addresses == nil || !asksForAddresses(objects) {
		return out, nil
	}
	stored, _, err := s.cfg.Objects.List(ctx, store.Scope{Kind: "Service"})
	if err != nil {
		return out, fmt.Errorf("list services for their addresses: %w", err)
	}
	stated, has := s.stated.Of(s.cfg.Cluster, stored)
	var asks []address.Ask
	var at []int // the object of each ask
	ask := func(i int, a address.Ask) { asks, at = append(asks, a), append(at, i) }
	own := map[mesh.ServiceName]bool{}
	for i, o := range objects {
		v, ok := o.Value.(*mesh.Service)
		if !ok {
			continue
		}
		own[v.ServiceName] = true
		had, standing := has[v.ServiceName]
		switch {
		case len(v.Addresses) == 0 && !wantsAddress(v, o):
		case len(v.Addresses) == 0 && standing: // what a service has it keeps
			ask(i, address.Ask{Service: v.ServiceName, Want: had, Stands: true})
		case len(v.Addresses) == 0:
			ask(i, address.Ask{Service: v.ServiceName})
		case s.cfg.Addresses.Gives(v.Addresses[0]):
			ask(i, address.Ask{Service: v.ServiceName, Want: v.Addresses[0], Stands: standing && had == v.Addresses[0], Takes: mesh.TakesAddress(o.Annotations)})
		default:
			if other, taken := stated[v.Addresses[0]]; taken && other != v.ServiceName {
				out.faults = append(out.faults, faultOf(o, "spec.clusterIP", fmt.Sprintf("%s is the address of service %s", v.Addresses[0], other), "leave it out"))
			}
			stated[v.Addresses[0]] = v.ServiceName
		}
	}
	for i, o := range objects {
		v, ok := o.Value.(*mesh.ServiceImport)
		if _, mine := has[mesh.ServiceName{Namespace: o.Namespace, Name: o.Name}]; ok && v.Address.IsValid() && !mine && !own[v.ServiceName] {
			ask(i, address.Ask{Service: v.ServiceName, Want: v.Address, Takes: mesh.TakesAddress(o.Annotations)})
		}
	}
	answers, err := s.cfg.Addresses.Claim(ctx, asks, address.Options{Dry: dry || len(out.faults) > 0, All: true, Stated: stated})
	if err != nil {
		return out, err
	}
	out.objects = slices.Clone(objects)
	for j, a := range answers {
		o := objects[at[j]]
		if a.Refused != address.None {
			out.faults = append(out.faults, s.refusedAddress(o, asks[j], a, stated))
			continue
		}
		if v, ok := o.Value.(*mesh.Service); ok && (len(v.Addresses) == 0 || v.Addresses[0] != a.Address) {
			if out.objects[at[j]], err = withAddress(o, a.Address); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// refusedAddress is the fault of an object that did not get its address.
func (s *Server) refusedAddress(o manifest.Object, ask address.Ask, a address.Answer, stated map[netip.Addr]mesh.ServiceName) manifest.Fault {
	field, remedy := "spec.clusterIP", "leave it out"
	if o.Kind == string(mesh.KindServiceImport) {
		field = "spec.ips"
	}
	if a.Refused == address.Exhausted {
		remedy = "delete a service that is not needed, or give the control plane a larger serviceRange"
	}
	w := s.cfg.World()
	there := func(n mesh.ServiceName) bool {
		if stated[ask.Want] == n {
			return true
		}
		v, err := derive.Eval(w, compile.NeedOf, n)
		return err != nil || v != nil
	}
	return faultOf(o, field, s.cfg.Addresses.Text(ask, a, there), remedy)
}

func asksForAddresses(objects []manifest.Object) bool {
	return slices.ContainsFunc(objects, func(o manifest.Object) bool {
		if v, ok := o.Value.(*mesh.ServiceImport); ok {
			return v.Address.IsValid()
		}
		_, ok := o.Value.(*mesh.Service)
		return ok
	})
}

// wantsAddress reports whether callers reach the service at an address of its own.
func wantsAddress(v *mesh.Service, o manifest.Object) bool {
	if v.Headless {
		return false
	}
	var s struct{ Spec struct{ Type string } }
	return json.Unmarshal(o.JSON, &s) == nil && s.Spec.Type != "ExternalName"
}

// withAddress is the service with spec.clusterIP set.
func withAddress(o manifest.Object, a netip.Addr) (manifest.Object, error) {
	fail := func(err error) (manifest.Object, error) {
		return manifest.Object{}, fmt.Errorf("give %s the address %s: %w", o, a, err)
	}
	var tree map[string]any
	dec := json.NewDecoder(bytes.NewReader(o.JSON))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return fail(err)
	}
	spec, ok := tree["spec"].(map[string]any)
	if !ok {
		spec = map[string]any{}
		tree["spec"] = spec
	}
	delete(spec, "clusterIPs")
	spec["clusterIP"] = a.String()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(tree); err != nil {
		return fail(err)
	}
	r := manifest.Parse(o.File, b.Bytes(), manifest.Options{Namespace: o.Namespace})
	if len(r.Objects) != 1 || len(r.Faults) > 0 || object.Key(r.Objects[0]) != object.Key(o) {
		return fail(fmt.Errorf("it is no longer the same service: %v", r.Faults))
	}
	out := r.Objects[0]
	out.Line = o.Line
	return out, nil
}

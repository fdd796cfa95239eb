package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The host octets that services get.
const (
	firstHost = 10
	lastHost  = 254
)

// addressing is the objects of an apply with the addresses that services got.
type addressing struct {
	objects []manifest.Object
	faults  []manifest.Fault
}

// addresses gives each service without an address the one it has in the store, or the next
// free one of the cluster's range. An address is one service's: a second one that asks for it is a
// fault. The caller holds s.writing; only one API server may give addresses of a range.
func (s *Server) addresses(ctx context.Context, objects []manifest.Object) (addressing, error) {
	out := addressing{objects: objects}
	if !s.cfg.ServiceRange.IsValid() || !hasService(objects) {
		return out, nil
	}
	stored, _, err := s.cfg.Objects.List(ctx, store.Scope{Kind: "Service"})
	if err != nil {
		return out, fmt.Errorf("list services for their addresses: %w", err)
	}
	owner, has := map[netip.Addr]mesh.ServiceName{}, map[mesh.ServiceName]netip.Addr{}
	take := func(v *mesh.Service) {
		for _, a := range v.Addresses {
			owner[a] = v.ServiceName
			has[v.ServiceName] = a
		}
	}
	for _, o := range stored {
		if it, err := s.decode(o); err == nil {
			take(it.object.Value.(*mesh.Service))
		}
	}
	out.objects = make([]manifest.Object, len(objects))
	copy(out.objects, objects)
	for i, o := range objects { // what is asked for by number comes before what is free
		v, ok := o.Value.(*mesh.Service)
		if !ok {
			continue
		}
		for _, a := range v.Addresses {
			if other, taken := owner[a]; taken && other != v.ServiceName {
				out.faults = append(out.faults, faultOf(o, "spec.clusterIP", fmt.Sprintf("%s is the address of service %s", a, other), "leave it out"))
			}
		}
		if len(v.Addresses) == 0 && wantsAddress(v, o) {
			if a, ok := has[v.ServiceName]; ok {
				if out.objects[i], err = withAddress(o, a); err != nil {
					return out, err
				}
			}
		}
		take(v)
	}
	next := s.cfg.ServiceRange.Masked().Addr()
	for i, o := range out.objects {
		v, ok := o.Value.(*mesh.Service)
		if !ok || len(v.Addresses) > 0 || !wantsAddress(v, o) {
			continue
		}
		for ; s.cfg.ServiceRange.Contains(next) && !isFree(next, owner); next = next.Next() {
		}
		if !s.cfg.ServiceRange.Contains(next) {
			out.faults = append(out.faults, faultOf(o, "spec.clusterIP", "no address is left in "+s.cfg.ServiceRange.String(), "delete a service that is not needed"))
			continue
		}
		owner[next] = v.ServiceName
		if out.objects[i], err = withAddress(o, next); err != nil {
			return out, err
		}
	}
	return out, nil
}

func hasService(objects []manifest.Object) bool {
	for _, o := range objects {
		if _, ok := o.Value.(*mesh.Service); ok {
			return true
		}
	}
	return false
}

// wantsAddress reports whether callers reach the service at an address of its own.
func wantsAddress(v *mesh.Service, o manifest.Object) bool {
	if v.Headless {
		return false
	}
	var s struct{ Spec struct{ Type string } }
	return json.Unmarshal(o.JSON, &s) == nil && s.Spec.Type != "ExternalName"
}

func isFree(a netip.Addr, owner map[netip.Addr]mesh.ServiceName) bool {
	host := a.As4()[3]
	_, taken := owner[a]
	return !taken && host >= firstHost && host <= lastHost
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

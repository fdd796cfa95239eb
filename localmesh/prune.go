package localmesh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A state directory outlives the mesh file that filled it. What an earlier start wrote, which our label tells
// apart from what people did, and what the file no longer says is taken away before the file's objects are
// written and before any proxy runs. Addresses follow the file too: nobody of the mesh knows an old one, for
// every proxy and application starts anew and without its snapshot, so that none need be held back (ADR 24).

// prunedKinds are the kinds that Plan.Objects writes for what may leave a file, in the order in which they are
// taken away: who is called first, what others refer to last.
func prunedKinds() []string {
	return []string{"Workload", "ServiceExport", "ServiceImport", "Service", "AccessPolicy", "ServiceAccount", "Cluster", "Namespace"}
}

// Removed is an object of one cluster that was taken away.
type Removed struct {
	Cluster   mesh.ClusterName `json:"cluster"`
	Kind      string           `json:"kind"`
	Namespace string           `json:"namespace,omitempty"`
	Name      string           `json:"name"`
}

// Moved is a service of the user's that was given another address.
type Moved struct {
	Cluster   mesh.ClusterName `json:"cluster"`
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	From      netip.Addr       `json:"from"`
	To        netip.Addr       `json:"to"`
}

// held is an object that a control plane has, as far as pruning reads it.
type held struct {
	text     json.RawMessage
	Kind     string
	Metadata struct {
		Namespace, Name string
		// ResourceVersion is missing in what another cluster states.
		ResourceVersion string
		Labels          map[string]string
	}
	Spec struct {
		ClusterIP string
		IPs       []string
	}
}

func (h *held) key() mesh.Key {
	return mesh.Key{Kind: mesh.Kind(h.Kind), Namespace: h.Metadata.Namespace, Name: h.Metadata.Name}
}

// address is what a Service or ServiceImport states; invalid where it states none.
func (h *held) address() netip.Addr {
	text := h.Spec.ClusterIP
	if text == "" && len(h.Spec.IPs) > 0 {
		text = h.Spec.IPs[0]
	}
	a, _ := netip.ParseAddr(text)
	return a
}

// wanted is what the mesh file says of a cluster: each object, with its address where it states one.
type wanted map[mesh.Key]netip.Addr

func readWanted(objects []byte) (wanted, error) {
	r := manifest.Parse("isthmus-up", objects, manifest.Options{})
	if len(r.Faults) > 0 {
		return nil, fmt.Errorf("read the objects of the mesh: %v", r.Faults[0])
	}
	out := wanted{}
	for _, o := range r.Objects {
		var a netip.Addr
		switch v := o.Value.(type) {
		case *mesh.Service:
			if len(v.Addresses) > 0 {
				a = v.Addresses[0]
			}
		case *mesh.ServiceImport:
			a = v.Address
		}
		out[mesh.Key{Kind: mesh.Kind(o.Kind), Namespace: o.Namespace, Name: o.Name}] = a
	}
	return out, nil
}

// takes reports whether an address is one of the file's.
func (w wanted) takes(a netip.Addr) bool {
	for _, b := range w {
		if a == b {
			return true
		}
	}
	return false
}

// prune takes away from a cluster what the objects do not say any more, and what is about to get another
// address: written in place, two services would have one address for a while, and a control plane that sees it
// decides between them. Services of the user's move out of the way.
func (m *Mesh) prune(ctx context.Context, c *Cluster, objects []byte) error {
	want, err := readWanted(objects)
	if err != nil {
		return err
	}
	api := m.apis[c.Name]
	for _, kind := range prunedKinds() {
		list, err := api.list(ctx, kind, "")
		if err != nil {
			return err
		}
		for _, h := range list {
			address, stays := want[h.key()]
			switch {
			case stays && address == h.address():
				continue
			case !stays && h.Metadata.Labels[managedLabel] != managedBy:
				continue
			case !stays && kind == "Namespace":
				if used, err := api.usesNamespace(ctx, h.Metadata.Name); err != nil || used {
					if err != nil {
						return err
					}
					continue
				}
			}
			if err := api.delete(ctx, h.key()); err != nil {
				return err
			}
			if !stays {
				m.mu.Lock()
				m.summary.Removed = append(m.summary.Removed, Removed{c.Name, kind, h.Metadata.Namespace, h.Metadata.Name})
				m.mu.Unlock()
			}
		}
	}
	return m.makeRoom(ctx, c, want)
}

// makeRoom moves services of the user's that are at addresses which the file's services get, and those whose
// address was given when the cluster had another network.
func (m *Mesh) makeRoom(ctx context.Context, c *Cluster, want wanted) error {
	api, network := m.apis[c.Name], m.plan.Layout.Net(c.N, systemNet)
	list, err := api.list(ctx, "Service", "")
	if err != nil {
		return err
	}
	taken := map[netip.Addr]bool{}
	for _, h := range list {
		taken[h.address()] = true
	}
	for _, h := range list {
		from := h.address()
		_, ours := want[h.key()]
		if ours || !from.IsLoopback() || network.Contains(from) && !want.takes(from) {
			continue
		}
		to, err := api.move(ctx, h, func(yield func(netip.Addr) bool) {
			for _, host := range append([]int{int(from.As4()[3])}, hostsDown()...) {
				a := m.plan.Layout.Addr(c.N, systemNet, host)
				if host >= hostServices && !taken[a] && !want.takes(a) && !yield(a) {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		taken[to] = true
		m.mu.Lock()
		m.summary.Moved = append(m.summary.Moved, Moved{c.Name, h.Metadata.Namespace, h.Metadata.Name, from, to})
		m.mu.Unlock()
	}
	return nil
}

// hostsDown are the last octets of services, from the far end of those that files use.
func hostsDown() []int {
	var out []int
	for host := hostServices + servicesMax - 1; host >= hostServices; host-- {
		out = append(out, host)
	}
	return out
}

// list reads what a cluster itself states of a kind, in a namespace or in all. It waits for a store that is
// starting: what is known while it is away may be old, or nothing.
func (a *planeAPI) list(ctx context.Context, kind, namespace string) ([]held, error) {
	k, _ := manifest.KindNamed(kind)
	path := "/v1/objects/" + k.Plural
	if namespace != "" {
		path += "?namespace=" + url.QueryEscape(namespace)
	}
	var answer struct{ Items []json.RawMessage }
	err := persist(ctx, func() error { return a.call(ctx, http.MethodGet, path, "", nil, &answer) })
	var out []held
	for _, text := range answer.Items {
		h := held{text: text}
		if err := json.Unmarshal(text, &h); err != nil {
			return nil, fmt.Errorf("GET %s of %s: read the answer: %w", path, a.cluster, err)
		}
		if h.Metadata.ResourceVersion != "" {
			h.Kind = kind
			out = append(out, h)
		}
	}
	return out, err
}

// usesNamespace reports whether a cluster has an object in a namespace.
func (a *planeAPI) usesNamespace(ctx context.Context, namespace string) (bool, error) {
	for _, k := range manifest.Kinds() {
		if !k.Namespaced || k.File {
			continue
		}
		if list, err := a.list(ctx, k.Kind, namespace); err != nil || len(list) > 0 {
			return len(list) > 0, err
		}
	}
	return false, nil
}

// delete takes an object away, if it is there.
func (a *planeAPI) delete(ctx context.Context, key mesh.Key) error {
	k, _ := manifest.KindNamed(string(key.Kind))
	path := fmt.Sprintf("/v1/objects/%s/%s/%s", k.Plural, url.PathEscape(cmp.Or(key.Namespace, "-")), url.PathEscape(key.Name))
	err := persist(ctx, func() error { return a.call(ctx, http.MethodDelete, path, "", nil, nil) })
	var refused *refusedError
	if errors.As(err, &refused) && (refused.status == http.StatusNotFound || refused.status == http.StatusConflict) {
		return nil // an earlier try did it; what is left of the name is another cluster's
	}
	return err
}

// move gives a service the first of the addresses that the cluster has for it. It stays the user's own, changed
// in place: whatever ends us meanwhile, it is not lost.
func (a *planeAPI) move(ctx context.Context, h held, addresses func(func(netip.Addr) bool)) (netip.Addr, error) {
	fail := func(err error) (netip.Addr, error) {
		return netip.Addr{}, fmt.Errorf("move %s of %s from %s, which the mesh file needs or the cluster has no more: %w", h.key(), a.cluster, h.address(), err)
	}
	var tree map[string]any
	if err := json.Unmarshal(h.text, &tree); err != nil {
		return fail(err)
	}
	spec, ok := tree["spec"].(map[string]any)
	if !ok {
		return fail(errors.New("it has no spec"))
	}
	delete(spec, "clusterIPs")
	last := errors.New("none is left")
	for to := range addresses {
		spec["clusterIP"] = to.String()
		text, err := json.Marshal(tree)
		if err == nil {
			err = a.apply(ctx, text)
		}
		var refused *refusedError
		if err == nil {
			return to, nil
		}
		if last = err; !errors.As(err, &refused) || refused.status != http.StatusUnprocessableEntity {
			break // else the address is held back
		}
	}
	return fail(last)
}

// forgetSnapshots lets every proxy start as new: what one kept is of an earlier file, and it would serve it until
// its control plane is heard.
func (p *Plan) forgetSnapshots() error {
	dir := p.path("snapshots")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return fmt.Errorf("forget what proxies kept: %w", err)
	}
	return nil
}

// pruned says for people what was taken away and moved, a line a cluster and kind.
func (s *Summary) pruned() (lines []string) {
	type group struct {
		cluster mesh.ClusterName
		kind    string
	}
	names := map[group][]string{}
	var groups []group
	var left []string
	for _, r := range s.Removed {
		g := group{r.Cluster, r.Kind}
		if names[g] == nil {
			groups = append(groups, g)
		}
		names[g] = append(names[g], strings.TrimPrefix(r.Namespace+"/"+r.Name, "/"))
		if r.Kind == "Cluster" && !slices.Contains(left, r.Name) {
			left = append(left, r.Name)
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(a.cluster, b.cluster) })
	for _, g := range groups {
		lines = append(lines, fmt.Sprintf("Removed from %s, which the mesh file does not say any more: %s %s", g.cluster, g.kind, strings.Join(names[g], ", ")))
	}
	slices.Sort(left)
	for _, c := range left {
		lines = append(lines, fmt.Sprintf("Cluster %s has left the mesh; what it stored stays in %s/clusters/%s", c, s.StateDir, c))
	}
	for _, v := range s.Moved {
		lines = append(lines, fmt.Sprintf("Moved in %s: your Service %s/%s, from %s to %s", v.Cluster, v.Namespace, v.Name, v.From, v.To))
	}
	return lines
}

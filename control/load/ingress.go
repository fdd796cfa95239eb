package load

import (
	"context"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// unservedBytes bounds what a report says of listeners, so that the services have room.
const unservedBytes = 16 << 10

// unserved is what a peer said last, and what stands in the world of that.
type unserved struct{ said, stated []string }

// bounded is as much of a list as a report may hold.
func bounded(names []string) []string {
	n, bytes := 0, 0
	for n < min(len(names), split.UnservedMost) && bytes+len(names[n]) <= unservedBytes {
		bytes += len(names[n])
		n++
	}
	return names[:n]
}

// serves takes which listeners a peer's ingress gateways do not serve. It never waits.
func (l *Driver) serves(n mesh.ClusterName, not []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.ingress[n]
	if of == nil {
		if len(not) == 0 {
			return
		}
		of = &unserved{}
		l.ingress[n] = of
	}
	of.said = not
}

// stateIngress states what peers said since it last did, in one revision.
func (l *Driver) stateIngress(ctx context.Context) error {
	var edits []world.Edit
	said := map[mesh.ClusterName][]string{}
	l.mu.Lock()
	for n, of := range l.ingress {
		if slices.Equal(of.said, of.stated) {
			continue
		}
		said[n] = of.said
		key := mesh.Key{Kind: mesh.KindIngress, Origin: l.cfg.Cluster, Name: string(n)}
		v := &mesh.Ingress{Cluster: n, Unserved: of.said}
		if len(of.said) == 0 {
			edits = append(edits, world.Remove(key))
		} else {
			edits = append(edits, world.Put(&mesh.Fact{Key: key, Value: v, Digest: ir.DigestOf(v)}))
		}
	}
	l.mu.Unlock()
	if len(edits) == 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second) // the loop's queue is full: the next tick is as good
	defer stop()
	if err := l.cfg.Edit(ctx, edits); err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			return nil
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, names := range said {
		l.cfg.Log.Info("a cluster says which listeners of Gateways it does not serve", "peer", n, "listeners", names)
		of := l.ingress[n]
		if of.stated = names; len(of.said) == 0 && len(names) == 0 {
			delete(l.ingress, n)
		}
	}
	return nil
}

package failback

import (
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Gates are those of all clusters that serve one service, for the callers of one. The zero Gates is ready. It is not safe for
// concurrent use.
type Gates struct {
	of map[mesh.ClusterName]*gate
	// Off lets everybody through: a control run.
	Off bool
}

type gate struct {
	Gate
	// seen since the last look.
	seen split.Result
	// whole says that the cluster was lost for everybody, and not the way from here alone.
	whole bool
}

// Move is an event of a cluster's gate, which is as it is after it, and from what part.
type Move struct {
	Cluster mesh.ClusterName
	Event   Event
	From    float64
	Gate    Gate
}

// Saw counts how requests to a cluster ended. Of a cluster that serves nothing here nothing is counted.
func (g *Gates) Saw(r split.Result) {
	if of := g.of[r.Cluster]; of != nil {
		of.seen.Ended += r.Ended
		of.seen.Failed += r.Failed
	}
}

// Look looks at every cluster of a tick, of which self is the one whose callers these are, and states in the input what is let
// through. Tripped are clusters that its proxies left out by themselves (Poll); nil is none. It returns what became of gates, by cluster.
func (g *Gates) Look(in *split.Input, self int, tripped map[mesh.ClusterName]bool, now time.Time) (moves []Move) {
	if g.of == nil {
		g.of = map[mesh.ClusterName]*gate{}
	}
	in.Open, in.Firm, in.Tripped = nil, nil, nil
	if !slices.ContainsFunc(in.Reports, func(r split.Report) bool { return r.Capacity > 0 }) {
		return nil // nobody is known, as of what nobody asks for
	}
	all := split.Result{}
	for _, of := range g.of {
		all.Ended += of.seen.Ended
		all.Failed += of.seen.Failed
	}
	for j := range in.Reports {
		r := &in.Reports[j]
		of := g.of[r.Cluster]
		if of == nil {
			of = &gate{}
			g.of[r.Cluster] = of
		}
		serves := r.Age >= 0 && r.Capacity > 0 && r.Service > 0 && r.Draining < 1
		open := serves && (in.Dead == nil || !in.Dead[self*len(in.Reports)+j])
		l := Look{Usable: open && !tripped[r.Cluster], Tripped: open, Own: of.seen,
			Others: split.Result{Ended: all.Ended - of.seen.Ended, Failed: all.Failed - of.seen.Failed}}
		before, event := of.Gate, Nothing
		if of.Gate, event = before.Next(&l, now); event != Nothing {
			moves = append(moves, Move{r.Cluster, event, before.Part(), of.Gate})
		}
		if of.Phase == Open {
			of.whole = false
		}
		of.whole = of.whole || of.Phase == Lost && !serves
		if part := of.Part(); part < 1 && !g.Off {
			hold(in, self, j, of)
		}
	}
	for n, of := range g.of {
		of.seen = split.Result{}
		if !slices.ContainsFunc(in.Reports, func(r split.Report) bool { return r.Cluster == n }) { // nobody speaks of it any more
			before, event := of.Gate, Nothing
			if of.Gate, event = before.Next(&Look{}, now); event != Nothing {
				of.whole = true
				moves = append(moves, Move{n, event, before.Part(), of.Gate})
			}
		}
	}
	slices.SortFunc(moves, func(a, b Move) int { return strings.Compare(string(a.Cluster), string(b.Cluster)) })
	return moves
}

// Forget drops a cluster that left the mesh.
func (g *Gates) Forget(c mesh.ClusterName) { delete(g.of, c) }

// hold states a gate: what comes back for everybody is taken to be held back by everybody.
func hold(in *split.Input, self, j int, of *gate) {
	n := len(in.Reports)
	if in.Open == nil {
		in.Open, in.Firm, in.Tripped = make([]float64, n*n), make([]bool, n*n), make([]bool, n*n)
		for at := range in.Open {
			in.Open[at] = 1
		}
	}
	for i := range n {
		if i == self || of.whole || of.Tripped { // refused on an open way is no fault of the way
			in.Open[i*n+j], in.Firm[i*n+j] = of.Part(), of.Firm || of.Phase == Lost
			in.Tripped[i*n+j] = of.Phase == Lost && of.Tripped
		}
	}
}

// Several reports whether more than one cluster was seen to serve.
func (g *Gates) Several() bool {
	n := 0
	for _, of := range g.of {
		if of.Phase != Unknown {
			n++
		}
	}
	return n > 1
}

// Returning visits clusters on their way back, by no order.
func (g *Gates) Returning(visit func(mesh.ClusterName, *Gate)) {
	if g.Off {
		return
	}
	for n, of := range g.of {
		if of.Phase == Returning {
			visit(n, &of.Gate)
		}
	}
}

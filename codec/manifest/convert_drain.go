//house:exempt a parser: the fields of a Drain

package manifest

import (
	"cmp"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func (s *scope) drain(in *drain) *mesh.Drain {
	d, t := &in.Spec, &in.Spec.Target
	out := &mesh.Drain{Goal: cmp.Or(mesh.DrainGoal(d.Goal), mesh.GoalDrained), Over: mesh.FailbackTime, From: mesh.AllParts, Force: d.Force, Reason: d.Reason,
		Target: mesh.DrainTarget{Cluster: mesh.ClusterName(t.Cluster), Zone: mesh.Zone(t.Zone), Workload: t.Workload}}
	parts := 0
	for _, set := range []bool{t.Zone != "", t.Workload != "", t.Gateway != nil} {
		if set {
			parts++
		}
	}
	if parts > 1 {
		s.fault(spec("target"), "several of zone, workload and gateway", "write one of them, or none for the whole cluster")
	}
	switch {
	case t.Workload != "":
		out.Target.Namespace = cmp.Or(t.Namespace, "default")
	case t.Namespace != "":
		s.fault(spec("target", "namespace"), "there is no workload", "write target.workload too, or remove it")
	}
	if t.Gateway != nil {
		out.Target.Gateway = *t.Gateway + 1
	}
	if out.Goal == mesh.GoalServing {
		out.From = 0
	}
	if d.From != nil {
		out.From = *d.From * (mesh.AllParts / 100)
	}
	if d.Over != "" {
		out.Over = duration(d.Over)
	}
	if at, err := time.Parse(time.RFC3339, d.Since); err == nil {
		out.SinceMillis = at.UnixMilli()
	}
	return out
}

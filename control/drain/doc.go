// Package drain takes things out of use, and back into it, for people: it looks first whether others can take over, writes the
// intent down as an object (mesh.Drain), and turns it round when whoever takes over gets too much. Its one idea is that the object is
// the drain: every proxy and control plane reads from it, and from its own clock, what part of its requests a target gets at
// this instant. Nothing has to run for a drain to go on, and whoever asks for it again finds it.
//
// It moves no request (core/balance and core/split do, by the object), and looks after drains that were written in its own
// cluster only: of each there is one keeper. Read Keeper.
package drain

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Full is the utilisation that who takes over must not pass.
const Full = 0.85

// ParseTarget reads what people type: CLUSTER, zone/ZONE@CLUSTER, gateway/N@CLUSTER, gateway@CLUSTER (the first), or
// WORKLOAD[.NAMESPACE]@CLUSTER, where the namespace is default unless it is said.
func ParseTarget(s string) (mesh.DrainTarget, error) {
	fail := func(problem string) (mesh.DrainTarget, error) {
		return mesh.DrainTarget{}, fmt.Errorf("target %q: %s; write CLUSTER, zone/ZONE@CLUSTER, gateway/N@CLUSTER or WORKLOAD[.NAMESPACE]@CLUSTER", s, problem)
	}
	what, at, whole := strings.Cut(s, "@")
	if !whole {
		what, at = "", s
	}
	if !mesh.IsLabel(at) {
		return fail("it names no cluster")
	}
	t := mesh.DrainTarget{Cluster: mesh.ClusterName(at)}
	kind, name, slash := strings.Cut(what, "/")
	switch {
	case !whole:
	case slash && kind == "zone" && name != "":
		t.Zone = mesh.Zone(name)
	case slash && kind == "gateway":
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return fail("a gateway is counted from 0")
		}
		t.Gateway = uint32(n) + 1
	case slash:
		return fail("there are zone/ and gateway/")
	case what == "gateway":
		t.Gateway = 1
	default:
		workload, namespace := what, "default"
		if dot := strings.LastIndexByte(what, '.'); dot >= 0 { // a workload's name may have dots, a namespace's has none
			workload, namespace = what[:dot], what[dot+1:]
		}
		if !mesh.IsSubdomain(workload) || !mesh.IsLabel(namespace) {
			return fail("it is no name of a workload")
		}
		t.Workload, t.Namespace = workload, namespace
	}
	return t, nil
}

// NameOf is the name of the object of a target.
func NameOf(t mesh.DrainTarget) string {
	at := "." + string(t.Cluster)
	switch {
	case t.Zone != "":
		return subdomain(string(t.Zone)) + ".zone" + at
	case t.Gateway > 0:
		return strconv.Itoa(int(t.Gateway)-1) + ".gateway" + at
	case t.Workload != "":
		return t.Workload + "." + t.Namespace + ".workload" + at
	}
	return string(t.Cluster)
}

// subdomain makes a label of a zone's name, which may be any text.
func subdomain(s string) string {
	if mesh.IsSubdomain(s) {
		return s
	}
	return fmt.Sprintf("x%x", s)
}

// RefusedError is a drain that was not begun, with what stands against it.
type RefusedError struct{ Plan *Plan }

// Error lists what stands against it.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s is not drained: %s", e.Plan.Target, strings.Join(e.Plan.Problems, "; "))
}

// ErrUnknown says that there is no such thing.
var ErrUnknown = errors.New("there is no such target")

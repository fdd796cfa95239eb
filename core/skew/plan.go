package skew

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Part is one process of a mesh, or the command line that asks.
type Part struct {
	Role    Role   `json:"role"`
	Cluster string `json:"cluster,omitempty"`
	// Name tells parts of one role and cluster apart: a replica, a proxy.
	Name    string  `json:"name,omitempty"`
	Version Version `json:"-"`
	// Build is the version as the build says it, also where that is none, such as a commit's.
	Build string `json:"-"`
}

// State is how a part's version stands.
type State string

// The states.
const (
	Current     State = "current"     // the newest minor version of the mesh
	Behind      State = "behind"      // older, and served
	Early       State = "early"       // newer than its control plane, and served
	Unsupported State = "unsupported" // beyond what is served
	Unknown     State = "unknown"     // the build says no version
)

// Verdict is the state of a part and, where it is not Current, why.
type Verdict struct {
	State State  `json:"state"`
	Why   string `json:"why,omitempty"`
}

// Step is one upgrade of all parts of a role in a cluster.
type Step struct {
	Role    Role   `json:"role"`
	Cluster string `json:"cluster,omitempty"`
	// From is the oldest that there is, To the minor version to go to.
	From string `json:"from"`
	To   string `json:"to"`
	// Parts is how many are concerned.
	Parts int    `json:"parts"`
	Why   string `json:"why"`
}

// Report is what Judge finds: a verdict on each part, in the order of the parts, and the order of upgrades by which
// all come to the newest version without a pair that is not served on the way.
type Report struct {
	Verdicts []Verdict
	Steps    []Step
}

// Judge judges the parts of a mesh.
func Judge(parts []Part) Report {
	m := newMesh(parts)
	out := Report{Verdicts: make([]Verdict, len(parts))}
	one := oneBuild(parts)
	for i, p := range parts {
		if out.Verdicts[i] = m.judge(p); one && out.Verdicts[i].State == Unknown {
			out.Verdicts[i] = Verdict{Current, "every part is of this build"}
		}
	}
	out.Steps = m.plan()
	return out
}

// oneBuild reports whether all parts are of one build. "dev" is that of every build which was made without a version.
func oneBuild(parts []Part) bool {
	for _, p := range parts {
		if p.Build == "" || p.Build == "dev" || p.Build != parts[0].Build {
			return false
		}
	}
	return true
}

// group is the parts of one role in one cluster.
type group struct {
	role           Role
	cluster        string
	oldest, newest Version
	parts          int // that are older than the newest of the mesh
}

// meshOf is what a plan is made over.
type meshOf struct {
	groups []*group
	newest Version // of control planes and relays, or of all if these are not known
}

func newMesh(parts []Part) *meshOf {
	m := &meshOf{}
	for _, p := range parts {
		if p.Version.Known() && !p.Role.Proxy() && p.Role != CLI && (!m.newest.Known() || newer(p.Version, m.newest)) {
			m.newest = p.Version
		}
	}
	for _, p := range parts {
		if !p.Version.Known() {
			continue
		}
		g := m.group(p.Role, p.Cluster)
		if g == nil {
			g = &group{role: p.Role, cluster: p.Cluster, oldest: p.Version, newest: p.Version}
			m.groups = append(m.groups, g)
		}
		if newer(g.oldest, p.Version) {
			g.oldest = p.Version
		}
		if newer(p.Version, g.newest) {
			g.newest = p.Version
		}
		if m.newest.Known() && p.Version.Compare(m.newest) < 0 {
			g.parts++
		}
	}
	slices.SortStableFunc(m.groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(a.role.order(), b.role.order()), cmp.Compare(a.cluster, b.cluster))
	})
	return m
}

// newer also looks at patches, so that the text of the newest is told.
func newer(a, b Version) bool { return cmp.Or(a.Compare(b), cmp.Compare(a.Patch, b.Patch)) > 0 }

func (m *meshOf) group(r Role, cluster string) *group {
	for _, g := range m.groups {
		if g.role == r && g.cluster == cluster {
			return g
		}
	}
	return nil
}

// plane is the control plane or relay of a cluster, nil if its version is not known.
func (m *meshOf) plane(cluster string) *group {
	return cmp.Or(m.group(ControlPlane, cluster), m.group(Relay, cluster))
}

// judge is the verdict on one part.
func (m *meshOf) judge(p Part) Verdict {
	if !p.Version.Known() {
		return Verdict{Unknown, "the build says no version"}
	}
	if !m.newest.Known() {
		return Verdict{Unknown, "no control plane says its version"}
	}
	for _, g := range m.groups {
		if p.Role.Proxy() && g != m.plane(p.Cluster) || g.role.Proxy() {
			continue
		}
		if g.role == CLI && p.Role != CLI {
			continue // commands may be old; they are told so themselves
		}
		for _, v := range []Version{g.oldest, g.newest} {
			if !Served(p.Role, p.Version, g.role, v) {
				return Verdict{Unsupported, fmt.Sprintf("%s and %s %s of %s are more than %d minor versions apart", p.Version.Text, g.role, v.Text, cmp.Or(g.cluster, "this machine"), allowed(p, v))}
			}
		}
	}
	if plane := m.plane(p.Cluster); p.Role.Proxy() && plane != nil && p.Version.Compare(plane.oldest) > 0 {
		return Verdict{Early, "newer than its control plane (" + plane.oldest.Text + "), which is upgraded first"}
	}
	if d, _ := m.newest.Distance(p.Version); d > 0 {
		return Verdict{Behind, fmt.Sprintf("%d of at most %d minor versions behind %s", d, Back, m.newest.Text)}
	}
	return Verdict{State: Current}
}

func allowed(p Part, v Version) int {
	if p.Role.Proxy() && p.Version.Compare(v) > 0 {
		return Ahead
	}
	return Back
}

// plan finds the order: the control plane that is the furthest behind goes first, as far as others and its own proxies
// are still served; where its proxies hold it up, they go first. Each step raises a group, so it ends.
func (m *meshOf) plan() (steps []Step) {
	for m.newest.Known() && len(steps) < 4*len(m.groups)+4 {
		s, ok := m.step()
		if !ok {
			break
		}
		steps = append(steps, s)
	}
	return steps
}

// step takes the next step.
func (m *meshOf) step() (Step, bool) {
	var last *group
	for _, g := range m.groups {
		if (g.role == ControlPlane || g.role == Relay) && m.behind(g) && (last == nil || g.oldest.Compare(last.oldest) < 0) {
			last = g
		}
	}
	if last == nil { // control planes are at the newest: what follows them
		for _, g := range m.groups {
			if m.behind(g) {
				return m.raise(g, m.newest, "its control plane is there already"), true
			}
		}
		return Step{}, false
	}
	to, why := m.newest, "control planes before what follows them, the oldest first"
	for _, g := range m.groups {
		limit := g.oldest.Minor + Back
		if g.role.Proxy() && g.cluster != last.cluster || g.role == CLI || g.oldest.Major != to.Major || g == last || limit >= to.Minor {
			continue
		}
		if g.role.Proxy() && limit <= last.oldest.Minor {
			return m.raise(g, last.oldest, fmt.Sprintf("%s %s could go no further before: %d minor versions back are served", last.role, last.cluster, Back)), true
		}
		to = Version{Major: to.Major, Minor: max(limit, last.oldest.Minor+1)}
		to.Text = to.Release()
		why = fmt.Sprintf("no further before %s of %s is: %d minor versions back are served", g.role, g.cluster, Back)
	}
	return m.raise(last, to, why), true
}

// behind reports whether a group has parts below the newest version of its major.
func (m *meshOf) behind(g *group) bool { return g.oldest.Compare(m.newest) < 0 }

// raise upgrades a group.
func (m *meshOf) raise(g *group, to Version, why string) Step {
	s := Step{Role: g.role, Cluster: g.cluster, From: g.oldest.Text, To: to.Release(), Parts: g.parts, Why: why}
	if to.Compare(m.newest) == 0 {
		s.To = strings.TrimPrefix(m.newest.Text, "v")
	}
	g.oldest = to
	if newer(to, g.newest) {
		g.newest = to
	}
	return s
}

// String is the step as a sentence.
func (s Step) String() string {
	what := string(s.Role)
	switch {
	case s.Role == CLI:
		what = "this command"
	case s.Parts > 1:
		what = fmt.Sprintf("the %d %ss of %s", s.Parts, s.Role, s.Cluster)
	case s.Cluster != "":
		what = fmt.Sprintf("the %s of %s", s.Role, s.Cluster)
	}
	return fmt.Sprintf("upgrade %s from %s to %s: %s", what, strings.TrimPrefix(s.From, "v"), s.To, s.Why)
}

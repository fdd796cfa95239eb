// Package drift compares what clusters intend with what others have stored of it and what proxies have acknowledged. Its one idea
// is that a comparison has three results: equal, different, and not known. Who did not answer is not known, and a digest that
// is old says how old.
//
// It asks nobody: who gathers (isthmus status) brings what clusters say, digests first, and the objects only of pairs that
// differ. Read Cluster, then Compare.
package drift

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// Summary is what a cluster says of one partition: that it tells another cluster, or that it holds of one. Equal digests are
// equal content.
type Summary struct {
	Digest   string `json:"digest"`
	Objects  int    `json:"objects"`
	Position string `json:"position,omitempty"`
	// Of what is held: AgeSeconds is how long ago its owner was heard, -1 for never; Stale says that the lease has lapsed.
	AgeSeconds float64 `json:"ageSeconds,omitempty"`
	Stale      bool    `json:"stale,omitempty"`
	// NotInForce counts objects that are stored and not acted upon, or acted upon and no longer stated.
	NotInForce int `json:"notInForce,omitempty"`
	// Problem is why the owner is not followed.
	Problem string `json:"problem,omitempty"`
}

// Lag is something that a proxy has not acknowledged.
type Lag struct {
	Proxy string `json:"proxy"`
	// Type and Name are of the resource; Name is empty where it is only known that some are on their way.
	Type   string `json:"type,omitempty"`
	Name   string `json:"name,omitempty"`
	Reason string `json:"reason"`
}

// Said is what one cluster says of itself.
type Said struct {
	Cluster string `json:"cluster"`
	// Tells is what it intends for each other cluster, Holds what it has stored of each.
	Tells map[string]Summary `json:"tells"`
	Holds map[string]Summary `json:"holds"`
	// Proxies follow it; Acknowledged of them have accepted everything. Lags are of the others, at most 64.
	Proxies      int   `json:"proxies"`
	Acknowledged int   `json:"acknowledged"`
	Lags         []Lag `json:"lags,omitempty"`
}

// Cluster is a cluster that was asked.
type Cluster struct {
	Name string
	// Said is nil where it did not answer, for Reason.
	Said   *Said
	Reason string
}

// State is the result of a comparison.
type State string

// The states.
const (
	Equal   State = "equal"
	Differs State = "differs"
	Unknown State = "unknown"
)

// Pair is one origin at one other cluster.
type Pair struct {
	Origin  string `json:"origin"`
	Cluster string `json:"cluster"`
	State   State  `json:"state"`
	// Intended and Stored are what each side says; nil where it did not.
	Intended *Summary `json:"intended,omitempty"`
	Stored   *Summary `json:"stored,omitempty"`
	// Reason and Remedy are of what is not equal.
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Report is how a mesh stands.
type Report struct {
	// Digest is over what every cluster intends for every other: equal digests, equal meshes. It is empty where a cluster
	// did not say.
	Digest string `json:"digest,omitempty"`
	Pairs  []Pair `json:"pairs"`
	// Proxies and Acknowledged are those of the clusters that answered.
	Proxies      int `json:"proxies"`
	Acknowledged int `json:"acknowledged"`
	// Differences are the objects that differ, of pairs that do.
	Differences []Difference `json:"differences,omitempty"`
}

// Compare compares what clusters say. It is a function of its arguments; the order of clusters does not matter.
func Compare(clusters []Cluster) Report {
	clusters = slices.SortedFunc(slices.Values(clusters), func(a, b Cluster) int { return cmp.Compare(a.Name, b.Name) })
	r := Report{}
	h, whole := sha256.New(), true
	for _, o := range clusters {
		if o.Said == nil {
			whole = false
		} else {
			r.Proxies, r.Acknowledged = r.Proxies+o.Said.Proxies, r.Acknowledged+o.Said.Acknowledged
			for _, to := range slices.Sorted(maps.Keys(o.Said.Tells)) {
				fmt.Fprintf(h, "%q %q %q\n", o.Name, to, o.Said.Tells[to].Digest)
			}
		}
		for _, c := range clusters {
			if c.Name != o.Name {
				r.Pairs = append(r.Pairs, pair(o, c))
			}
		}
	}
	if whole {
		r.Digest = hex.EncodeToString(h.Sum(nil)[:8])
	}
	return r
}

// pair compares one.
func pair(o, c Cluster) Pair {
	p := Pair{Origin: o.Name, Cluster: c.Name, State: Unknown}
	if o.Said != nil {
		if s, ok := o.Said.Tells[c.Name]; ok {
			p.Intended = &s
		}
	}
	if c.Said != nil {
		if s, ok := c.Said.Holds[o.Name]; ok {
			p.Stored = &s
		}
	}
	asOf := ""
	if p.Stored != nil {
		asOf = "; " + c.Name + " holds " + heard(*p.Stored, o.Name)
	}
	switch {
	case o.Said == nil:
		p.Reason = o.Name + " does not say what it intends (" + o.Reason + ")" + asOf
		p.Remedy = "see why the control plane of " + o.Name + " does not answer; what is stored stays in force meanwhile"
	case c.Said == nil:
		p.Reason = c.Name + " does not say what it has stored (" + c.Reason + ")"
		p.Remedy = "see why the control plane of " + c.Name + " does not answer"
	case p.Intended == nil:
		p.Reason = o.Name + " tells " + c.Name + " nothing: it has not joined it"
		p.Remedy = "apply a Cluster object of " + c.Name + " in " + o.Name
	case p.Stored == nil:
		p.Reason = c.Name + " does not follow " + o.Name + ": it has not joined it"
		p.Remedy = "apply a Cluster object of " + o.Name + " in " + c.Name
	case p.Intended.Digest == p.Stored.Digest && p.Stored.NotInForce == 0:
		p.State = Equal
	default:
		p.State = Differs
		p.Reason, p.Remedy = why(*p.Intended, *p.Stored, o.Name, c.Name)
	}
	return p
}

// why explains a pair that differs.
func why(intended, stored Summary, origin, cluster string) (reason, remedy string) {
	switch {
	case stored.Problem != "" && stored.Stale:
		return fmt.Sprintf("%s does not follow %s: %s; it holds %s", cluster, origin, stored.Problem, heard(stored, origin)),
			"mend the link or the control plane of " + origin + " (isthmus status shows the path); what changed follows by itself within seconds"
	case stored.Stale:
		return fmt.Sprintf("%s has not heard %s; it holds %s", cluster, origin, heard(stored, origin)),
			"mend the link or the control plane of " + origin + " (isthmus status shows the path); what changed follows by itself within seconds"
	case intended.Digest == stored.Digest:
		return fmt.Sprintf("%d objects are stored in %s and not in force there, or in force and no longer stated", stored.NotInForce, cluster), "see the objects"
	}
	return fmt.Sprintf("%s is at %s, %s at %s: the difference is on its way, or was missed", cluster, stored.Position, origin, intended.Position),
		"look again in 10 s: digests are compared with each heartbeat, and a missed change is repaired; if it stays, see the log of the control plane of " + cluster
}

// heard is how old what is held is.
func heard(s Summary, origin string) string {
	switch {
	case s.AgeSeconds < 0:
		return "what its cache had of " + origin
	case s.Stale:
		return fmt.Sprintf("what %s stated %.0f s ago", origin, s.AgeSeconds)
	}
	return "the state of " + origin + " as last stated"
}

// Object is one object of a partition, by what tells its versions apart.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	// NotInForce is why an object that is stored is not acted upon, or why one that is not stated any more is.
	NotInForce string `json:"notInForce,omitempty"`
}

func (o Object) compare(p Object) int {
	return cmp.Or(cmp.Compare(o.Kind, p.Kind), cmp.Compare(o.Namespace, p.Namespace), cmp.Compare(o.Name, p.Name))
}

// Difference is one object that differs between its origin and another cluster, or that proxies have not acknowledged.
type Difference struct {
	Origin    string `json:"origin"`
	Cluster   string `json:"cluster"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Intended and Stored are versions; empty is absent.
	Intended string `json:"intended,omitempty"`
	Stored   string `json:"stored,omitempty"`
	// Proxy is who has not acknowledged it, where that is what differs.
	Proxy  string `json:"proxy,omitempty"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

// Objects compares the objects of a pair: what its origin intends with what the cluster has stored.
func Objects(p Pair, intended, stored []Object) (out []Difference) {
	by := func(a, b Object) int { return a.compare(b) }
	intended, stored = slices.SortedFunc(slices.Values(intended), by), slices.SortedFunc(slices.Values(stored), by)
	add := func(o Object, want, have, reason, remedy string) {
		out = append(out, Difference{Origin: p.Origin, Cluster: p.Cluster, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Intended: want, Stored: have,
			Reason: cmp.Or(reason, p.Reason), Remedy: cmp.Or(remedy, p.Remedy)})
	}
	for len(intended) > 0 || len(stored) > 0 {
		c := 0
		switch {
		case len(intended) == 0:
			c = 1
		case len(stored) == 0:
			c = -1
		default:
			c = intended[0].compare(stored[0])
		}
		switch {
		case c < 0:
			add(intended[0], intended[0].Version, "", "", "")
			intended = intended[1:]
		case c > 0:
			add(stored[0], "", stored[0].Version, stored[0].NotInForce, "")
			stored = stored[1:]
		default:
			i, s := intended[0], stored[0]
			switch {
			case i.Version != s.Version:
				add(i, i.Version, s.Version, "", "")
			case s.NotInForce != "":
				add(i, i.Version, s.Version, s.NotInForce, "mend the object in "+p.Origin+", or upgrade "+p.Cluster+" to a version that understands it; the version before stays in force")
			}
			intended, stored = intended[1:], stored[1:]
		}
	}
	return out
}

// Proxies are the differences between what a cluster has computed for its proxies and what they have acknowledged.
func Proxies(said *Said) (out []Difference) {
	for _, l := range said.Lags {
		remedy := "look again in 10 s; if it stays, see the log of the proxy (isthmus proxy-status -o wide)"
		if l.Name != "" {
			remedy = "the proxy goes on with the version before: mend what the reason names, or upgrade the proxy"
		}
		out = append(out, Difference{Origin: said.Cluster, Cluster: said.Cluster, Kind: l.Type, Name: l.Name, Proxy: l.Proxy, Reason: l.Reason, Remedy: remedy})
	}
	return out
}

// Line is the report in one line.
func (r Report) Line() string {
	n := map[State]int{}
	for _, p := range r.Pairs {
		n[p.State]++
	}
	text := "mesh digest "
	switch {
	case r.Digest == "":
		text += "not known"
	default:
		text += r.Digest
	}
	if n[Differs]+n[Unknown] == 0 {
		text += ": every cluster has stored what every other intends"
	} else {
		text += fmt.Sprintf(": of %d pairs of clusters %d equal, %d differ, %d not known", len(r.Pairs), n[Equal], n[Differs], n[Unknown])
	}
	text += fmt.Sprintf("; %d of %d proxies have acknowledged it", r.Acknowledged, r.Proxies)
	if !r.Fine() {
		text += "; see isthmus status --drift"
	}
	return text
}

// Fine reports whether all is known and equal.
func (r Report) Fine() bool {
	return r.Acknowledged == r.Proxies && !slices.ContainsFunc(r.Pairs, func(p Pair) bool { return p.State != Equal })
}

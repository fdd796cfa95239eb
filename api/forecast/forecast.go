// Package forecast answers what would become of a mesh if clusters were lost: for each service that somebody asks for,
// what each cluster would be asked for, how full it would be, how long its callers would wait, what would be shed, and
// what the law would refuse. Its one idea is that the answer comes from where splits come from: the control plane's
// newest load reports, and the same code (control/load, core/split).
//
// It reads and changes nothing. Read Source, then Ask.
package forecast

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Source is a control plane's loop of load.
type Source interface {
	Foresee(lost map[mesh.ClusterName]bool, stay bool) []load.Foreseen
}

// What becomes of the users of a cluster that is lost.
const (
	// UsersMove: they come in by the nearest cluster that is left.
	UsersMove = "move"
	// UsersGone: what its callers ask for is lost with it.
	UsersGone = "gone"
)

// Answer is a forecast as one control plane makes it. Rates are requests a second.
type Answer struct {
	// Cluster is who answers: of services it is not told of it knows nothing.
	Cluster mesh.ClusterName `json:"cluster"`
	// Lost are the clusters that are taken for lost.
	Lost     []mesh.ClusterName `json:"lost"`
	Users    string             `json:"users"`
	Services []Service          `json:"services"`
	// Findings are what nobody wants, in words.
	Findings []string `json:"findings"`
}

// Service is one service's part.
type Service struct {
	Service  string        `json:"service"`
	Strategy mesh.Strategy `json:"strategy"`
	Clusters []Cluster     `json:"clusters"`
}

// Cluster is one cluster's part of a service, before and after.
type Cluster struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Before  State            `json:"before"`
	After   State            `json:"after"`
}

// State is how a cluster does. What is not known is left out.
type State struct {
	// Demand is what its callers ask for, Refused the part that no cluster may serve; ByLaw says that the law is why.
	Demand  float64 `json:"demand"`
	Refused float64 `json:"refused,omitempty"`
	ByLaw   bool    `json:"byLaw,omitempty"`
	// MeanMillis is what a request of its callers takes, the way included.
	MeanMillis *float64 `json:"meanMillis,omitempty"`
	// Load is what it serves, whoever asks, Capacity what it could, and Shed what is beyond.
	Load        float64  `json:"load"`
	Capacity    *float64 `json:"capacity,omitempty"`
	Utilisation *float64 `json:"utilisation,omitempty"`
	Shed        float64  `json:"shed,omitempty"`
}

// Place is a cluster and where it is.
type Place struct {
	Cluster mesh.ClusterName
	Region  mesh.Region
}

// Resolve finds the clusters of a mesh that words mean: names of clusters, or of regions.
func Resolve(places []Place, words []string) ([]mesh.ClusterName, error) {
	var out []mesh.ClusterName
	for _, word := range words {
		found := false
		for _, p := range places {
			if string(p.Cluster) == word || string(p.Region) == word {
				found = true
				out = append(out, p.Cluster)
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no cluster and no region %q; there are %s", word, known(places))
		}
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) == len(places) {
		return nil, errors.New("no cluster of the mesh would be left, and so nothing to foresee")
	}
	return out, nil
}

func known(places []Place) string {
	var out []string
	for _, p := range places {
		if out = append(out, string(p.Cluster)); p.Region != "" {
			out = append(out, string(p.Region))
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// Ask makes the forecast.
func Ask(self mesh.ClusterName, s Source, lost []mesh.ClusterName, users string) *Answer {
	out := &Answer{Cluster: self, Lost: lost, Users: users, Services: []Service{}, Findings: []string{}}
	gone := map[mesh.ClusterName]bool{}
	for _, c := range lost {
		gone[c] = true
	}
	for _, f := range s.Foresee(gone, users == UsersGone) {
		v := Service{Service: f.Service.String(), Strategy: f.Strategy}
		for i, c := range f.After.Clusters {
			row := Cluster{c, state(&f.Before, i), state(&f.After, i)}
			v.Clusters = append(v.Clusters, row)
			out.find(v.Service, &row)
		}
		out.Services = append(out.Services, v)
	}
	return out
}

// worth is the rate below which nobody needs to hear of it.
const worth = 0.05

// find says what nobody wants.
func (a *Answer) find(service string, c *Cluster) {
	say := func(format string, args ...any) {
		a.Findings = append(a.Findings, service+": "+fmt.Sprintf(format, args...))
	}
	if s := c.After; s.Shed > worth {
		say("cluster %s would be asked for %.0f requests a second and has %.0f: %.0f would be shed; give it more instances or lanes", c.Cluster, s.Load, *s.Capacity, s.Shed)
	}
	switch s := c.After; {
	case s.Refused <= worth:
	case s.ByLaw:
		say("%.0f requests a second of cluster %s would be refused by a ResidencyPolicy: no lawful cluster would be left", s.Refused, c.Cluster)
	default:
		say("%.0f requests a second of cluster %s would be refused: no cluster that it reaches would serve them", s.Refused, c.Cluster)
	}
}

func state(f *split.Forecast, i int) State {
	s := State{Demand: tenth(f.Demand[i]), Refused: tenth(f.Refused[i]), ByLaw: f.Law[i] && f.Refused[i] > worth, Load: tenth(f.Load[i]), Shed: tenth(f.Shed[i])}
	if c := f.Capacity[i]; !math.IsNaN(c) {
		s.Capacity = rounded(c)
		if c > 0 {
			u := math.Round(1000*f.Load[i]/c) / 1000
			s.Utilisation = &u
		}
	}
	if m := f.Mean[i]; !math.IsNaN(m) {
		s.MeanMillis = rounded(1000 * m)
	}
	return s
}

func tenth(v float64) float64 { return math.Round(10*v) / 10 }

func rounded(v float64) *float64 {
	v = tenth(v)
	return &v
}

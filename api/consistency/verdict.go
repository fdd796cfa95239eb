package consistency

import (
	"time"

	"github.com/isthmus-mesh/isthmus/control/verdict"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Verdict is what the mesh says of a cluster, as one control plane judges, as it travels.
type Verdict struct {
	Cluster mesh.ClusterName `json:"cluster"`
	// State is a verdict in words, AgeSeconds since when it is that, EvidenceAgeSeconds when somebody last said anything.
	State              string  `json:"state"`
	AgeSeconds         float64 `json:"ageSeconds"`
	EvidenceAgeSeconds float64 `json:"evidenceAgeSeconds"`
	// Cause is the evidence in words, Clusters how many clusters the mesh has, Changes how often the verdict changed since the process began.
	Cause     string     `json:"cause"`
	Clusters  int        `json:"clusters"`
	Changes   int        `json:"changes"`
	Observers []Observer `json:"observers"`
}

// Observer is what one cluster that has a say sees of another.
type Observer struct {
	Cluster mesh.ClusterName `json:"cluster"`
	// Reaches says that a gateway answers it; Lease is "fresh", "lost" or "unknown". AgeSeconds is since when it says so, HeardSeconds when
	// it said so last.
	Reaches      bool    `json:"reaches"`
	Lease        string  `json:"lease"`
	AgeSeconds   float64 `json:"ageSeconds"`
	HeardSeconds float64 `json:"heardSeconds"`
}

// VerdictEvent is a change of a verdict.
type VerdictEvent struct {
	At      time.Time        `json:"at"`
	Cluster mesh.ClusterName `json:"cluster"`
	From    string           `json:"from"`
	To      string           `json:"to"`
	Cause   string           `json:"cause"`
}

// Judged is what a board says.
func Judged(b *verdict.Board, now time.Time) (verdicts []Verdict, events []VerdictEvent) {
	age := func(t time.Time) float64 { return max(0, now.Sub(t).Seconds()) }
	for _, v := range b.Verdicts() {
		out := Verdict{Cluster: v.Cluster, State: v.State.String(), AgeSeconds: age(v.Since), EvidenceAgeSeconds: age(v.At), Cause: v.Evidence.Cause(),
			Clusters: v.Evidence.Clusters, Changes: v.Changes, Observers: []Observer{}}
		for _, w := range v.Evidence.Witnesses {
			out.Observers = append(out.Observers, Observer{Cluster: w.Observer, Reaches: w.Path, Lease: leaseWords[w.Lease], AgeSeconds: age(w.Since), HeardSeconds: age(w.Heard)})
		}
		verdicts = append(verdicts, out)
	}
	for _, e := range b.Events() {
		events = append(events, VerdictEvent{At: e.At.UTC(), Cluster: e.Cluster, From: e.From.String(), To: e.To.String(), Cause: e.Cause})
	}
	return verdicts, events
}

var leaseWords = [...]string{liveness.LeaseUnknown: "unknown", liveness.LeaseFresh: "fresh", liveness.LeaseLost: "lost"}

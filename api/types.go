//house:exempt a table: the shapes of answers

package api

import (
	"encoding/json"
	"github.com/isthmus-mesh/isthmus/api/attachments"
	"net/netip"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Error is a refusal or failure as it travels. It says what was attempted, on what, why it
// failed and what to do next.
type Error struct {
	// Status is the HTTP status: below 500 the request was refused, from there on it could
	// not be carried out.
	Status  int    `json:"-"`
	Problem string `json:"error"`
	Op      string `json:"op,omitempty"`
	Object  string `json:"object,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	// ApplyResult is set when an apply failed.
	*ApplyResult
}

// Error is "OP OBJECT: PROBLEM; REMEDY".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(e.Op + " " + e.Object))
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Actions of an apply on one object.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
)

// Applied is what became of one object.
type Applied struct {
	Kind      string `json:"kind"`
	Resource  string `json:"resource"` // "httproute.gateway.networking.k8s.io"
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Action    string `json:"action"`
}

// ApplyResult is what an apply did, in the order of writes.
type ApplyResult struct {
	Results  []Applied        `json:"results,omitempty"`
	Warnings []manifest.Fault `json:"warnings,omitempty"`
	// Faults are all that is wrong with the input; nothing was written then.
	Faults []manifest.Fault `json:"faults,omitempty"`
	// More says that there are more faults than are listed.
	More bool `json:"more,omitempty"`
}

// File is one input of an apply.
type File struct {
	Name string // as typed; "-" for standard input
	Text []byte
}

// List is an answer with several objects.
type List struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []json.RawMessage `json:"items"`
}

// Event is one line of a watch.
type Event struct {
	Type   string          `json:"type"` // EventAdded, …
	Object json.RawMessage `json:"object,omitempty"`
}

// The types of events.
const (
	EventAdded    = "ADDED"
	EventModified = "MODIFIED"
	EventDeleted  = "DELETED"
	// EventSynced follows the objects that were there when the watch began.
	EventSynced = "SYNCED"
)

// Status is one cluster as its control plane sees it.
type Status struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Ready   bool             `json:"ready"`
	Problem string           `json:"problem,omitempty"`
	Version string           `json:"version"`
	Vector  string           `json:"vector,omitempty"`
	// Uplink is how a remote cluster takes part in the mesh; nil of a primary.
	Uplink *Uplink `json:"uplink,omitempty"`
	Peers  []Peer  `json:"peers"`
	// Verdicts is what the mesh says of each cluster, as this control plane judges, and VerdictEvents when that changed, the newest last.
	Verdicts      []consistency.Verdict      `json:"verdicts,omitempty"`
	VerdictEvents []consistency.VerdictEvent `json:"verdictEvents,omitempty"`
	Proxies       []Proxy                    `json:"proxies"`
	// Replicas are the processes of the control plane, where it has several.
	Replicas []Replica `json:"replicas,omitempty"`
	// Refused are proxies that are not served for their version, with what to upgrade first.
	Refused      []RefusedProxy `json:"refused,omitempty"`
	Certificates Certificates   `json:"certificates"`
}

// InSync reports whether the cluster is ready, in sync with every peer, and every proxy with
// it.
func (s *Status) InSync() bool {
	for _, p := range s.Peers {
		if !p.InSync {
			return false
		}
	}
	for _, p := range s.Proxies {
		if !p.InSync {
			return false
		}
	}
	return s.Ready && len(s.Refused) == 0
}

// Uplink is which primary a remote cluster follows, since when, and if none, why.
type Uplink struct {
	Primary mesh.ClusterName `json:"primary,omitempty"`
	Since   time.Time        `json:"since"`
	Problem string           `json:"problem,omitempty"`
}

// Peer is PeerStatus as it travels.
type Peer struct {
	Cluster mesh.ClusterName `json:"cluster"`
	InSync  bool             `json:"inSync"`
	State   string           `json:"state"`
	Stale   bool             `json:"stale"`
	// AgeSeconds is how long ago the cluster was last heard, StateAgeSeconds since when State is what it is.
	AgeSeconds      float64 `json:"ageSeconds"`
	StateAgeSeconds float64 `json:"stateAgeSeconds"`
	// Up says that a gateway of it answers; RTTMillis is the smoothed round trip, Loss the share of the questions of the
	// last minute that were not answered in time.
	Up        bool    `json:"up"`
	Loss      float64 `json:"loss"`
	RTTMillis float64 `json:"rttMillis"`
	// Via is the cluster by whose gateways it is reached while it is not up, ViaRTTMillis the round trip of that way.
	Via          mesh.ClusterName `json:"via,omitempty"`
	ViaRTTMillis float64          `json:"viaRTTMillis,omitempty"`
	Position     string           `json:"position,omitempty"`
	// Version is the peer's build, "" where it does not say; Protocol is what is spoken with it, 0 while nothing is.
	Version  string `json:"version,omitempty"`
	Protocol int    `json:"protocol,omitempty"`
	// Problem is why the peer is not followed.
	Problem  string           `json:"problem,omitempty"`
	Gateways []netip.AddrPort `json:"gateways,omitempty"`
}

// Proxy is one connected proxy: what it was sent and what it accepted.
type Proxy struct {
	ID        string           `json:"id"`
	Cluster   mesh.ClusterName `json:"cluster,omitempty"`
	Identity  string           `json:"identity,omitempty"`
	Mode      string           `json:"mode"`
	Zone      mesh.Zone        `json:"zone,omitempty"`
	Connected bool             `json:"connected"`
	Since     time.Time        `json:"since"`
	InSync    bool             `json:"inSync"`
	// Sent and Acked count resources over all types, Nacks the versions it refuses.
	Sent    int    `json:"sent"`
	Acked   int    `json:"acked"`
	Nacks   int    `json:"nacks"`
	Version string `json:"version"`
	// Waiting says why it was not sent everything: "catching up" or "queued".
	Waiting string      `json:"waiting,omitempty"`
	Vector  string      `json:"vector,omitempty"`
	Types   []ProxyType `json:"types,omitempty"`
}

// Replica is one process of a control plane. What it sees is not in the status where it has a Problem.
type Replica struct {
	Name    string         `json:"name"`
	API     netip.AddrPort `json:"api,omitzero"`
	Version string         `json:"version,omitempty"`
	// Self is the one that answers; Proxies is how many follow this one.
	Self    bool   `json:"self,omitempty"`
	Proxies int    `json:"proxies"`
	Problem string `json:"problem,omitempty"`
}

// RefusedProxy is a proxy that a control plane does not serve for its version. It goes on with what it has.
type RefusedProxy struct {
	ID      string    `json:"id"`
	Version string    `json:"version,omitempty"`
	Problem string    `json:"problem"`
	At      time.Time `json:"at"`
}

// ProxyType is how far a proxy is with one type of resource. Equal digests are equal sets.
type ProxyType struct {
	Type        string    `json:"type"`
	InSync      bool      `json:"inSync"`
	Sent        int       `json:"sent"`
	Acked       int       `json:"acked"`
	Queued      int       `json:"queued,omitempty"`
	SentDigest  string    `json:"sentDigest"`
	AckedDigest string    `json:"ackedDigest"`
	Refused     []Refused `json:"refused,omitempty"`
}

// Refused is a version that a proxy refused; it goes on with the one before.
type Refused struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Message string `json:"message"`
}

// Certificates is the state of the cluster's trust domain.
type Certificates struct {
	TrustDomain mesh.TrustDomain `json:"trustDomain,omitempty"`
	Generation  uint64           `json:"generation,omitempty"`
	Roots       int              `json:"roots"`
	// Expires is when the first root does.
	Expires time.Time `json:"expires,omitzero"`
}

// Bundle is mesh.Bundle as it travels; Roots are DER, base64 in JSON.
type Bundle struct {
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Roots       [][]byte         `json:"roots"`
	Generation  uint64           `json:"generation"`
}

// VersionInfo is what GET /v1/version answers.
type VersionInfo struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Version string           `json:"version"`
}

// Condition is one condition of an object's status. It is computed when asked for, so there
// is no time of transition.
type Condition = attachments.Condition

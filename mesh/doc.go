// Package mesh holds the words of Isthmus: the plain values that every other
// package speaks in. It imports the standard library only, does no I/O and
// decides nothing; a value here is immutable once it is handed to somebody.
//
// One word has one meaning:
//
//   - Mesh: the set of clusters under one governance.
//   - Cluster: a Kubernetes cluster or a VM site, a failure domain with its own
//     control plane (primary) or served by others (remote). Never what Envoy
//     calls a cluster: that is a Backend.
//   - Network: a flat reach of addresses. Clusters on different networks meet
//     through gateways.
//   - Region, Zone, Jurisdiction, Provider: where something is, for latency, for
//     failure, for law, for price.
//   - Service: the same namespace and name in several clusters is one service
//     once exported (the sameness of the Multi-Cluster Services API).
//   - Endpoint, Workload: an address that serves; the process with an identity
//     behind it.
//   - Detour: the way to a cluster, whose own gateways do not answer here, through
//     the gateways of a third, which pass connections on.
//   - Slot: one of the places of a remote service behind its gateways. Clients
//     balance over slots because they never learn endpoint addresses. The owning
//     control plane assigns slots to endpoints; see SlotTable.
//   - Lane: one unit of an endpoint's concurrency.
//   - Identity, Trust domain, Bundle: as in SPIFFE; one trust domain a cluster.
//   - Route, Backend, Policy: in the sense of Gateway API; what a route chooses;
//     what attaches to targets.
//   - Fact, World, Revision: a statement one cluster makes; all facts known at one
//     instant; the count of worlds since the process began.
//   - Origin: the cluster that owns a fact. Only its origin replaces a fact.
//   - Epoch, Store revision, Revision vector: see Position and Vector.
//   - Generation: a monotone counter of a bundle, a snapshot or a slot table.
//   - Reachability, Verdict: what this cluster can reach now; what the mesh says of
//     a cluster.
//   - Reason: why a request was refused or failed, from a closed list.
//
// Read ServiceName first, then Fact.
package mesh

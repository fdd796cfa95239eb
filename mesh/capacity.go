package mesh

// CapacitySource is who says what a service can bear in a cluster. A greater one is less sure.
type CapacitySource uint8

// The sources, the surest first.
const (
	// CapacityUnknown is that nobody does.
	CapacityUnknown CapacitySource = iota
	// CapacityDeclared is the workload's owner (Workload.spec.capacity.lanes).
	CapacityDeclared
	// CapacityReported is the application, in its answers (Open Request Cost Aggregation).
	CapacityReported
	// CapacityLearnt is its proxy, from what it answered when it was asked for more than it could.
	CapacityLearnt
	// CapacityAssumed is nobody: it is taken to bear what as many endpoints do elsewhere.
	CapacityAssumed
)

// String is the source in a word.
func (s CapacitySource) String() string {
	switch s {
	case CapacityDeclared:
		return "declared"
	case CapacityReported:
		return "reported"
	case CapacityLearnt:
		return "learnt"
	case CapacityAssumed:
		return "assumed"
	}
	return "unknown"
}

// Doubtful reports whether the capacity is no one's word: it moves requests step by step, and is never an emergency.
func (s CapacitySource) Doubtful() bool { return s == CapacityLearnt || s == CapacityAssumed }

// Capacity is what a cluster is thought to bear of a service.
type Capacity struct {
	Cluster ClusterName
	// Rate is requests a second, and Lanes how many are served at once then.
	Rate, Lanes float64
	Source      CapacitySource
}

// Package split decides which share of each cluster's requests to one service goes to which
// cluster. Its one idea is that this is a small convex problem, solved whole, every tick, by every
// control plane from the load reports it has: no leader, no election, and no memory but the split
// in force, so that a control plane that starts anew, or hears late, ends where the others are.
//
// # Design
//
// One service and class. Source i asks for λ_i requests a second, sink j has C_j lanes and serves one
// request in s_j. The split x minimises what requests wait, and pay, in seconds:
//
//	Σ f_ij (RTT_ij + β·bytes·price_ij + π_j)  +  Σ_j Λ_j (s_j + κ_j·Wq(Λ_j; s_j, C_j))
//	f_ij = λ_i x_ij,  Λ_j = Σ_i f_ij,  f_ij = 0 where the law forbids it or nothing passes
//
// Wq is Sakasegawa's queue (model.go), straight beyond ρ 0.98, so that overload has a price and not
// a pole. At the optimum all clusters that a source uses have equal marginal cost.
//
//   - Solve: block-coordinate water-filling. Given what others send, one source's best answer is a
//     level μ up to which it fills the sinks: the root of a piecewise linear function (the marginals'
//     inverse is tabulated once for all sinks), found by Newton's method inside a bracket. Sources take
//     turns until nobody moves; the blocks are separate simplices and the objective is smooth and
//     convex, so that this is the optimum. It starts from the split in force.
//   - Step: Solve, then damping. Half of the way, at most MoveMax of a source's traffic a tick, and
//     only for a predicted gain above GainMin, so that noise moves nothing. What is no matter of
//     taste skips the limits: death, drain, law, a sink that is asked for more than it has.
//   - Feedback: κ_j follows measured ÷ predicted wait, so that a model that is wrong about a service
//     is wrong for a while only.
//   - Overload: what would be shed in any case is shed at home. Remote traffic gets what a sink has
//     beyond its own, never more (fence).
//   - Stale reports of a path that lives freeze that cluster: its κ, and a ceiling on what it is
//     sent. A report that never came is a cluster nothing is known of: it is sent nothing.
//   - Loss: a way costs what its losses add besides, and four times that, since it is the slowest requests that are felt.
//   - Multi-hop: π is what the calls of one request cost where it would run (below.go), at marginal prices, since one
//     request more makes others wait. The time in a lane holds what calls took when it was measured, so that only the
//     difference counts; where nothing runs and no time is known, it is all there is to know. Each service's owner states it
//     of its cluster (Report.Below), from the prices of what it calls (State.Price).
//   - Strategies are other targets for the same damping, masks and emergencies (strategy.go).
//
// It reads no clock and sends nothing: ages and measurements are arguments. It chooses no endpoint and
// reacts to no single request: core/balance does, at once, with the split as its hint.
// Read Input, then Step, then Problem.
package split

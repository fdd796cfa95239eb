// Package derive remembers the values of pure functions over an immutable, revisioned world, and brings them up to date by
// what they read. It knows nothing of meshes.
//
// # The idea
//
// A function sees the world only through a [Ctx], which records each read. So invalidation is observed and never declared:
// whoever read what changed is evaluated again, and nobody else. The same records are provenance.
//
// # How to use it
//
// The package that owns the world declares handles on its cells: a [Fact] for each keyed kind, a [Bucket] for each index,
// an [Aggregate] for each figure over many facts. There is no handle on a whole kind: a function that walked one would be
// evaluated at each change of it. The package that thinks declares each function as a [Func], which reads cells and other
// functions through their Get. One [Engine] then serves one writer:
//
//	e.Commit(world, changed...)    // the next revision, and which cells differ in it
//	result := e.Settle(workers)    // what became of the watched values
//
// Settle takes no list of roots: the roots are what is watched ([Func.Watch]), and what no root needs is freed.
// [Engine.Slice] does the same work in parts, between which the writer may commit; time enters only through its callback.
//
// # How it works
//
// Each node stands higher than all it read. Commit marks the direct readers of changed cells dirty; a settle runs waves
// from low to high, evaluating the dirty nodes of one height in parallel, and a node whose value really changed marks its own
// direct readers. An equal value marks nobody: 100,000 roots behind it are not even visited. That is why dirt is pushed one
// step at a time and not to the roots at once. Everything alive is needed by a root, so running upwards evaluates what
// pulling from the roots would, save for nodes that are just losing their last reader.
//
// A read of something not current (new, or higher than the wave) is pulled on the spot, by checking what it read in the
// order of reading. The graph itself changes only between waves, on one goroutine. So neither values nor reports nor
// counters depend on the number of workers.
//
// # Rules
//
// Functions are pure and total, and values are never changed after they are returned (see [NewFunc]). Data that sends
// functions round in a circle fails the roots that need it, and only these, with a [CycleError]; they keep their last good
// value and are tried again in each revision. A panic inside a function is the program's bug and passes through; the
// engine is not usable after it.
//
// # What it does not do
//
// It keeps no history, stores nothing, reads no clock, starts no goroutine that outlives a call, and computes no differences
// between worlds: the world says what changed. It bounds the memory of nothing a root needs.
//
// Read [Func] first, then [Engine]. The decision and its price: docs/adr/0003-tracked-derivation.md.
package derive

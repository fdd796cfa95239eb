// Package facts makes what a cluster of a simulated mesh states: facts of every kind, drawn from a random source, with
// few names so that they meet.
//
// Its one idea is that what travels between clusters is made as its author would write it, as a manifest, and read by
// the product; so a simulated peer refuses, digests and understands what a real one would. Facts that stay at home are
// made as values.
//
// It states nothing, stamps nothing and keeps no history: package sim does. Facts that a mesh computes by itself are
// not made here but named, see Computed.
//
// Read Maker first.
package facts

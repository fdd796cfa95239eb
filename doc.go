// Package isthmus holds the laws of the house, as tests: which floor may lean on which, how large a part
// may grow, and what documents may say. The floors are folders; imports run downward only; each breach is printed with
// its reason. There is no code here: begin with ARCHITECTURE.md.
package isthmus

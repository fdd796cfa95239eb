// Package world is one immutable revision of all facts: what every cluster stated, as
// known at one instant. Its one idea is that a change is a new World that shares all but
// the changed parts with the old one, together with the exact list of cells that read
// differently.
//
// It computes nothing from facts beyond its indexes, never iterates a whole kind for a
// reader, and does no I/O. Readers go through the handles in handles.go inside a derived
// function, so that what they read is recorded; people's questions (lists, status) go
// through All.
//
// Read World.Edit first, then the handles.
package world

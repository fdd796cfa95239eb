// Package tally adds up what simulated meshes saw, over seeds, over pieces of a long run, and over builds.
//
// Its one idea is that a sum is kept in a file as it grows: a piece that was ended goes on where it was, and pieces that
// were run apart, by several processes or at several commits, are added up to one table that says which seeds were run
// by what.
//
// It does not run anything, and judges nothing.
//
// Read Tally first.
package tally

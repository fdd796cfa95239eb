// Package virtual is time that passes when it is told to, and a network in it: links between clusters that are slow,
// jittery or cut one way, and streams over them that keep their order as TCP does and wait as TCP does.
//
// Its one idea is that nothing here happens by itself: an event happens when the clock is run past it, and events of one
// instant in the order in which they were scheduled, so that a run is a function of its seed.
//
// It does not model bandwidth, and loses nothing that TCP would repeat; who simulates bugs drops messages himself.
//
// Read Clock first, then Pipe.
package virtual

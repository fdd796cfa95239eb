// Package handover lets a process give its open ports to its successor, so that a proxy is
// replaced without a connection being refused. Its one idea is that the socket that listens
// outlives the process: descriptors go over a Unix socket, both processes accept from one queue
// for a moment, and the old one leaves only when the new one has said that it serves. Until
// then nothing has happened: a successor that fails changes nothing.
//
// It moves no connection that is established (those end in the old process, which drains), no
// state and no key (a successor starts from the snapshot, as after a restart), and decides
// nothing about when to replace. Read Ports first, then Offer (the old side) and Take (the new).
//
// Why it is so: docs/adr/0016-listener-hand-over.md.
package handover

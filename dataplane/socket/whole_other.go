//go:build !linux

package socket

import "net"

// Whole reads messages from a connection whose peer may send them in pieces.
type Whole struct {
	net.Conn
	gathered
}

// NewWhole reads from c.
func NewWhole(c net.Conn) *Whole { return &Whole{Conn: c} }

// Gather reads until there is as much as total says; nothing beyond that is read.
func (w *Whole) Gather() error { return w.gatherFrom(w.Conn) }

// Close leaves the connection open.
func (w *Whole) Close() {}

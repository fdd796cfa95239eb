//go:build !linux

package socket

import "net"

// Whole reads messages from a connection whose peer may send them in pieces.
type Whole struct{ net.Conn }

// NewWhole reads from c.
func NewWhole(c net.Conn) *Whole { return &Whole{c} }

// Close leaves the connection open.
func (w *Whole) Close() {}

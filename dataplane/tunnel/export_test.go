package tunnel

import (
	"net"
	"net/netip"
)

// NearWindow is the first window of a stream from a near server.
const NearWindow = nearWindow

// Near is what the dialer takes for near.
func (d *Dialer) Near(raw net.Conn, addr netip.AddrPort, w *Want) bool { return d.near(raw, addr, w) }

// Mute makes a server that says nothing of what has come: the control run of tests of slow links.
func (s *Server) Mute() { s.mute = true }

// Wait makes a server that gives up no silent client.
func (s *Server) Wait() { s.patient = true }

// SetConnBuffer sets how much a connection may hold that nobody has read, in bytes.
func (d *Dialer) SetConnBuffer(n int) { d.h2.ConnBuffer = n }

// Forgive makes a server that remembers nothing of its peers over connections: the control run.
func (s *Server) Forgive() { s.offences, s.allowance, s.all.Allowance = nil, nil, nil }

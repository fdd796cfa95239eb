package tunnel

// Mute makes a server that says nothing of what has come: the control run of tests of slow links.
func (s *Server) Mute() { s.mute = true }

// Wait makes a server that gives up no silent client.
func (s *Server) Wait() { s.patient = true }

// SetConnBuffer sets how much a connection may hold that nobody has read, in bytes.
func (d *Dialer) SetConnBuffer(n int) { d.h2.ConnBuffer = n }

// Forgive makes a server that remembers nothing of its peers over connections: the control run.
func (s *Server) Forgive() { s.offences, s.allowance, s.all.Allowance = nil, nil, nil }

//go:build !unix

package datagram

import "errors"

func (s *stream) tryRead(uintptr) bool {
	s.err = errors.New("UDP is not carried to applications on this system")
	return true
}

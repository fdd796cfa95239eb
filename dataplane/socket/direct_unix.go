//go:build unix

package socket

import "github.com/isthmus-mesh/isthmus/internal/direct"

// Read reads once from a descriptor that does not block; EAGAIN says that nothing is there. p
// is not empty.
func Read(fd uintptr, p []byte) (int, error) { return direct.Read(fd, p) }

// Write writes once to a descriptor that does not block; EAGAIN says that there is no room. p
// is not empty.
func Write(fd uintptr, p []byte) (int, error) { return direct.Write(fd, p) }

package handover

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// sameUser refuses a process of another user, but for root: the mode of the socket says so too, and
// a folder may have been opened too far.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("ask who the other process is: %w", failed)
	}
	if own := os.Geteuid(); int(cred.Uid) != own && cred.Uid != 0 {
		return fmt.Errorf("the other process is of user %d and this one of %d", cred.Uid, own)
	}
	return nil
}

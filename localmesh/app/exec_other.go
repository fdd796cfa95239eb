//go:build !linux

package app

import "syscall"

// bindToThread does nothing where the kernel has no such bond: the command then outlives
// only a shim that was killed alone.
func bindToThread() *syscall.SysProcAttr { return nil }

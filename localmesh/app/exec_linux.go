package app

import "syscall"

// bindToThread kills the command when the thread that starts it ends, as it does when the
// process is killed. The thread is locked, so it ends no sooner.
func bindToThread() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

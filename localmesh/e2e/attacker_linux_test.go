package e2e

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// schedIdle is SCHED_IDLE of sched(7): its processes run when no others want to.
const schedIdle = 5

// yieldToAll has this process run when no other wants to; threads that are yet to come inherit it. Where the kernel refuses,
// the attackers are only in the way.
func yieldToAll() {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, e := range threads {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var priority int32 // struct sched_param
		_, _, _ = syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(id), schedIdle, uintptr(unsafe.Pointer(&priority)))
	}
}

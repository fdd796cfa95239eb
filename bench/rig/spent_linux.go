package rig

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Spent adds up the CPU time of processes since they started, all threads, as the scheduler counts it: to the nanosecond,
// where /proc has ticks of 10 ms.
func Spent(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var t unix.Timespec
		// The clock of another process (clock_getcpuclockid(3)): its number, inverted, above three bits, of which
		// 2 stands for the scheduler's count (CPUCLOCK_SCHED).
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

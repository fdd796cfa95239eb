//go:build !linux

package rig

import "time"

// Spent adds up the CPU time of processes since they started, all threads.
func Spent(pids ...int) (time.Duration, error) {
	u, err := CPUOf(pids...)
	return u.Total(), err
}

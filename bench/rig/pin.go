package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// pinAbove is the least number of cores that are shared out: below it load and proxies would
// have less than two each.
const pinAbove = 4

// half is the cores of load, or of proxies.
func half(proxies bool) *unix.CPUSet {
	var set unix.CPUSet
	n := runtime.NumCPU()
	for i := range n {
		if (i >= n/2) == proxies {
			set.Set(i)
		}
	}
	return &set
}

// PinSelf gives this process, and what it starts from then on, the cores of the load; false if
// there are too few to share out.
func PinSelf() (bool, error) {
	if runtime.NumCPU() < pinAbove {
		return false, nil
	}
	return true, pin(os.Getpid(), half(false))
}

// PinProxy gives a process the cores of the proxies.
func PinProxy(pid int) error { return pin(pid, half(true)) }

// pin moves every thread; later ones are born where their parent is.
func pin(pid int, set *unix.CPUSet) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, set); err != nil {
			return fmt.Errorf("give thread %d of process %d its cores: %w", tid, pid, err)
		}
	}
	return nil
}

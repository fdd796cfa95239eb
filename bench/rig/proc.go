package rig

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is what /proc counts CPU time in: USER_HZ, 100 a second on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// Usage is CPU time of one or several processes.
type Usage struct{ User, System time.Duration }

// Total is both.
func (u Usage) Total() time.Duration { return u.User + u.System }

// Minus is what was used since o.
func (u Usage) Minus(o Usage) Usage { return Usage{u.User - o.User, u.System - o.System} }

// CPUOf adds up what processes have used since they started, all threads.
func CPUOf(pids ...int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, fmt.Errorf("CPU of process %d: %w", pid, err)
		}
		u, err := parseStat(text)
		if err != nil {
			return sum, fmt.Errorf("CPU of process %d: %w", pid, err)
		}
		sum.User += u.User
		sum.System += u.System
	}
	return sum, nil
}

// parseStat reads utime and stime, fields 14 and 15 of proc(5): counted behind the last
// parenthesis, for a command may be named "a) b".
func parseStat(text []byte) (Usage, error) {
	_, rest, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("stat has %d fields behind the name, want 13 or more", len(fields))
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return Usage{}, fmt.Errorf("utime: %w", err)
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return Usage{}, fmt.Errorf("stime: %w", err)
	}
	return Usage{time.Duration(user) * tick, time.Duration(system) * tick}, nil
}

// KiB is the sum of a field of a file below /proc, such as "Pss" of smaps_rollup, in KiB.
func KiB(file, field string, pids ...int) (float64, error) {
	var sum float64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return 0, fmt.Errorf("%s of process %d: %w", field, pid, err)
		}
		v, err := parseKiB(string(text), field)
		if err != nil {
			return 0, fmt.Errorf("%s of process %d: %w", field, pid, err)
		}
		sum += v
	}
	return sum, nil
}

func parseKiB(text, field string) (float64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			number, ok := strings.CutSuffix(strings.TrimSpace(rest), " kB")
			if !ok {
				return 0, fmt.Errorf("%q is no size", line)
			}
			return strconv.ParseFloat(strings.TrimSpace(number), 64)
		}
	}
	return 0, fmt.Errorf("there is no field %s", field)
}

// Processes are those whose command line has each of the words.
func Processes(words ...string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
next:
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue // it has ended
		}
		for _, w := range words {
			if !bytes.Contains(line, []byte(w)) {
				continue next
			}
		}
		out = append(out, pid)
	}
	return out, nil
}

package rig

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestProcIsRead(t *testing.T) {
	u, err := parseStat([]byte("7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 5 0 100 1 2\n"))
	if want := (Usage{2500 * time.Millisecond, 310 * time.Millisecond}); err != nil || u != want {
		t.Errorf("parseStat = %v, %v; want %v", u, err, want)
	}
	for _, bad := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 x 31 0", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 1 y 0"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q): no error", bad)
		}
	}
	if v, err := parseKiB("Rss:  12 kB\nPss:     4321 kB\n", "Pss"); v != 4321 || err != nil {
		t.Errorf("Pss = %v, %v; want 4321", v, err)
	}
	for _, bad := range []string{"", "Pss: 12\n", "Pss: x kB\n"} {
		if _, err := parseKiB(bad, "Pss"); err == nil {
			t.Errorf("parseKiB(%q): no error", bad)
		}
	}
	if pids, err := Processes(filepath.Base(os.Args[0]) + "\x00no such argument"); len(pids) != 0 || err != nil {
		t.Errorf("Processes = %v, %v; want none", pids, err)
	}
}

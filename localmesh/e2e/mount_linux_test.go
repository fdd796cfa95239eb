package e2e

import (
	"syscall"
	"testing"
)

// mountSmall mounts a disk of memory of 96 MiB, until the test ends; it takes root.
func mountSmall(t *testing.T, at string) {
	t.Helper()
	if err := syscall.Mount("isthmus-e2e", at, "tmpfs", 0, "size=96m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

//go:build !linux

package e2e

import "testing"

// mountSmall cannot be done here.
func mountSmall(t *testing.T, _ string) {
	t.Fatal("a small disk of memory takes Linux")
}

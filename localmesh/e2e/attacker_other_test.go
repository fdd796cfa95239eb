//go:build !linux

package e2e

// yieldToAll is for Linux only.
func yieldToAll() {}

//go:build race

package proxy_test

// raceEnabled: the race detector makes pools forget, so that allocations tell nothing.
const raceEnabled = true

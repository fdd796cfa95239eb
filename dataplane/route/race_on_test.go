//go:build race

package route

// raceEnabled: the race detector makes pools forget, so that allocations tell nothing.
const raceEnabled = true

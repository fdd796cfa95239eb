//go:build race

package http1

// raceEnabled: under the race detector sync.Pool forgets on purpose.
const raceEnabled = true

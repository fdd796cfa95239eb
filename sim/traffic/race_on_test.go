//go:build race

package traffic

// raceEnabled: the race detector makes a run ten times as long.
const raceEnabled = true

//go:build race

package agent_test

// raceEnabled: the race detector makes thousands of connections take minutes.
const raceEnabled = true

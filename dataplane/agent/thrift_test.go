package agent_test

import (
	"runtime/debug"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/agent"
)

func TestThriftyUnlessTheEnvironmentSaysOtherwise(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for gogc, want := range map[string]int{"": 50, "200": 100, "off": 100} {
		debug.SetGCPercent(100)
		agent.Thrifty(gogc)
		if got := debug.SetGCPercent(100); got != want {
			t.Errorf("GOGC %q: %d %%, want %d", gogc, got, want)
		}
	}
}

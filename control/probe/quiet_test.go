package probe

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestAStartIsNoWarningUnlessItLasts(t *testing.T) {
	for name, c := range map[string]struct {
		end      mesh.Reachability // of the start
		warnings int
	}{"it comes up": {mesh.Alive, 0}, "it stays away": {mesh.Unreachable, 1}} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			began := time.Unix(1_700_000_000, 0)
			p := &Prober{cfg: Config{Log: slog.New(slog.NewTextHandler(&out, nil))}, began: began}
			p.say(t.Context(), began, mesh.Alive, mesh.Unreachable)
			p.say(t.Context(), began.Add(time.Second), mesh.Unreachable, c.end)
			for i := range 3 {
				p.say(t.Context(), began.Add(startGrace+time.Duration(i)*time.Second), c.end, c.end)
			}
			if got := strings.Count(out.String(), "level=WARN"); got != c.warnings {
				t.Errorf("%d warnings, want %d: %s", got, c.warnings, out.String())
			}
			out.Reset()
			p.say(t.Context(), began.Add(time.Minute), mesh.Alive, mesh.StaleServing)
			if !strings.Contains(out.String(), "level=WARN") {
				t.Errorf("a change after the start said %q, want a warning", out.String())
			}
		})
	}
}

package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
)

func TestAStartIsQuietAndAStormIsBounded(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var c complaints
	now := time.Unix(1_700_000_000, 0)
	said := func(level string) int {
		n := strings.Count(out.String(), "level="+level)
		out.Reset()
		return n
	}
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	say := func(err error) { c.handshake(t.Context(), log, now, remote, err) }

	missing := fmt.Errorf("handshake: %w", &trust.Error{Fault: trust.FaultOwnCertificate})
	for range 30 {
		now = now.Add(100 * time.Millisecond)
		say(missing)
		say(io.EOF)
	}
	if out := out.String(); strings.Count(out, "level=INFO") != 1 || strings.Contains(out, "level=WARN") {
		t.Errorf("a certificate that is not there yet, and clients that left: %s", out)
	}
	out.Reset()
	now = now.Add(certificateGrace)
	say(missing)
	if n := said("WARN"); n != 1 {
		t.Errorf("%d warnings of a certificate that stays away, want 1", n)
	}
	now = now.Add(time.Second)
	for range 1000 {
		say(errors.New("a stranger"))
	}
	if n := said("WARN"); n != complaintsMax {
		t.Errorf("%d lines of a storm in a second, want %d", n, complaintsMax)
	}
	now = now.Add(time.Second)
	say(errors.New("a stranger"))
	if got := out.String(); !strings.Contains(got, "omitted=996") {
		t.Errorf("the next second says %q, want how many were left out", got)
	}
}

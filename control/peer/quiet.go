package peer

import (
	"log/slog"
	"strings"
	"time"
)

// repeatAfter is when what is still so is said again.
const repeatAfter = time.Minute

// saidMax bounds what is remembered to have been said.
const saidMax = 256

// quiet logs what another cluster makes us say: the same at most once a minute, and never at
// the length that it likes. What differs in its figures only, such as our port of an attempt, is the same.
// It is not safe for concurrent use.
type quiet struct {
	log  *slog.Logger
	said map[string]time.Time
}

func newQuiet(log *slog.Logger) *quiet { return &quiet{log: log, said: map[string]time.Time{}} }

// warn logs text under key, if that is news at now.
func (q *quiet) warn(now time.Time, message, key, text string) {
	text = clip(text)
	id := message + "\x00" + strings.Map(withoutDigits, text)
	if at, ok := q.said[id]; ok && now.Sub(at) < repeatAfter {
		return
	}
	if len(q.said) >= saidMax {
		clear(q.said)
	}
	q.said[id] = now
	q.log.Warn(message, key, text)
}

func withoutDigits(r rune) rune {
	if '0' <= r && r <= '9' {
		return -1
	}
	return r
}

// clip bounds a text in which a peer may have a say.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 512)], "?") }

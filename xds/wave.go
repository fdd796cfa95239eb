package xds

import "time"

// A change goes to all whom it concerns at once, as a wave of messages. What one message costs is
// system calls and wake-ups, a hundred times what the change itself does, so a server that is changed without
// end keeps them to a rate: what was saved while it was quiet lets the first waves go without delay, the
// next wait until it is paid for, and what changes meanwhile goes with them (ADR 34). Who asks for
// something, and whose first configuration is under way, never waits.
const (
	// waveRate is how many messages of changes are sent a second, when there is no end of them: some
	// third of a core.
	waveRate = 10_000
	// waveBurst is how many are saved for.
	waveBurst = 2_000
	// waveWait is the most that a change waits, whatever the number of streams.
	waveWait = 500 * time.Millisecond
)

// waves is the rate, as a bucket that may be overdrawn by a wave. Guarded by the server's mutex.
type waves struct {
	spent time.Time // when the bucket will be full again; the zero time is long ago
	held  []*stream // that wait for the next wave
}

// waveCost is how long a wave to n streams is to be paid for.
func waveCost(n int) time.Duration { return time.Duration(n) * time.Second / waveRate }

// wait is how long it is until a wave may go, zero if it may now.
func (w *waves) wait(now time.Time) time.Duration {
	return max(w.spent.Sub(now), waveCost(waveBurst)) - waveCost(waveBurst)
}

// spend takes what a wave to n streams costs.
func (w *waves) spend(n int, now time.Time) {
	if w.spent.Before(now) {
		w.spent = now
	}
	w.spent = w.spent.Add(waveCost(n))
	if most := now.Add(waveCost(waveBurst) + waveWait); w.spent.After(most) {
		w.spent = most
	}
}

// push has all that a publish concerns sent what is due, now or with the next wave.
func (s *Server) push() {
	now := s.cfg.Now()
	wait := s.waves.wait(now)
	n := 0
	for _, st := range s.affected {
		asked := st.awaits
		st.affected, st.awaits = false, false
		switch {
		case st.state != stateServing || asked: // its configuration is on the way, or not begun, or it asked
			st.held = false
			st.pump()
		case wait > 0:
			s.hold(st)
		default:
			n++
			st.pump()
		}
	}
	clear(s.affected)
	s.affected = s.affected[:0]
	if n > 0 {
		s.waves.spend(n, now)
	}
}

func (s *Server) hold(st *stream) {
	if st.held {
		return
	}
	st.held = true
	s.waves.held = append(s.waves.held, st)
	if len(s.waves.held) == 1 {
		s.wake()
	}
}

// release lets the next wave go if it is time, and returns how long it is until then.
func (s *Server) release(now time.Time) time.Duration {
	if len(s.waves.held) == 0 {
		return time.Hour
	}
	if wait := s.waves.wait(now); wait > 0 {
		return wait
	}
	n := 0
	for _, st := range s.waves.held {
		if st.held && !st.closed {
			st.held = false
			n++
			st.pump()
		}
	}
	clear(s.waves.held)
	s.waves.held = s.waves.held[:0]
	s.waves.spend(n, now)
	return time.Hour
}

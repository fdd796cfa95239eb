package trust_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func TestRenewalComesAtFortyPercentOfLife(t *testing.T) {
	issued := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{2 * time.Second, time.Minute, time.Hour, 24 * time.Hour, 168 * time.Hour} {
		notBefore, notAfter := issued.Add(-trust.Backdate), issued.Add(life)
		low, high := time.Duration(float64(life)*0.35), time.Duration(float64(life)*0.45)
		seen := map[time.Time]bool{}
		for range 1000 {
			at := trust.RenewAt(notBefore, notAfter, rand.Float64())
			if d := at.Sub(issued); d < low || d > high {
				t.Fatalf("life %v: renewed after %v, want %v to %v", life, d, low, high)
			}
			seen[at] = true
		}
		if len(seen) < 900 {
			t.Errorf("life %v: %d moments of 1000 draws: not spread", life, len(seen))
		}
		if d := trust.RenewAt(notBefore, notAfter, 0.5).Sub(issued); (d - life*2/5).Abs() > time.Microsecond {
			t.Errorf("life %v: the middle is %v", life, d)
		}
	}
	if left := issued.Add(24 * time.Hour).Sub(trust.RenewAt(issued.Add(-trust.Backdate), issued.Add(24*time.Hour), 1)); left < 13*time.Hour {
		t.Errorf("at the latest %v of 24h are left, want 13h", left)
	}
	// An issuer that does not back-date, with a life shorter than our back-dating.
	if at := trust.RenewAt(issued, issued.Add(time.Minute), 0.5); (at.Sub(issued) - 24*time.Second).Abs() > time.Microsecond {
		t.Errorf("not back-dated: %v", at.Sub(issued))
	}
}

func TestRetriesAreBoundedOnBothSides(t *testing.T) {
	for range 10_000 {
		failures, remaining := rand.IntN(100), time.Duration(rand.Int64N(int64(30*time.Hour)))-time.Hour
		d := trust.RetryAfter(failures, remaining, rand.Float64())
		if d < 50*time.Millisecond || d > 5*time.Minute {
			t.Fatalf("RetryAfter(%d, %v) = %v", failures, remaining, d)
		}
		if remaining > 2*time.Second && d > remaining/20 {
			t.Fatalf("RetryAfter(%d, %v) = %v: too few tries before the end", failures, remaining, d)
		}
	}
	if a, b := trust.RetryAfter(1, 20*time.Hour, 1), trust.RetryAfter(4, 20*time.Hour, 1); a != 500*time.Millisecond || b != 4*time.Second {
		t.Errorf("the first waits %v, the fourth %v, want 500ms and 4s", a, b)
	}
}

// issuer signs for one identity, as the clock of its bubble reads, unless it is
// down.
type issuer struct {
	t    testing.TB
	root *pair
	id   mesh.Identity
	life time.Duration
	down func(now time.Time) bool

	mu   sync.Mutex
	keys map[string]bool
	asks []time.Time
	ends time.Time
}

var errDown = errors.New("issuer is down")

func (s *issuer) Sign(_ context.Context, csrDER []byte) ([][]byte, *trust.Bundles, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.asks = append(s.asks, now)
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil || csr.CheckSignature() != nil {
		s.t.Errorf("request: %v", err)
	}
	s.keys[string(csr.RawSubjectPublicKeyInfo)] = true
	if s.down != nil && s.down(now) {
		return nil, nil, errDown // or the answer is lost: the key is asked for again
	}
	template := leafTemplate(s.id)
	template.NotBefore, template.NotAfter = now.Add(-trust.Backdate), now.Add(s.life)
	s.ends = template.NotAfter
	p := s.root.make(s.t, template, publicOnly{csr.PublicKey})
	return p.chain(), nil, nil
}

func (s *issuer) count() (asks, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asks), len(s.keys)
}

// bubble runs f beside a Renewer and returns its log.
func bubble(t *testing.T, s *issuer, c clock.Clock, source *trust.Source, want mesh.Identity, f func()) string {
	t.Helper()
	s.keys = map[string]bool{}
	var log bytes.Buffer
	r, err := trust.NewRenewer(trust.RenewerConfig{
		Source: source, Signer: s, Clock: c, Random: rand.Float64, Identity: want,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	f()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	return log.String()
}

func TestARenewerKeepsACertificateFreshForAWeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := trust.NewSource(clock.Real{})
		s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 24 * time.Hour}
		log := bubble(t, s, clock.Real{}, source, shop, func() {
			start := time.Now()
			synctest.Wait()
			for time.Since(start) < 7*24*time.Hour {
				m := source.Current()
				if m.SVID == nil || time.Until(m.SVID.Leaf.NotAfter) < 13*time.Hour {
					t.Fatalf("after %v the certificate has less than 13h left", time.Since(start))
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
			}
		})
		asks, keys := s.count()
		// 168 h at 8.4 to 10.8 h each, and the first.
		if asks < 16 || asks > 21 || keys != asks {
			t.Errorf("%d certificates with %d keys in a week", asks, keys)
		}
		if strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
			t.Errorf("a quiet week was logged as\n%s", log)
		}
	})
}

func TestAnIssuerMayBeDownForHalfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		source := trust.NewSource(clock.Real{})
		s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 24 * time.Hour}
		s.down = func(now time.Time) bool { return now.Sub(start) > time.Hour && now.Sub(start) < 21*time.Hour }
		log := bubble(t, s, clock.Real{}, source, shop, func() {
			for time.Since(start) < 23*time.Hour {
				time.Sleep(10 * time.Minute)
				if time.Now().After(source.Current().SVID.Leaf.NotAfter) {
					t.Fatalf("expired after %v", time.Since(start))
				}
			}
		})
		if asks, keys := s.count(); asks < 100 || asks > 500 || keys != 2 {
			t.Errorf("%d asks, %d certificates", asks, keys)
		}
		// The first alarm, with at least 4 h left.
		var alarm string
		for line := range strings.Lines(log) {
			if strings.Contains(line, "level=ERROR") {
				alarm = line
				break
			}
		}
		if !strings.Contains(alarm, "remaining=4h") {
			t.Errorf("the first alarm: %q, want 4h and minutes remaining", alarm)
		}
	})
}

// TestControlAnIssuerThatIsDownForLonger is the control of TestAnIssuerMayBeDownForHalfADay: by an issuer that is away for longer than a certificate lasts it ends, after more
// than four hours of alarms, and is not believed by its owner either.
func TestControlAnIssuerThatIsDownForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		source := trust.NewSource(clock.Real{})
		s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 24 * time.Hour}
		s.down = func(now time.Time) bool { return now.Sub(start) > time.Hour }
		log := bubble(t, s, clock.Real{}, source, shop, func() { time.Sleep(25 * time.Hour) })
		if left := time.Until(source.Current().SVID.Leaf.NotAfter); left > 0 {
			t.Errorf("the certificate lasts for %v although nobody signed: the other test shows nothing", left)
		}
		if n := strings.Count(log, "level=ERROR"); n < 4 {
			t.Errorf("%d alarms before it ended, want some each hour", n)
		}
	})
}

func TestAShortLifeIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := trust.NewSource(clock.Real{})
		s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 5 * time.Second}
		bubble(t, s, clock.Real{}, source, shop, func() {
			synctest.Wait()
			for range 600 {
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if left := time.Until(source.Current().SVID.Leaf.NotAfter); left < 1500*time.Millisecond {
					t.Fatalf("%v left", left) // certificates count whole seconds
				}
			}
		})
	})
}

// TestAWrongClockAlarmsAndNothingElse: up to 5 minutes nothing; 2 hours an alarm;
// more than a day no busy loop.
func TestAWrongClockAlarmsAndNothingElse(t *testing.T) {
	for by, c := range map[time.Duration]struct {
		alarm    bool
		asksMost int // in half a day
	}{
		4 * time.Minute: {false, 3}, -4 * time.Minute: {false, 3},
		2 * time.Hour: {true, 3}, -2 * time.Hour: {true, 3},
		// 20 h ahead a certificate of a day is always overdue: it is retried with pauses.
		20 * time.Hour: {true, 400}, 48 * time.Hour: {false, 8000},
	} {
		synctest.Test(t, func(t *testing.T) {
			skewed := clock.Shifted{Clock: clock.Real{}, By: by}
			s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 24 * time.Hour}
			source := trust.NewSource(skewed)
			log := bubble(t, s, skewed, source, shop, func() { time.Sleep(12 * time.Hour) })
			asks, _ := s.count()
			if asks > c.asksMost {
				t.Errorf("clock %v ahead: %d asks in half a day, want at most %d", by, asks, c.asksMost)
			}
			if got := strings.Contains(log, "clock differs"); got != c.alarm {
				t.Errorf("clock %v ahead: alarm %v, want %v", by, got, c.alarm)
			}
			if (source.Current().SVID == nil) != (by == 48*time.Hour) {
				t.Errorf("clock %v ahead: certificate %v", by, source.Current().SVID != nil)
			}
		})
	}
}

// settable is a clock that somebody sets while others wait on it.
type settable struct {
	clock.Real
	ahead atomic.Int64
}

func (s *settable) Now() time.Time { return s.Real.Now().Add(time.Duration(s.ahead.Load())) }

func TestAClockSetForwardIsNoticedWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &settable{}
		s := &issuer{t: t, root: newRoot(t, west), id: shop, life: 24 * time.Hour}
		bubble(t, s, c, trust.NewSource(c), shop, func() {
			synctest.Wait()
			c.ahead.Store(int64(11 * time.Hour)) // a host that was suspended
			time.Sleep(time.Minute)
			synctest.Wait()
			if asks, _ := s.count(); asks < 2 {
				t.Errorf("%d asks a minute after the clock passed the renewal", asks)
			}
		})
	})
}

func TestARenewerDoesNotBecomeSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := trust.NewSource(clock.Real{})
		s := &issuer{t: t, root: newRoot(t, west), id: orders, life: time.Hour}
		log := bubble(t, s, clock.Real{}, source, shop, func() { time.Sleep(time.Minute) })
		if source.Current().SVID != nil {
			t.Error("took another's certificate")
		}
		if !strings.Contains(log, trust.ErrIdentityChanged.Error()) {
			t.Errorf("log: %s", log)
		}
	})
}

func TestARenewerNeedsItsParts(t *testing.T) {
	_, err := trust.NewRenewer(trust.RenewerConfig{})
	for _, field := range []string{"Source", "Signer", "Clock", "Random", "Log"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("an empty configuration: %v, want %s named", err, field)
		}
	}
}

package failpoint

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	before Point = "test.before"
	after  Point = "test.after"
)

var errFire = errors.New("disk on fire")

func TestNilAndUnarmedSetsDoNothing(t *testing.T) {
	var none *Set
	if err := none.Hit(t.Context(), before); err != nil {
		t.Errorf("nil Set: Hit = %v", err)
	}
	if err := New(before).Hit(t.Context(), before); err != nil {
		t.Errorf("unarmed Set: Hit = %v", err)
	}
}

func TestOffCostsNoAllocation(t *testing.T) {
	s := New(before)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _ = s.Hit(ctx, before) }); n != 0 {
		t.Errorf("Hit of an unarmed point allocates %v times", n)
	}
}

func TestErrorActsAfterAndTimes(t *testing.T) {
	s := New(before, after)
	if err := s.Enable(before, Error(errFire).After(2).Times(1)); err != nil {
		t.Fatal(err)
	}
	want := []error{nil, nil, errFire, nil}
	for i, w := range want {
		if got := s.Hit(t.Context(), before); got != w {
			t.Errorf("hit %d: got %v, want %v", i, got, w)
		}
	}
	if got := s.Hit(t.Context(), after); got != nil {
		t.Errorf("the other point fired: %v", got)
	}
	if got := s.Hits(before); got != len(want) {
		t.Errorf("Hits = %d, want %d", got, len(want))
	}
	s.Disable(before)
	if err := s.Enable(before, Error(errFire)); err != nil {
		t.Fatal(err)
	}
	s.Disable(before)
	s.Disable(before)
	if got := s.Hit(t.Context(), before); got != nil {
		t.Errorf("disabled point fired: %v", got)
	}
	if n := s.armed.Load(); n != 0 {
		t.Errorf("armed count after disabling all = %d", n)
	}
}

func TestEnableRefusesWhatWouldDoNothing(t *testing.T) {
	s := New(before)
	if err := s.Enable("test.befroe", Panic()); err == nil || !strings.Contains(err.Error(), "known: test.before") {
		t.Errorf("misspelt point: %v", err)
	}
	for name, a := range map[string]Action{
		"zero": {}, "nil error": Error(nil), "no delay": Delay(0), "nil gate": Block(nil), "negative": Panic().After(-1),
	} {
		if err := s.Enable(before, a); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPanicAndExit(t *testing.T) {
	code := -1
	s := New(before, after).WithExit(func(c int) { code = c })
	if err := s.EnableSpec("test.before=panic; test.after=exit"); err != nil {
		t.Fatal(err)
	}
	if err := s.Hit(t.Context(), after); err != nil || code != ExitKilled {
		t.Errorf("exit: err %v, code %d", err, code)
	}
	defer func() {
		if r := recover(); r != "failpoint test.before" {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = s.Hit(t.Context(), before)
	t.Error("did not panic")
}

func TestDelayWaitsOnTheClockAndEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(before)
		if err := s.EnableSpec("test.before=delay:3s"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := s.Hit(t.Context(), before); err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("err %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Hit(ctx, before); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("delay past the deadline: %v", err)
		}
	})
	var slept time.Duration
	s := New(before).WithSleep(func(_ context.Context, d time.Duration) error { slept = d; return nil })
	if err := s.Enable(before, Delay(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Hit(t.Context(), before); err != nil || slept != time.Hour {
		t.Errorf("injected clock: err %v, slept %v", err, slept)
	}
}

func TestBlockHoldsUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := New(before), NewGate()
		if err := s.Enable(before, Block(g)); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Hit(t.Context(), before) }()
		<-g.Reached()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("passed a closed gate: %v", err)
		default:
		}
		g.Release()
		g.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSpec(t *testing.T) {
	s := New(before, after)
	if err := s.EnableSpec("test.before=error:x5 marks @home@2x3;"); err != nil {
		t.Fatal(err)
	}
	a := s.points[before].action
	if a.err.Error() != "x5 marks @home" || a.skip != 2 || a.times != 3 {
		t.Errorf("parsed %q, after %d, times %d", a.err, a.skip, a.times)
	}
	err := New(before).EnableSpec("test.before=exit:no;test.before=melt;nothing;x.y=panic;test.before=delay:-1s;test.before=error:")
	if err == nil {
		t.Fatal("faulty spec accepted")
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 6 {
		t.Errorf("want 6 faults, got %d:\n%v", got, err)
	}
}

func BenchmarkHitOff(b *testing.B) {
	s := New(before)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Hit(ctx, before)
	}
}

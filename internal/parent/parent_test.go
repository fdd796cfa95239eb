package parent

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"
)

func TestTheEndOfThePipeEndsTheContextAndThenTheProcess(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	ctx := watch(t.Context(), r, func() { close(exited) })
	if err := ctx.Err(); err != nil {
		t.Fatalf("the parent lives, but the context has ended: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wait(t, ctx.Done(), "the context to end")
	if err := context.Cause(ctx); !errors.Is(err, ErrGone) {
		t.Errorf("cause: %v, want %v", err, ErrGone)
	}
	wait(t, exited, "the process to be ended")
}

func TestWithoutAPipeNothingIsWatched(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, value := range map[string]string{
		"unset": "", "no number": "three", "standard input": "0", "not open": "9999", "a file": strconv.Itoa(int(file.Fd())),
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(Env, value)
			if got := Watch(t.Context()); got != t.Context() {
				t.Error("Watch returned a context of its own")
			}
			if v, set := os.LookupEnv(Env); set && value != "" {
				t.Errorf("%s=%s is still in the environment and would be inherited", Env, v)
			}
		})
	}
}

func wait(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(Grace + 10*time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// answerMax is how long one of several clusters may take to answer, unless --timeout says it: whoever asks how
// the mesh stands while a control plane hangs must see the others. It is many round trips of any link.
const answerMax = 2 * time.Second

// answer is what one cluster said.
type answer[V any] struct {
	target
	value V
	err   error
}

// askAll asks clusters at once and returns the answers in their order. Where they are several, a cluster
// that does not answer within patience costs its own row and nobody else's.
func askAll[V any](ctx context.Context, a *app, targets []target, ask func(context.Context, target) (V, error)) []answer[V] {
	patience := a.timeout
	if len(targets) > 1 && !a.timeoutGiven {
		patience = min(a.timeout, answerMax)
	}
	out := make([]answer[V], len(targets))
	var wait sync.WaitGroup
	for i, t := range targets {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			v, err := ask(ctx, t)
			if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = fmt.Errorf("no answer within %v, its control plane hangs or needs a longer --timeout: %w", patience, err)
			}
			out[i] = answer[V]{t, v, err}
		})
	}
	wait.Wait()
	return out
}

// failures joins what clusters answered instead of a value.
func failures[V any](answers []answer[V]) error {
	var failed error
	for _, r := range answers {
		if r.err != nil {
			failed = errors.Join(failed, fmt.Errorf("cluster %s: %w", r.cluster, r.err))
		}
	}
	return failed
}

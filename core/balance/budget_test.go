package balance

import "testing"

// amplified is the load on servers that all fail, each request being retried as long as the budget lets it, in multiples of the
// requests, once what was saved up is spent.
func amplified(r BudgetRate) float64 {
	var b Budget
	for b.Spend(r) {
	}
	const requests = 1000
	tries := 0
	for range requests {
		b.Earn(r)
		for tries++; b.Spend(r); {
			tries++
		}
	}
	return float64(tries) / requests
}

// TestBudgetBoundsRetriesToAFifth: servers that fail whatever they are asked get 1.2 times the requests, and not more. The control is a
// budget that lets each request be retried.
func TestBudgetBoundsRetriesToAFifth(t *testing.T) {
	var b Budget
	spent := 0
	for b.Spend(BudgetRate{}) {
		spent++
	}
	if spent != budgetBurst {
		t.Fatalf("a full bucket allowed %d retries, want %d", spent, budgetBurst)
	}
	if got := amplified(BudgetRate{}); got != 1.2 {
		t.Errorf("load is multiplied by %v, want 1.2", got)
	}
	if got := amplified(BudgetRate{Percent: 100}); got != 2 {
		t.Errorf("control: load is multiplied by %v where each request may be retried, want 2", got)
	}
}

func TestBudgetKeepsItsShare(t *testing.T) {
	for rate, want := range map[BudgetRate]int{{}: 100 + 200, {Percent: 50, Burst: 10}: 10 + 500, BudgetRate{}.Across(): 100 + 100} {
		var b Budget
		spent := 0
		for range 1000 {
			b.Earn(rate)
			for b.Spend(rate) {
				spent++
			}
		}
		if spent < want-1 || spent > want {
			t.Errorf("%+v: %d retries of 1,000 requests, want %d", rate, spent, want)
		}
	}
}

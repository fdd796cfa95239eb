package balance

import "testing"

func TestBudgetBoundsRetriesToAFifth(t *testing.T) {
	var b Budget
	spent := 0
	for b.Spend(BudgetRate{}) {
		spent++
	}
	if spent != budgetBurst {
		t.Fatalf("a full bucket allowed %d retries, want %d", spent, budgetBurst)
	}
	for range 1000 {
		b.Earn(BudgetRate{})
		if b.Spend(BudgetRate{}) {
			spent++
		}
	}
	if got := spent - budgetBurst; got != 200 {
		t.Errorf("1,000 requests allowed %d retries, want 200", got)
	}
}

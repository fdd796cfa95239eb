package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/cli/table"
)

// spoken is what some clusters say of another: those that are of one mind are one.
type spoken struct {
	of, state string
	by        []string
	// age is that of who came to it last.
	age   float64
	cause string
}

// verdictsOf is what the others say of a cluster. What it says of itself is what it thinks that others see.
func verdictsOf(rows []clusterStatus, cluster string) (out []spoken) {
	for _, r := range rows {
		if r.Status == nil || r.Cluster == cluster {
			continue
		}
		for _, v := range r.Status.Verdicts {
			if string(v.Cluster) != cluster {
				continue
			}
			i := slices.IndexFunc(out, func(s spoken) bool { return s.state == v.State })
			if i < 0 {
				out = append(out, spoken{of: cluster, state: v.State, age: v.AgeSeconds, cause: v.Cause})
				i = len(out) - 1
			}
			out[i].by, out[i].age = append(out[i].by, r.Cluster), min(out[i].age, v.AgeSeconds)
		}
	}
	return out
}

// verdictText is the cell: the state, and since when where it is not Alive; those of who is not of one mind side by side.
func verdictText(said []spoken) string {
	if len(said) == 0 {
		return "-"
	}
	var parts []string
	mark := ""
	for _, s := range said {
		text := s.state
		if s.state != alive {
			mark = red
			text += " " + ageOf(s.age)
		}
		parts = append(parts, text)
	}
	return mark + strings.Join(parts, " / ")
}

const alive = "Alive"

// verdictLines say of each cluster that is not Alive for everybody who says what, and why; of all clusters where the output is wide.
func (a *app) verdictLines(rows []clusterStatus) {
	first := true
	for _, r := range rows {
		said := verdictsOf(rows, r.Cluster)
		if a.output != "wide" && (len(said) == 0 || len(said) == 1 && said[0].state == alive) {
			continue
		}
		for _, s := range said {
			if first {
				fmt.Fprintln(a.Out)
				first = false
			}
			says := "says"
			if len(s.by) > 1 {
				says = "say"
			}
			fmt.Fprintf(a.Out, "%s is %s for %s, %s %s: %s\n", s.of, s.state, ageOf(s.age), says, strings.Join(s.by, ", "), s.cause)
		}
	}
}

// verdictEvents lists the changes of verdicts, the newest last.
func (a *app) verdictEvents(rows []clusterStatus) error {
	type event struct {
		by string
		consistency.VerdictEvent
	}
	var all []event
	for _, r := range rows {
		if r.Status != nil {
			for _, e := range r.Status.VerdictEvents {
				all = append(all, event{r.Cluster, e})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(x, y event) int { return x.At.Compare(y.At) })
	t := &table.Table{Head: []string{"AT", "SAYS", "CLUSTER", "FROM", "TO", "CAUSE"}}
	for _, e := range all {
		t.Add(e.At.UTC().Format(time.RFC3339), e.by, string(e.Cluster), e.From, e.To, e.Cause)
	}
	fmt.Fprintln(a.Out)
	return t.Print(a.Out, a.colour())
}

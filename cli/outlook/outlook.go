// Package outlook writes forecasts for people: each service's clusters in a row each, as they are and as they would be.
//
// It makes no forecast (api/forecast does). Read Print.
package outlook

import (
	"fmt"
	"io"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/forecast"
	"github.com/isthmus-mesh/isthmus/cli/table"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Print writes a forecast as a table, and below it what nobody wants, in words.
func Print(w io.Writer, f *forecast.Answer, colour bool) error {
	fmt.Fprintf(w, "If %s were lost, as %s foresees it from what it is asked for now", names(f.Lost), f.Cluster)
	if f.Users == forecast.UsersMove {
		fmt.Fprint(w, "; users there come in by the nearest cluster that is left")
	}
	fmt.Fprint(w, ":\n\n")
	if len(f.Services) == 0 {
		_, err := fmt.Fprintln(w, "Nobody asks for any service that it knows of.")
		return err
	}
	t := &table.Table{Head: []string{"SERVICE", "CLUSTER", "SERVES/S", "FULL", "CALLERS WAIT", "SHED/S", "REFUSED/S"}}
	for _, s := range f.Services {
		for _, c := range s.Clusters {
			t.Add(s.Service, string(c.Cluster), turns(number(c.Before.Load), number(c.After.Load)), full(&c), turns(milliseconds(c.Before.MeanMillis), milliseconds(c.After.MeanMillis)),
				loss(c.After.Shed), loss(c.After.Refused))
		}
	}
	if err := t.Print(w, colour); err != nil {
		return err
	}
	if len(f.Findings) == 0 {
		_, err := fmt.Fprintln(w, "\nNothing would be shed or refused, as far as capacities are known.")
		return err
	}
	fmt.Fprintln(w)
	for _, line := range f.Findings {
		fmt.Fprintln(w, line)
	}
	return nil
}

func names(clusters []mesh.ClusterName) string {
	var out []string
	for _, c := range clusters {
		out = append(out, string(c))
	}
	return strings.Join(out, ", ")
}

// turns is what was and what would be.
func turns(before, after string) string {
	if before == after {
		return before
	}
	return before + " → " + after
}

// fullFrom is the utilisation from which a cell is marked.
const fullFrom = 0.85

func full(c *forecast.Cluster) string {
	text := turns(fullness(c.Before), fullness(c.After))
	if u := c.After.Utilisation; u != nil && *u > fullFrom {
		return table.Red + text
	}
	return text
}

func number(v float64) string { return fmt.Sprintf("%.0f", v) }

func loss(v float64) string {
	if v == 0 {
		return "-"
	}
	return table.Red + number(v)
}

// fullness of a cluster: "?" where its capacity is not known, "-" where it has none.
func fullness(s forecast.State) string {
	switch {
	case s.Utilisation != nil:
		return fmt.Sprintf("%.0f%%", 100**s.Utilisation)
	case s.Capacity != nil:
		return "-"
	}
	return "?"
}

func milliseconds(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f ms", *v)
}

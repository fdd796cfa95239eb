package cli

import (
	"cmp"
	"fmt"

	"github.com/isthmus-mesh/isthmus/cli/table"
)

// replicas lists the processes of control planes that have several, and how many proxies follow each.
func (a *app) replicas(rows []clusterStatus) error {
	t := &table.Table{Head: []string{"CLUSTER", "REPLICA", "API", "VERSION", "PROXIES", "STATE"}}
	for _, r := range rows {
		if r.Status == nil {
			continue
		}
		for _, x := range r.Status.Replicas {
			state, proxies := "answers", fmt.Sprint(x.Proxies)
			if x.Problem != "" {
				state, proxies = red+"does not answer", "-"
			}
			at := "-"
			if x.API.IsValid() {
				at = x.API.String()
			}
			t.Add(r.Cluster, x.Name, at, cmp.Or(x.Version, "-"), proxies, state)
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	return t.Print(a.Out, a.colour())
}

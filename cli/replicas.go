package cli

import (
	"cmp"
	"fmt"
)

// replicas lists the processes of control planes that have several, and how many proxies follow each.
func (a *app) replicas(rows []clusterStatus) error {
	t := &table{head: []string{"CLUSTER", "REPLICA", "API", "VERSION", "PROXIES", "STATE"}}
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
			t.add(r.Cluster, x.Name, at, cmp.Or(x.Version, "-"), proxies, state)
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	return t.print(a.Out, a.colour())
}

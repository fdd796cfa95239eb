package cli

import (
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/cli/table"
)

// matrix is how each cluster sees each other: a row who looks, a column who is looked at.
func (a *app) matrix(rows []clusterStatus) error {
	if len(rows) < 2 {
		return nil
	}
	t := &table.Table{Head: []string{"FROM \\ TO"}}
	for _, r := range rows {
		t.Head = append(t.Head, r.Cluster)
	}
	for _, r := range rows {
		cells := []string{r.Cluster}
		for _, to := range rows {
			cells = append(cells, cell(r, to.Cluster))
		}
		t.Add(cells...)
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	return t.Print(a.Out, a.colour())
}

// cell is how one cluster sees another. What the one does not say is not known, whatever the other says.
func cell(from clusterStatus, to string) string {
	if from.Cluster == to {
		return "-"
	}
	if from.Status == nil {
		return red + "unknown: no answer"
	}
	for _, p := range from.Status.Peers {
		if string(p.Cluster) == to {
			return pathText(p)
		}
	}
	return red + "not joined"
}

// pathText is the path to a peer: up or down, since when, round trip and loss of the last minute.
func pathText(p api.Peer) string {
	since := ""
	if p.StateAgeSeconds > 0 {
		since = " " + ageOf(p.StateAgeSeconds)
	}
	if !p.Up && p.Via != "" {
		return fmt.Sprintf("by %s, %.0f ms (down%s)", p.Via, p.ViaRTTMillis, since)
	}
	if !p.Up {
		return red + "down" + since + ", loss " + percent(p.Loss)
	}
	text := "up" + since
	if p.RTTMillis > 0 {
		text += fmt.Sprintf(", %.0f ms", p.RTTMillis)
	}
	text += ", loss " + percent(p.Loss)
	if p.Stale {
		text = red + text + fmt.Sprintf(", silent %s", ageOf(p.AgeSeconds))
	}
	return text
}

func percent(ratio float64) string { return fmt.Sprintf("%.0f%%", 100*ratio) }

// ageOf is a time in seconds, in one unit.
func ageOf(seconds float64) string {
	now := time.Unix(1<<32, 0)
	return age(now, now.Add(-time.Duration(seconds*float64(time.Second))))
}

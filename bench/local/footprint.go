package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// footprint measures the default mesh: time to ready, memory, processes.
func (b *bench) footprint(ctx context.Context) error {
	b.Say("starting the default mesh %d times", b.size.starts+1)
	var took []float64
	for i := range b.size.starts + 1 {
		m, err := b.up(ctx, fmt.Sprint("start-", i), "")
		if err != nil {
			return err
		}
		if i > 0 { // the first warms the machine
			took = append(took, m.Took.Seconds())
		}
		if i == b.size.starts {
			err = b.memory(ctx, m)
		}
		if m.Down(&err); err != nil {
			return err
		}
	}
	b.Add(report.Row{Row: "ready", Unit: "s", Title: "`isthmus up --detach` to ready, default mesh, empty state directory"}.Of(took).Within(5))
	return nil
}

// memory is read a while after the start, when what starting took has been given back.
func (b *bench) memory(ctx context.Context, m *rig.Mesh) error {
	b.Say("waiting %s, then reading memory", b.size.settle)
	idle, _, err := m.IdleProxy(ctx)
	if err != nil {
		return err
	}
	if err := rig.Pause(ctx, b.size.settle); err != nil {
		return errors.Join(err, idle.End())
	}
	rss, err := rig.KiB("status", "VmRSS", idle.PID())
	if err = errors.Join(err, idle.End()); err != nil {
		return err
	}
	all, err := m.PIDs()
	if err != nil {
		return err
	}
	sum, err := rig.KiB("smaps_rollup", "Pss", all...)
	if err != nil {
		return err
	}
	var planes, sidecars []float64
	for _, c := range m.Summary.Clusters {
		pids, err := m.PlanePIDs(string(c.Name))
		if err != nil {
			return err
		}
		pss, err := rig.KiB("smaps_rollup", "Pss", pids...)
		if err != nil {
			return err
		}
		planes = append(planes, megabytes(pss))
	}
	proxies, err := m.PIDs("\x00proxy\x00")
	if err != nil {
		return err
	}
	for _, pid := range proxies {
		v, err := rig.KiB("status", "VmRSS", pid)
		if err != nil {
			return err
		}
		sidecars = append(sidecars, v/1024)
	}
	after := fmt.Sprintf(", %s after the start", b.size.settle)
	b.Add(report.Row{Row: "pss-control-plane-mb", Unit: "MB", Title: "PSS of one control plane with its store" + after}.Of(planes).Within(120))
	b.Add(report.Row{Row: "rss-idle-mib", Unit: "MiB", Title: "RSS of an idle `isthmus-proxy` on its own, joined to the default mesh" + after}.Of([]float64{rss / 1024}).Within(20))
	b.Add(report.Row{Row: "rss-local-proxy-mib", Unit: "MiB",
		Title: fmt.Sprintf("RSS of `isthmus proxy` in the local mesh, each of %d, pages of the binary shared with all", len(proxies))}.Of(sidecars))
	b.Add(report.Row{Row: "pss-mesh-mb", Unit: "MB", Title: "sum of PSS of the local mesh" + after}.Of([]float64{megabytes(sum)}).Within(1000))
	b.Add(report.Row{Row: "processes", Unit: "processes", Title: "processes of the local mesh"}.Of([]float64{float64(len(all))}))
	return nil
}

func megabytes(kib float64) float64 { return kib * 1024 / 1e6 }

// meshFile is the mesh of the figures: the default regions and links, and two services whose one
// instance each is this program: near in eu-west, far in us-east.
func (b *bench) meshFile() string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return fmt.Sprintf(`apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, region: eu-west-1, zones: [a, b], network: eu, provider: aws, jurisdiction: EU}
  - {name: us-east, region: us-east-1, zones: [a, b], network: us, provider: aws, jurisdiction: US}
  - {name: ap-south, region: ap-south-1, zones: [a, b], network: ap, provider: aws, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: %s}
  - {between: [eu-west, ap-south], rtt: 120ms}
  - {between: [us-east, ap-south], rtt: 200ms}
workloads:
  - {name: near, namespace: bench, clusters: [eu-west], replicas: 1, port: 8080, servicePort: 8080, run: [%q, -be, app]}
  - {name: far, namespace: bench, clusters: [us-east], replicas: 1, port: 8080, servicePort: 8080, run: [%q, -be, app]}
`, rtt, self, self)
}

// rtt is of the link between eu-west and us-east.
const rtt = 80 * time.Millisecond

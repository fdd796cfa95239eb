package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/drains"
)

// drainMesh is two clusters with a service whose endpoints declare lanes, so that load decides, and one without.
const drainMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: echo, namespace: demo, replicas: 2, lanes: 20, run: builtin/echo}
  - {name: plain, namespace: demo, replicas: 1, run: builtin/echo}
`

// TestADrainFailsNothing: a cluster under load is drained while its control planes are killed, and taken back; no request
// fails, and at the end of the drain none is served there, also of a service that load does not spread.
func TestADrainFailsNothing(t *testing.T) {
	m := newMesh(t, 238)
	m.up("-f", write(t, "mesh.yaml", drainMesh))
	spread, nearest := m.load(0, echo+"/", 200), m.load(0, strings.Replace(echo, "echo", "plain", 1)+"/", 30)
	defer spread.stop()
	defer nearest.stop()
	eventually(t, 20*time.Second, "both are served at home", func() (string, bool) {
		got := fmt.Sprint(spread.servedBy("eu-west"), nearest.servedBy("eu-west"))
		return got, spread.servedBy("eu-west") > 100 && nearest.servedBy("eu-west") > 20
	})
	begun := drains.Answer{}
	if err := json.Unmarshal([]byte(m.run("drain", "eu-west", "--over", "4s", "--wait=false", "-o", "json")), &begun); err != nil {
		t.Fatal(err)
	}
	m.run("drill", "kill", "control-plane@eu-west", "control-plane@us-east")
	// An answer to what began before the end may come after it.
	<-time.After(time.Until(begun.State.Ends.Add(time.Second)))
	ended := []time.Duration{spread.now(), nearest.now()}
	moved := spread.servedBy("us-east")
	m.run("drill", "resume", "control-plane@eu-west", "control-plane@us-east")
	eventually(t, 30*time.Second, "the drain is found again", func() (string, bool) {
		out, code := m.try("drain", "eu-west")
		return out, code == 0 && strings.Contains(out, "drained already")
	})
	eventually(t, 30*time.Second, "the other cluster may not be drained too", func() (string, bool) {
		out, code := m.try("drain", "us-east")
		if code != 1 {
			t.Fatalf("the other cluster may not be drained too: exit %d: %s", code, out)
		}
		return out, strings.Contains(out, "nobody else may or can serve demo/echo")
	})
	if out, _ := m.try("status"); !strings.Contains(out, "eu-west: drained\n") { // links may be on their way still, which is exit 1
		t.Errorf("status says nothing of it: %s", out)
	}
	for i, l := range []*load{spread, nearest} {
		at := map[string]int{}
		for _, s := range l.samples(ended[i], l.now()) {
			at[s.cluster]++
		}
		if at["eu-west"] > 0 || at["us-east"] == 0 {
			t.Errorf("drained, it is served by %v", at)
		}
	}
	if moved < 100 {
		t.Errorf("%d requests had moved at the end of the drain: it was not gradual, or was not at all", moved)
	}
	m.run("undrain", "eu-west", "--over", "3s")
	before := spread.servedBy("eu-west")
	eventually(t, 20*time.Second, "eu-west serves again", func() (string, bool) {
		got := spread.servedBy("eu-west") - before
		return fmt.Sprint(got), got > 100
	})
	spread.stop().mustNotFail(t)
	nearest.stop().mustNotFail(t)
}

package intake

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/admission"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

var on = mesh.Admission{Mode: mesh.AdmissionAdaptive}

// crowd is a gate before one lane whose requests take 100 ms, with five of them inside.
func crowd(t testing.TB) (*Gate, time.Time) {
	t.Helper()
	g, now := New(on, nil), time.Unix(1e9, 0)
	g.SetLanes(1)
	for range 30 {
		var v Visit
		if got := g.Enter(&v, &Ask{Head: head(""), Now: now}); got != admission.Admitted {
			t.Fatalf("one at a time is refused: %v", got)
		}
		now = now.Add(100 * time.Millisecond)
		v.Leave(now, true)
		v.Leave(now, true) // once is all
	}
	for range 5 {
		g.Enter(&Visit{}, &Ask{Head: head("critical-plus"), Now: now})
	}
	return g, now
}

func head(criticality string) *message.Head {
	h := &message.Head{}
	if criticality != "" {
		h.Add("isthmus-criticality", criticality)
	}
	return h
}

// TestWhatCannotBeInTimeIsRefused: behind four who wait, by deadline and by criticality.
func TestWhatCannotBeInTimeIsRefused(t *testing.T) {
	for _, c := range []struct {
		criticality string
		left        time.Duration
		want        admission.Verdict
	}{
		{"", 0, admission.Full}, {"sheddable", 0, admission.Full}, {"no such", 0, admission.Full},
		{"CRITICAL_PLUS", 0, admission.Admitted}, {"critical-plus", time.Second, admission.Admitted}, {"critical-plus", 200 * time.Millisecond, admission.Late},
		{"critical-plus", -time.Second, admission.Late},
	} {
		g, now := crowd(t)
		a := &Ask{Head: head(c.criticality), Now: now, ID: []byte("x")}
		if c.left != 0 {
			a.Deadline = now.Add(c.left)
		}
		if got := g.Enter(&Visit{}, a); got != c.want {
			t.Errorf("%q with %v left: %v, want %v", c.criticality, c.left, got, c.want)
		}
	}
}

// TestApplicationsAreToldOfAnOverload: while anything is turned away, and by what that is.
func TestApplicationsAreToldOfAnOverload(t *testing.T) {
	g, now := crowd(t)
	told := func() string {
		h := head("")
		g.Tell(h)
		return string(h.Get(FieldBrownout))
	}
	if got := told(); got != "critical" {
		t.Errorf("behind four who wait: %q", got)
	}
	same := New(mesh.Admission{Mode: mesh.AdmissionAdaptive, MaxWait: time.Second}, g)
	if got := told(); same != g || got != "" {
		t.Errorf("with a second to wait, of what was learnt: %q", got)
	}
	g.SetLanes(8)
	if got := told(); got != "" {
		t.Errorf("with lanes that are free: %q", got)
	}
	if v := (&Visit{}); g.Enter(v, &Ask{Head: head(""), Now: now}) != admission.Admitted {
		t.Error("a free lane is not taken")
	}
	var none *Gate
	none.SetLanes(4)
	none.Tell(head(""))
	if New(mesh.Admission{MaxWait: time.Second}, g) != nil || New(mesh.Admission{Mode: mesh.AdmissionNone}, g) != nil {
		t.Error("a gate where no policy wants one")
	}
}

func TestVerdictsAreExposed(t *testing.T) {
	g, now := crowd(t)
	g.Enter(&Visit{}, &Ask{Head: head("sheddable"), Now: now})
	var b strings.Builder
	w := exposition.New(&b, exposition.Text)
	Expose(w, map[mesh.ServiceName]*Gate{{Namespace: "shop", Name: "cart"}: g, {Namespace: "shop", Name: "catalog"}: nil})
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`isthmus_admission_requests_total{destination_service="cart",destination_namespace="shop",criticality="sheddable",verdict="full"} 1`,
		`isthmus_admission_requests_total{destination_service="cart",destination_namespace="shop",criticality="critical",verdict="admitted"} 30`,
		`isthmus_admission_in_flight{destination_service="cart",destination_namespace="shop"} 5`,
		`isthmus_admission_limit{destination_service="cart",destination_namespace="shop"} 2`,
		`isthmus_admission_wait_seconds{destination_service="cart",destination_namespace="shop"} 0.5`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "catalog") {
		t.Error("a service without a gate is exposed")
	}
}

func TestAVisitAllocatesNothing(t *testing.T) {
	g, now, h, id := New(on, nil), time.Now(), head("sheddable"), []byte("5e0c")
	g.Enter(&Visit{}, &Ask{Head: h, Now: now})
	got := testing.AllocsPerRun(1000, func() {
		var v Visit
		g.Enter(&v, &Ask{Head: h, Now: now, Deadline: now.Add(time.Second), ID: id})
		g.Tell(h)
		now = now.Add(time.Millisecond)
		v.Leave(now, true)
	})
	if got != 0 {
		t.Errorf("%v allocations a visit", got)
	}
}

func BenchmarkVisit(b *testing.B) {
	g, now, h, id := New(on, nil), time.Now(), head("sheddable"), []byte("5e0c0f0e5e0c0f0e5e0c0f0e5e0c0f0e")
	b.ReportAllocs()
	for b.Loop() {
		var v Visit
		g.Enter(&v, &Ask{Head: h, Now: now, Deadline: now.Add(time.Second), ID: id})
		now = now.Add(time.Microsecond)
		v.Leave(now, true)
	}
}

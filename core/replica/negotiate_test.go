package replica_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
)

// TestTwoBackAreServed lets builds of all ranges up to some minors ahead meet: those with a common protocol and versions at most two minors
// apart come in sync in the newest that both speak, others part with the one to upgrade first, and what was in force stays.
func TestTwoBackAreServed(t *testing.T) {
	build := func(n int) skew.Build { // minor version n speaks protocols n-2 to n
		return skew.Build{Version: "v0." + string(rune('0'+n)) + ".0", Protocols: skew.Range{Min: max(1, n-2), Max: n}}
	}
	served, refused := 0, 0
	for owner := 1; owner <= 6; owner++ {
		for consumer := 1; consumer <= 6; consumer++ {
			p := replica.NewPartition("us-east").With(nil, nil).At(at(5), nil)
			ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local", Build: build(owner)}, p)
			im := replica.NewImporter(replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local", Build: build(consumer)}, nil)
			now := time.UnixMilli(1_000_000)
			im.Connect(now, 1, "us-east")
			close, left := converse(now, ex, im)
			s := im.Status()
			protocol, version, _ := ex.Peer()
			apart := owner - consumer
			switch {
			case apart >= -2 && apart <= 2:
				served++
				if !s.InSync || s.Protocol != min(owner, consumer) || close != "" || left != "" || s.Skew != "" {
					t.Errorf("owner %d, consumer %d: %+v, closed %q, left %q", owner, consumer, s, close, left)
				}
				if protocol != s.Protocol {
					t.Errorf("owner %d speaks %d, consumer %d", owner, protocol, s.Protocol)
				}
				if want := map[bool]string{true: build(consumer).Version}[min(owner, consumer) >= replica.ProtocolVersions]; version != want {
					t.Errorf("owner %d knows the version of consumer %d as %q, want %q", owner, consumer, version, want)
				}
			default:
				refused++
				first := "upgrade cluster us-east first"
				if owner > consumer {
					first = "upgrade this control plane first"
				}
				if s.InSync || left != replica.Redial(replica.AlarmVersion) || !strings.Contains(s.Skew, first) {
					t.Errorf("owner %d, consumer %d: %+v, left %q; want %q", owner, consumer, s, left, first)
				}
			}
		}
	}
	if served != 24 || refused != 12 {
		t.Errorf("%d served and %d refused, want 24 and 12", served, refused)
	}
}

// converse carries messages until there are none.
func converse(now time.Time, ex *replica.Exporter, im *replica.Importer) (closed string, left replica.Redial) {
	out := ex.Open(now)
	for len(out.Send) > 0 {
		var ups []replica.Up
		for _, m := range out.Send {
			rd := im.Step(now, 1, m)
			if rd.Redial != "" {
				left = rd.Redial
			}
			ups = append(ups, rd.Send...)
		}
		out = replica.Out{}
		for _, m := range ups {
			next := ex.Step(m)
			out.Send = append(out.Send, next.Send...)
			if next.Close != "" {
				closed = next.Close
			}
		}
	}
	return closed, left
}

// TestAnExporterClosesWhatItDoesNotServe: an importer that does not judge for itself is told what to upgrade.
func TestAnExporterClosesWhatItDoesNotServe(t *testing.T) {
	for want, m := range map[string]*replica.Subscribe{
		"upgrade the peer first, to a version that speaks protocol 3": {Protocol: 1, Sync: 1},
		"upgrade cluster us-east first, to a version that speaks":     {Protocol: 7, Sync: 1},
		"upgrade the peer first, to 0.3 at least":                     {Protocol: 4, Sync: 1, Version: "v0.1.0"},
		"upgrade the peer first, to the last minor version of 0":      {Protocol: 4, Sync: 1, Version: "v0.9.0"},
	} {
		version := "v0.5.0"
		if m.Version == "v0.9.0" {
			version = "v1.0.0"
		}
		ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local",
			Build: skew.Build{Version: version, Protocols: skew.Range{Min: 3, Max: 5}}}, replica.NewPartition("us-east"))
		ex.Open(time.UnixMilli(1))
		if out := ex.Step(m); !strings.Contains(out.Close, want) {
			t.Errorf("%+v: closed %q, want %q", m, out.Close, want)
		}
	}
}

// TestReportsGoToWhoTakesThem: from protocol 2 on an importer says whether it takes load reports.
func TestReportsGoToWhoTakesThem(t *testing.T) {
	for _, c := range []struct {
		m    *replica.Subscribe
		want string
	}{
		{&replica.Subscribe{Protocol: 1, Sync: 1}, "load"},
		{&replica.Subscribe{Protocol: 2, Sync: 1, Capabilities: replica.Capabilities()}, "load"},
		{&replica.Subscribe{Protocol: 2, Sync: 1, Capabilities: []string{"something-else"}}, ""},
	} {
		ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east"}, replica.NewPartition("us-east"))
		ex.Open(time.UnixMilli(1))
		ex.SetReport([]byte("load"))
		ex.Step(c.m)
		if hb := ex.Tick(time.UnixMilli(5000)).Send[0].(*replica.Heartbeat); string(hb.Report) != c.want {
			t.Errorf("%+v: report %q, want %q", c.m, hb.Report, c.want)
		}
	}
}

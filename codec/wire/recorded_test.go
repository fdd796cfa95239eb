package wire_test

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// recorded reads testdata/protocol1.txt.
func recorded(t *testing.T) (downs []replica.Down, ups []replica.Up) {
	t.Helper()
	text, err := os.ReadFile("testdata/protocol1.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		way, body, _ := strings.Cut(strings.TrimSpace(line), " ")
		if way == "#" {
			continue
		}
		b, err := hex.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		switch way {
		case "down":
			var m wirepb.Down
			if err = proto.Unmarshal(b, &m); err == nil {
				var d replica.Down
				d, err = wire.DecodeDown(&m)
				downs = append(downs, d)
			}
		case "up":
			var m wirepb.Up
			if err = proto.Unmarshal(b, &m); err == nil {
				var u replica.Up
				u, err = wire.DecodeUp(&m)
				ups = append(ups, u)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return downs, ups
}

var recordedAt = time.UnixMilli(1_700_000_000_000)

// TestARecordedExporterIsFollowed: what a build of protocol 1 told is in force, its beats and load reports count.
func TestARecordedExporterIsFollowed(t *testing.T) {
	downs, _ := recorded(t)
	im := replica.NewImporter(replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local", Build: skew.Build{Version: "v0.3.0"}}, nil)
	im.Connect(recordedAt, 1, "us-east")
	reports := 0
	for i, m := range downs {
		rd := im.Step(recordedAt.Add(time.Duration(i)*time.Second), 1, m)
		if len(rd.Alarms) > 0 || rd.Redial != "" {
			t.Fatalf("message %d: %v, left: %q", i, rd.Alarms, rd.Redial)
		}
		for _, up := range rd.Send {
			if s, ok := up.(*replica.Subscribe); ok && (s.Protocol != 1 || s.Version != "" || s.Capabilities != nil) {
				t.Errorf("subscribed by %+v, which protocol 1 does not know", s)
			}
		}
		if len(rd.Report) > 0 {
			reports++
		}
	}
	s := im.Status()
	if !s.InSync || s.Stale || s.Protocol != 1 || s.Skew != "" || im.InForce().Len() != 2 || reports == 0 {
		t.Errorf("%+v, %d facts, %d reports; want in sync by protocol 1 with 2 facts and reports", s, im.InForce().Len(), reports)
	}
}

// TestARecordedImporterIsServed: to a build of protocol 1 everything is told as it understands it.
func TestARecordedImporterIsServed(t *testing.T) {
	_, ups := recorded(t)
	at := mesh.Position{Epoch: mesh.Epoch{StartMillis: 1_600_000_000_000, ID: "first"}, Revision: 7}
	p := replica.NewPartition("us-east").With([]*replica.Resource{replica.NewResource(replica.Name{Kind: mesh.KindRemoteService, Namespace: "shop", Name: "catalog"},
		at, mesh.Stamp{}, [16]byte{1}, []byte("one"))}, nil).At(at, nil)
	ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local", Build: skew.Build{Version: "v0.3.0"}}, p)
	ex.SetReport([]byte("load"))
	out := ex.Open(recordedAt)
	if h := out.Send[0].(*replica.Hello); h.Protocol != 1 { // it accepts no other
		t.Errorf("greeted in protocol %d", h.Protocol)
	}
	for _, m := range ups {
		if out = ex.Step(m); out.Close != "" || len(out.Alarms) > 0 {
			t.Fatalf("%T: closed %q, %v", m, out.Close, out.Alarms)
		}
	}
	if !ex.Settled() {
		t.Error("what it acknowledged is not settled")
	}
	if hb := ex.Tick(recordedAt.Add(time.Second)).Send[0].(*replica.Heartbeat); !hb.Settled || string(hb.Report) != "load" {
		t.Errorf("the heartbeat is %+v, want settled, with the load report that every importer of protocol 1 takes", hb)
	}
}

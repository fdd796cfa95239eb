package agent_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// TestAPolicyThatWasAcknowledgedIsOnTheDisk: who crashes after it said that it has a policy refuses by it when it is back. The control is
// what a service's endpoints are, which may be a second late on the disk.
func TestAPolicyThatWasAcknowledgedIsOnTheDisk(t *testing.T) {
	w := newWorld(t)
	server, at := w.server("eu-west", "catalog-1", catalog)
	group := func(i int) []ir.Group {
		e := at
		e.Tag = fmt.Sprintf("tag-%d;", i)
		return []ir.Group{{Cluster: "eu-west", Endpoints: []ir.Endpoint{e}}}
	}
	w.service(catalog, group(0), nil)
	server.waitReady(t)
	// acked is what the proxy accepted last of a type.
	acked := func(typ ir.Type) string {
		for _, c := range w.script.server.Clients() {
			for _, s := range c.Types {
				if c.Node.ID == server.cfg.ID && s.Type == string(typ) && s.InSync {
					return s.AckedDigest
				}
			}
		}
		return ""
	}
	key, _ := keys.Load(server.cfg.Snapshot)
	file := trust.SnapshotFile(server.cfg.Snapshot, key.(trust.SealKey))
	// kept reports whether the disk has a word, as soon as the proxy has acknowledged what says it.
	kept := func(typ ir.Type, word string, say func()) bool {
		before := acked(typ)
		say()
		eventually(t, "the change is acknowledged", func() bool { now := acked(typ); return now != "" && now != before })
		snap, err := trust.ReadSnapshot(file, clock.Real{}.Now(), time.Hour)
		if err != nil {
			return false
		}
		var held struct{ Resources []xds.Resource }
		if err := json.Unmarshal(snap.Sections["resources"], &held); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(held.Resources, func(r xds.Resource) bool { return bytes.Contains(r.Body, []byte(word)) })
	}
	eventually(t, "the first snapshot is on the disk", func() bool {
		_, err := trust.ReadSnapshot(file, clock.Real{}.Now(), time.Hour)
		return err == nil && acked(ir.TypeAccess) != ""
	})
	late := 0
	for i := 1; i <= 10; i++ {
		word := fmt.Sprintf("round-%d-only", i)
		if !kept(ir.TypeAccess, word, func() {
			access := *w.script.resources[string(ir.TypeAccess)][catalog.String()].(*ir.Access)
			access.Policies = []ir.AccessEntry{{Object: "AccessPolicy shop/" + word, Policy: mesh.AccessPolicy{Namespace: "shop", Name: word, Action: mesh.Deny,
				Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Ports: []uint16{81}}}}}}}}
			w.script.set(catalog.String(), &access)
		}) {
			t.Errorf("policy %s was acknowledged, and is not on the disk", word)
		}
		word = fmt.Sprintf("tag-%d;", i)
		if !kept(ir.TypeEndpoints, word, func() { w.script.set(catalog.String(), &ir.Endpoints{Service: catalog, Groups: group(i)}) }) {
			late++
		}
	}
	if late == 0 {
		t.Error("endpoints were on the disk each time as well: the test proves nothing")
	}
}

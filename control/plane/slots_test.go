package plane

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/filestore"
	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// counted is a store that counts what it is asked.
type counted struct {
	objects
	gets, puts, batches int
}

func (c *counted) Get(ctx context.Context, k store.Key) (store.Object, error) {
	c.gets++
	return c.objects.Get(ctx, k)
}

func (c *counted) Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error) {
	c.puts++
	return c.objects.Put(ctx, o, pre)
}

func (c *counted) Batch(ctx context.Context, ops []store.Op) (int64, error) {
	c.batches++
	return c.objects.Batch(ctx, ops)
}

// covering is a plane that does nothing but store slot tables; nothing is told back to its world.
func covering(t *testing.T) (*Plane, *counted) {
	t.Helper()
	key, err := trust.ParseSealKey(make([]byte, trust.SealKeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	file, err := filestore.Open(filestore.Config{Path: filepath.Join(t.TempDir(), "objects"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{objects: file}
	p := &Plane{cfg: Config{Cluster: "eu"}, store: c}
	p.loop = loop.New(loop.Config{Self: "eu", Network: "eu", Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Publish: func(mesh.Vector, []xds.Update) {}, Export: func(loop.Export) {}, SaveSlots: func(mesh.SlotTable) {}})
	p.slots = newSlots(p)
	ctx, stop := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.loop.Run(ctx) }) // ends with ctx
	t.Cleanup(func() { stop(); parts.Wait(); file.Close() })
	return p, c
}

func slotTable(n int, generation uint64, octet byte) mesh.SlotTable {
	return mesh.SlotTable{Service: mesh.ServiceName{Namespace: "shop", Name: fmt.Sprintf("web-%03d", n)}, Generation: generation,
		Slots: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, octet}), 15008)}, Moved: []uint64{generation}}
}

// stood is the table that is stored.
func stood(t *testing.T, p *Plane, n int) (table mesh.SlotTable, revision int64) {
	t.Helper()
	want, err := slotObject(slotTable(n, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.store.(*counted).objects.Get(t.Context(), want.Key)
	if err == nil {
		err = json.Unmarshal(o.Value, &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	return table, o.Revision
}

// flush writes what waits, as run does.
func flush(t *testing.T, p *Plane) {
	t.Helper()
	for tables := p.slots.take(); len(tables) > 0; {
		n, err := p.slots.write(t.Context(), tables)
		if err != nil {
			t.Fatal(err)
		}
		tables = tables[n:]
	}
}

// TestSlotTablesThatWaitAreOneWrite: what a deployment or a cluster that joins changes costs the store a write in so many, and no
// question, and of a service that changed twice meanwhile only the newest table.
func TestSlotTablesThatWaitAreOneWrite(t *testing.T) {
	p, c := covering(t)
	const services = 2*slotsMax + 1
	for generation := uint64(1); generation <= 2; generation++ {
		for n := range services {
			p.slots.save(slotTable(n, generation, byte(generation)))
		}
	}
	flush(t, p)
	if c.gets != 0 || c.puts != 0 || c.batches != 3 {
		t.Errorf("%d gets, %d puts, %d batches for %d tables: want 3 batches", c.gets, c.puts, c.batches, services)
	}
	for n := range services {
		if table, _ := stood(t, p, n); table.Generation != 2 {
			t.Fatalf("%+v is stored, want generation 2", table)
		}
	}
	// The world shows one of them; the next takes its place without a question.
	table, revision := stood(t, p, 0)
	show(t, p, table, revision)
	p.slots.save(slotTable(0, 3, 3))
	flush(t, p)
	if table, _ := stood(t, p, 0); table.Generation != 3 || c.gets != 0 || c.batches != 4 {
		t.Errorf("%+v is stored after %d gets and %d batches, want generation 3, none, and 4", table, c.gets, c.batches)
	}
}

// show makes the world show a table as it was stored.
func show(t *testing.T, p *Plane, table mesh.SlotTable, revision int64) {
	t.Helper()
	f := &mesh.Fact{Key: mesh.Key{Kind: mesh.KindSlotTable, Origin: "eu", Namespace: table.Service.Namespace, Name: table.Service.Name}, Value: &table,
		Digest: ir.DigestOf(&table), Position: mesh.Position{Revision: revision}}
	if err := p.loop.EditAndWait(t.Context(), []world.Edit{world.Put(f)}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestASlotTableOfAnotherReplicaStands: a generation is given once. Another replica stored tables of which this one's world shows nothing
// yet: one as new as ours stands, an older one is followed by ours, and neither keeps the tables beside them from the store.
func TestASlotTableOfAnotherReplicaStands(t *testing.T) {
	p, c := covering(t)
	for n, generation := range []uint64{5, 4} {
		o, err := slotObject(slotTable(n, generation, 99))
		if err == nil {
			_, err = c.objects.Put(t.Context(), o, store.MustNotExist())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		p.slots.save(slotTable(n, 5, 1))
	}
	flush(t, p)
	for n, want := range []byte{99, 1, 1} {
		if table, _ := stood(t, p, n); table.Generation != 5 || table.Slots[0].Addr().As4()[3] != want {
			t.Errorf("table %d: %+v is stored, want generation 5 of 10.0.0.%d", n, table, want)
		}
	}
}

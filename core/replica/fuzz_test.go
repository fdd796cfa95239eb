package replica_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tape turns fuzzed bytes into messages: mostly plausible ones, for an arbitrary
// message is refused at its first field.
type tape struct{ b []byte }

func (t *tape) next() int {
	if len(t.b) == 0 {
		return 0
	}
	n := t.b[0]
	t.b = t.b[1:]
	return int(n)
}

func (t *tape) position() mesh.Position {
	return mesh.Position{Epoch: mesh.Epoch{StartMillis: int64(t.next() % 4), ID: "e"}, Revision: int64(t.next()) - 10}
}

func (t *tape) name() replica.Name {
	n := replica.Name{Kind: []mesh.Kind{"AccessPolicy", "RemoteService", "Mesh", "", "Cluster"}[t.next()%5], Namespace: "shop", Name: string(rune('a' + t.next()%8))}
	if t.next() == 255 {
		n.Name = strings.Repeat("x", 400) + "/\x00"
	}
	return n
}

func (t *tape) resource() *replica.Resource {
	switch t.next() {
	case 255:
		return nil
	case 254:
		return &replica.Resource{Name: t.name()}
	case 253:
		return replica.NewResource(t.name(), t.position(), mesh.Stamp{Origin: "us-east"}, [16]byte{}, make([]byte, replica.MaxBody+1))
	case 252:
		return replica.NewGone(t.name(), t.position(), mesh.Stamp{WallMillis: int64(t.next()), Origin: "us-east"})
	}
	return replica.NewResource(t.name(), t.position(), mesh.Stamp{WallMillis: int64(t.next()) << 12, Origin: "us-east"}, [16]byte{}, t.b[:min(3, len(t.b))])
}

func (t *tape) lineage() replica.Lineage {
	l := replica.Lineage{}
	for range t.next() % 20 {
		p := t.position()
		l[mesh.Epoch{StartMillis: p.Epoch.StartMillis, ID: string(rune('a' + t.next()%26))}] = p.Revision
	}
	return l
}

func (t *tape) down(seq, sync uint64, root replica.Digest) replica.Down {
	if t.next() > 240 {
		seq = uint64(t.next())
	}
	switch t.next() % 8 {
	case 0:
		return &replica.Hello{Seq: seq, Protocol: t.next() % 3, Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local", Position: t.position()}
	case 1:
		return &replica.Enumerate{Seq: seq, Sync: sync, Buckets: t.b}
	case 2:
		return &replica.Heartbeat{Seq: seq, Beat: int64(t.next()) << 13, Position: t.position(), Settled: t.next()%2 == 0, Root: root, Awaiting: uint64(t.next() % 4), Report: t.b}
	case 3:
		return nil
	}
	r := &replica.Response{Seq: seq, Sync: sync, Nonce: uint64(t.next()), Position: t.position(), Last: t.next()%2 == 0, Lineage: t.lineage(), Root: root}
	for range t.next() % 6 {
		r.Set = append(r.Set, t.resource())
	}
	for range t.next() % 3 {
		r.Removed = append(r.Removed, t.name())
	}
	return r
}

// FuzzImporter: no sequence of messages makes an importer panic, go back in time,
// hold more than its limits, or lose what it holds without being told to.
func FuzzImporter(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x01\x20hello and then some bytes to be turned into messages of every kind"))
	f.Add([]byte{0, 0, 1, 1, 20, 0, 5, 1, 1, 30, 0, 0, 2, 0, 0, 3, 0, 1, 1, 9, 9, 9, 0, 1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, b []byte) {
		tp := &tape{b}
		im := replica.NewImporter(replica.ImporterConfig{Owner: "us-east", TrustDomain: "us-east.isthmus.local",
			Limits: replica.Limits{Resources: 12, Bytes: 8 << 10}, Without: replica.Defence(tp.next()) & replica.DefenceDigest}, nil)
		now := time.UnixMilli(1 << 20)
		seq, sync, session := uint64(0), uint64(0), uint64(0)
		var root replica.Digest
		at := im.InForce().Position
		for range 200 {
			if len(tp.b) == 0 {
				return
			}
			var rd replica.Ready
			switch c := tp.next(); {
			case im.Status().Session == 0 || c == 255:
				session++
				seq = 0
				rd = im.Connect(now, session, "us-east")
				rd2 := im.Step(now, session, &replica.Hello{Seq: 1, Protocol: 1, Server: "us-east", Owner: "us-east", TrustDomain: "us-east.isthmus.local", Position: tp.position()})
				seq, rd.Send = 1, append(rd.Send, rd2.Send...)
			case c > 250:
				now = now.Add(time.Duration(tp.next()) * 100 * time.Millisecond)
				rd = im.Tick(now)
			default:
				seq++
				if m := tp.down(seq, sync, root); m != nil {
					rd = im.Step(now, session, m)
				} else {
					seq--
				}
			}
			for _, u := range rd.Send {
				if s, ok := u.(*replica.Subscribe); ok {
					sync = s.Sync
				}
			}
			if rd.Redial != "" {
				im.Disconnect(now, session)
			}
			p := im.InForce()
			if p.Position.Compare(at) < 0 {
				t.Fatalf("went from %v back to %v", at, p.Position)
			}
			at = p.Position
			if p.Len() > 2*12 || im.Stated().Len() > 12 || im.Have().Len() > 4*12 {
				t.Fatalf("%d in force, %d stated, %d with staged: the limit is 12", p.Len(), im.Stated().Len(), im.Have().Len())
			}
			root = im.Have().Root()
		}
	})
}

// FuzzExporter: no sequence of messages makes an exporter panic or send more than one
// response without an acknowledgement of the last.
func FuzzExporter(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03 subscribe, versions, ack, witness and so on"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tp := &tape{b}
		p := replica.NewPartition("us-east").At(mesh.Position{Epoch: mesh.Epoch{StartMillis: 2, ID: "e"}, Revision: 40}, nil)
		ex := replica.NewExporter(replica.ExporterConfig{Server: "us-east", Owner: "us-east", Limits: replica.Limits{Resources: 40}, ResponseBytes: 300}, p)
		ex.Open(time.UnixMilli(1 << 20))
		var sync, nonce uint64
		for range 200 {
			if len(tp.b) == 0 {
				return
			}
			var o replica.Out
			switch tp.next() % 6 {
			case 0:
				sync++
				s := &replica.Subscribe{Protocol: 1, Sync: sync, Known: tp.position()}
				s.Digests[tp.next()] = replica.Digest{byte(tp.next())}
				o = ex.Step(s)
			case 1:
				v := &replica.Versions{Sync: sync, Buckets: tp.b[:min(len(tp.b), 40)]}
				for range tp.next() % 30 {
					v.Held = append(v.Held, replica.Held{Name: tp.name()})
				}
				o = ex.Step(v)
			case 2:
				o = ex.Step(&replica.Ack{Sync: sync, Nonce: nonce + uint64(tp.next()%2), Error: []string{"", "no"}[tp.next()%2]})
			case 3:
				o = ex.Step(&replica.Witness{ID: uint64(tp.next()), Part: tp.next() - 3, Parts: tp.next(), Crossed: tp.lineage(), Orphans: []*replica.Resource{tp.resource()}})
			case 4:
				at := p.Position
				at.Revision++
				if r := tp.resource(); r != nil {
					p = p.With([]*replica.Resource{r}, nil)
				}
				p = p.At(at, nil)
				o = ex.Publish(p)
			case 5:
				o = ex.Step(nil)
			}
			responses := 0
			for _, m := range o.Send {
				if r, ok := m.(*replica.Response); ok {
					responses++
					nonce = r.Nonce
				}
			}
			if responses > 1 {
				t.Fatalf("%d responses at once", responses)
			}
		}
	})
}

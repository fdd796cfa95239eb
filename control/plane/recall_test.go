package plane

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// disk is the disk of a plane's own store.
type disk struct {
	t    *testing.T
	p    *Plane
	data string
}

// stop stops the store's process where it is, all but for good, and returns it.
func (d disk) stop() (pid int) {
	d.t.Helper()
	within(d.t, "stopped", func() bool {
		b, err := os.ReadFile(d.p.cfg.path("store.pid"))
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return err == nil && syscall.Kill(pid, syscall.SIGSTOP) == nil
	})
	within(d.t, "stopped in all threads", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err == nil && strings.Contains(string(b), ") T ")
	})
	return pid
}

// copy keeps the disk as it is now.
func (d disk) copy() {
	d.t.Helper()
	pid := d.stop()
	out, err := exec.Command("cp", "-a", d.data, d.data+".old").CombinedOutput()
	if err = errors.Join(err, syscall.Kill(pid, syscall.SIGCONT)); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
}

// putBack puts the copy in the disk's place; the store ends and starts on it.
func (d disk) putBack() {
	d.t.Helper()
	pid := d.stop()
	err := errors.Join(os.Rename(d.data, d.data+".lost"), os.Rename(d.data+".old", d.data), syscall.Kill(pid, syscall.SIGKILL))
	if err != nil {
		d.t.Fatal(err)
	}
}

func accessPolicy(name string) store.Key {
	return store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: name}
}

// watched looks for a moment at which a policy is not in force, until it is asked for the count of them.
func (p *Plane) watched(t *testing.T, name string) (missed func() int) {
	ctx, stop := context.WithCancel(t.Context())
	n := 0
	var done sync.WaitGroup
	done.Go(func() {
		for last := false; !last; {
			last = ctx.Err() != nil // and looks once more
			if !p.holds(name) {
				n++
			}
			<-time.After(100 * time.Microsecond)
		}
	})
	return func() int { stop(); done.Wait(); return n }
}

// TestNothingIsLoosenedByAStoreThatWasPutBack has nobody but the process itself that knows what the store lost. The control forgets it, as
// the product did.
func TestNothingIsLoosenedByAStoreThatWasPutBack(t *testing.T) {
	for name, forgets := range map[string]bool{"recalled": false, "control: forgotten": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := stored(t)
			p.recover.forgets.Store(forgets)
			d := disk{t, p, p.cfg.path("store")}
			p.write(t, "kept")
			p.write(t, "deleted")
			old := p.write(t, "edited")
			within(t, "written", func() bool { return p.holds("kept") && p.holds("deleted") && p.holds("edited") })
			d.copy()
			edited := p.write(t, "edited")
			later := p.write(t, "later")
			if _, err := p.Objects().Delete(t.Context(), accessPolicy("deleted"), store.Any()); err != nil {
				t.Fatal(err)
			}
			within(t, "written", func() bool { return p.stamp("edited") == edited.Stamp && p.holds("later") && !p.holds("deleted") })
			before, missed := *p.position.Load(), p.watched(t, "later")
			d.putBack()
			began := time.Now()
			within(t, "in another history", func() bool { return p.exports.Position().Epoch.Newer(before.Epoch) })
			t.Logf("noticed, and another history begun, %v after an older store was there", time.Since(began).Round(time.Millisecond))
			misses := missed()
			if forgets {
				if misses == 0 || p.holds("later") || p.stamp("edited") != old.Stamp || !p.holds("deleted") {
					t.Error("what the store lost is in force, although nobody remembers it")
				}
				return
			}
			if misses > 0 || !p.holds("later") || p.stamp("edited") != edited.Stamp || p.holds("deleted") || !p.holds("kept") {
				t.Errorf("absent %d times; later %v, edited %v (before %v), deleted %v, kept %v: want all as it was", misses, p.holds("later"), p.stamp("edited"), edited.Stamp, p.holds("deleted"), p.holds("kept"))
			}
			if r := p.exports.To("us").Get(later.Name); r == nil || r.Gone || r.Stamp != later.Stamp {
				t.Errorf("peers are told %+v of it", r)
			}
			o, err := p.store.Get(t.Context(), accessPolicy("later"))
			if stamp, _ := object.StampOf(o); err != nil || stamp != later.Stamp {
				t.Errorf("the store has it with stamp %v (%v), want %v", stamp, err, later.Stamp)
			}
			if l, _, err := p.readLineage(t.Context()); err != nil || l[before.Epoch] != before.Revision {
				t.Errorf("lineage %v, %v: want the lost history up to %d", l, err, before.Revision)
			}

			// What is deleted from here on stays so, also when yet another history begins.
			if _, err := p.Objects().Delete(t.Context(), accessPolicy("later"), store.Any()); err != nil {
				t.Fatal(err)
			}
			within(t, "deleted", func() bool { return !p.holds("later") })
			at := *p.position.Load()
			p.recover.ahead(t.Context(), "us", mesh.Position{Epoch: at.Epoch, Revision: at.Revision + 1000})
			within(t, "in a third history", func() bool { return p.exports.Position().Epoch.Newer(at.Epoch) })
			if p.holds("later") || !p.holds("edited") {
				t.Errorf("deleted since: in force %v; edited: in force %v", p.holds("later"), p.holds("edited"))
			}
		})
	}
}

// stamp is that of a policy as the world has it.
func (p *Plane) stamp(name string) mesh.Stamp {
	f, ok := p.loop.World().Get(mesh.Key{Kind: mesh.KindAccessPolicy, Origin: "eu", Namespace: "shop", Name: name})
	if !ok {
		return mesh.Stamp{}
	}
	return f.Stamp
}

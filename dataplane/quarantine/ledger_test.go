package quarantine_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/quarantine"
	"github.com/isthmus-mesh/isthmus/xds"
)

// disk is what processes leave to one another, and now the time of all of them.
type disk struct {
	t     *testing.T
	path  string
	key   []byte
	now   time.Time
	log   bytes.Buffer
	force map[string]xds.Resource
	// former is what the snapshot has of the ledger.
	former []xds.Resource
}

func newDisk(t *testing.T) *disk {
	return &disk{t: t, path: filepath.Join(t.TempDir(), "taken"), key: bytes.Repeat([]byte{7}, 32), now: time.UnixMilli(1_800_000_000_000), force: map[string]xds.Resource{}}
}

// start is a process that begins: its ledger, with what the snapshot held put in force or replaced.
func (d *disk) start() *quarantine.Ledger {
	l := quarantine.Open(quarantine.Config{Path: d.path, Key: d.key, Now: func() time.Time { return d.now }, Log: slog.New(slog.NewTextHandler(&d.log, nil))})
	d.t.Cleanup(l.Close)
	var all []xds.Resource
	for _, r := range d.force {
		all = append(all, r)
	}
	clear(d.force)
	for _, r := range l.Instead(all, d.former) {
		d.force[r.Name] = r
	}
	return l
}

// tell is a control plane that says a version; false if it is refused.
func (d *disk) tell(l *quarantine.Ledger, name, version string) bool {
	d.t.Helper()
	r := xds.Resource{Type: "service", Name: name, Version: version}
	l.Takes([]xds.Resource{r}, func(n string) (xds.Resource, bool) { r, ok := d.force[n]; return r, ok })
	if err := l.Held(&r); err != nil {
		if !errors.Is(err, quarantine.ErrHeld) {
			d.t.Errorf("%v does not wrap ErrHeld", err)
		}
		return false
	}
	d.force[name] = r
	d.former = l.Former()
	return true
}

// crash is the end of a process, as the runtime reports it.
func (d *disk) crash(report string) {
	d.t.Helper()
	err := os.WriteFile(d.path+".crash", []byte(report), 0o600)
	if err == nil {
		err = os.Chtimes(d.path+".crash", d.now, d.now)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

const panicked = "panic: a fault\n\ngoroutine 1 [running]:\n"

// worked is a process that has been told of shop/a and shop/b, and worked for an hour.
func worked(t *testing.T) (*disk, *quarantine.Ledger) {
	d := newDisk(t)
	l := d.start()
	d.tell(l, "shop/a", "a1")
	d.tell(l, "shop/b", "b1")
	d.now = d.now.Add(time.Hour)
	return d, l
}

func TestTwoCrashesHoldWhatCameBefore(t *testing.T) {
	d, l := worked(t)
	if !d.tell(l, "shop/a", "a2") || !d.tell(l, "shop/new", "n1") {
		t.Fatal("a version is held before anything crashed")
	}
	d.now = d.now.Add(5 * time.Second)
	d.crash(panicked)
	l = d.start()
	if d.force["shop/a"].Version != "a2" || !d.tell(l, "shop/a", "a2") {
		t.Error("one crash holds a version")
	}
	d.now = d.now.Add(40 * time.Second)
	d.crash(panicked)
	for _, b := range []string{"b1", "b2"} { // it stays held over a restart in order
		l = d.start()
		if got := fmt.Sprint(d.force); !strings.Contains(got, "a1") || strings.Contains(got, "a2") || strings.Contains(got, "n1") || !strings.Contains(got, b) {
			t.Fatalf("after two crashes in force is %s: want a1, %s and no more", got, b)
		}
		if d.tell(l, "shop/a", "a2") || d.tell(l, "shop/new", "n1") {
			t.Error("what two crashes came after is put in force once more")
		}
		if !d.tell(l, "shop/b", "b2") {
			t.Error("a version that came later is held")
		}
	}
	if !d.tell(l, "shop/a", "a3") {
		t.Error("another version of a resource is held")
	}
	if l = d.start(); !d.tell(l, "shop/a", "a2") || d.tell(l, "shop/new", "n1") {
		t.Error("what was held, replaced and comes again is held; or the other was let go with it")
	}
	if b, err := os.ReadFile(d.path + ".crash.last"); err != nil || string(b) != panicked {
		t.Errorf("the report of the crash is not kept for people: %q, %v", b, err)
	}
	if !strings.Contains(d.log.String(), "panic: a fault") {
		t.Errorf("the log does not say why it crashed: %s", d.log.String())
	}
}

// TestWhatDiesBeforeItIsKeptIsHeld is of a version that crashes the process before a snapshot has it.
func TestWhatDiesBeforeItIsKeptIsHeld(t *testing.T) {
	d, l := worked(t)
	kept := d.force["shop/a"]
	for range 2 {
		d.tell(l, "shop/a", "a2")
		d.force["shop/a"], d.former = kept, nil // nothing of it reached the snapshot
		d.crash(panicked)
		d.now = d.now.Add(time.Second)
		l = d.start()
	}
	if d.tell(l, "shop/a", "a2") || d.force["shop/a"].Version != "a1" {
		t.Errorf("in force is %s, and a2 is not held", d.force["shop/a"].Version)
	}
}

// TestWhatProvedItselfIsServed: of versions that followed each other within a minute, what serves on is the one from before that.
// TestWhatDiesOnceBeforeItIsKept: the first process ends before the version is in a snapshot, the second after: what was in force before is
// known to the third all the same.
func TestWhatDiesOnceBeforeItIsKept(t *testing.T) {
	d, l := worked(t)
	kept := d.force["shop/a"]
	d.tell(l, "shop/a", "a2")
	d.force["shop/a"], d.former = kept, nil // so it was written last
	d.crash(panicked)
	l = d.start()
	d.tell(l, "shop/a", "a2")
	d.now = d.now.Add(time.Second)
	d.crash(panicked)
	d.start()
	if got := d.force["shop/a"].Version; got != "a1" {
		t.Errorf("after two crashes %q is in force, want a1", got)
	}
}

func TestWhatProvedItselfIsServed(t *testing.T) {
	d, l := worked(t)
	for _, v := range []string{"a2", "a3", "a4"} {
		d.tell(l, "shop/a", v)
		d.now = d.now.Add(10 * time.Second)
	}
	for range 2 {
		d.crash(panicked)
		l = d.start()
		d.now = d.now.Add(time.Second)
	}
	if d.force["shop/a"].Version != "a1" || d.tell(l, "shop/a", "a4") {
		t.Errorf("in force is %q, want a1, and a4 held", d.force["shop/a"].Version)
	}
}

// TestWhatIsNoCrashLoop holds nothing: each is a control of TestTwoCrashesHoldWhatCameBefore.
func TestWhatIsNoCrashLoop(t *testing.T) {
	for what, run := range map[string]func(d *disk, l *quarantine.Ledger) *quarantine.Ledger{
		"killed twice": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			d.start()
			return d.start()
		},
		"crashes that are far apart": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			d.crash(panicked)
			d.start()
			d.now = d.now.Add(2 * quarantine.Window)
			d.crash(panicked)
			return d.start()
		},
		"somebody asked for the stacks": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			for range 2 {
				d.crash("SIGQUIT: quit\nPC=0x1 m=0\n")
				l = d.start()
			}
			return l
		},
		"an older version": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			d.now = d.now.Add(90 * time.Second)
			for range 2 {
				d.crash(panicked)
				l = d.start()
				d.now = d.now.Add(time.Second)
			}
			return l
		},
		"notes of another key": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			d.crash(panicked)
			d.start()
			d.crash(panicked)
			d.key = bytes.Repeat([]byte{8}, 32)
			return d.start()
		},
		"notes that are torn": func(d *disk, l *quarantine.Ledger) *quarantine.Ledger {
			d.crash(panicked)
			d.start()
			b, err := os.ReadFile(d.path)
			if err == nil {
				err = os.WriteFile(d.path, bytes.ReplaceAll(b, []byte("\n"), []byte("x\n")), 0o600)
			}
			if err != nil {
				d.t.Fatal(err)
			}
			d.crash(panicked)
			return d.start()
		},
	} {
		d, l := worked(t)
		d.tell(l, "shop/a", "a2")
		l = run(d, l)
		if d.force["shop/a"].Version != "a2" || !d.tell(l, "shop/a", "a2") {
			t.Errorf("%s: in force is %q", what, d.force["shop/a"].Version)
		}
	}
}

// TestAProxyThatNeverWorkedHoldsNothing: there is nothing that it could serve instead.
func TestAProxyThatNeverWorkedHoldsNothing(t *testing.T) {
	d := newDisk(t)
	l := d.start()
	for range 3 {
		d.tell(l, "shop/a", "a1")
		d.crash(panicked)
		l = d.start()
		d.now = d.now.Add(time.Second)
	}
	if !d.tell(l, "shop/a", "a1") {
		t.Error("a proxy without anything before holds all that there is")
	}
}

func TestNotesAreBounded(t *testing.T) {
	d, l := worked(t)
	for i := range 50_000 {
		d.tell(l, "shop/a", fmt.Sprint("a", i))
		d.now = d.now.Add(50 * time.Millisecond)
	}
	info, err := os.Stat(d.path)
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("the file has %d octets, %v", info.Size(), err)
	}
	if n := len(l.Former()); n > 1 {
		t.Errorf("of one resource %d are kept", n)
	}
}

// TestADiskThatTakesNothingCostsTheQuarantineOnly.
func TestADiskThatTakesNothingCostsTheQuarantineOnly(t *testing.T) {
	d := newDisk(t)
	d.path = filepath.Join(d.path, "no", "such", "folder")
	l := d.start()
	if !d.tell(l, "shop/a", "a1") || l.Watch() == nil {
		t.Error("what cannot be noted is not put in force, or the watch says nothing")
	}
	if !strings.Contains(d.log.String(), "cannot be noted") {
		t.Errorf("the log says nothing of it: %q", d.log.String())
	}
	var none *quarantine.Ledger
	if !d.tell(none, "shop/a", "a2") {
		t.Error("a proxy without a snapshot takes nothing")
	}
}

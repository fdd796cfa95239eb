package quarantine

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/xds"
)

// ErrHeld is what Held returns for a version that is held.
var ErrHeld = errors.New("quarantined")

// Window is how near two crashes must be, and how young a version, for the one to be held for the other.
const Window = time.Minute

// most bounds the file of notes, in bytes, before what is old in it is dropped; reportMost what is read of a crash's report.
const (
	most       = 1 << 20
	reportMost = 64 << 10
)

// Config says where a Ledger is kept.
type Config struct {
	// Path is that of the notes; the report of a crash lies beside it, with the suffix ".crash". "" keeps nothing.
	Path string
	// Key authenticates notes, so that who writes to the disk cannot have a version held; secret.
	Key []byte
	Now func() time.Time
	Log *slog.Logger
}

// A Ledger knows which versions this proxy was told of lately, what was in force before them, and which are held. A nil Ledger
// holds and notes nothing. It is safe for concurrent use.
type Ledger struct {
	cfg  Config
	seal sealer

	mu      sync.Mutex
	file    *os.File // nil: notes cannot be written, which has been said
	size    int
	dropAt  int // the size at which old notes are dropped
	lasting bool
	taken   map[name]taken
	held    map[name]string // the version
	last    time.Time       // when a process crashed; zero: none is known to have
}

// name is a resource's, among all types.
type name struct{ typ, name string }

// taken is the version that came last, when, and the resource that was in force for a Window before it.
type taken struct {
	version string
	at      time.Time
	former  xds.Resource
}

// Open reads the notes of the processes before this one. A crash of the last that is not noted yet is, and may have versions held.
// What cannot be read or written is said and costs the quarantine, not the proxy.
func Open(cfg Config) *Ledger {
	if cfg.Path == "" {
		return nil
	}
	l := &Ledger{cfg: cfg, seal: newSealer(cfg.Key), taken: map[name]taken{}, held: map[name]string{}, dropAt: most}
	if err := l.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("the notes of what this proxy was told cannot be read; a crash will not be held against any of it", "path", cfg.Path, "error", err)
	}
	if at, what, ok := l.report(); ok {
		l.crashed(at, what)
	}
	l.compact()
	return l
}

// crashed takes a crash in. The caller is Open.
func (l *Ledger) crashed(at time.Time, what string) {
	again, from := !l.last.IsZero() && at.Sub(l.last) <= Window, l.last.Add(-Window)
	l.last = at
	l.cfg.Log.Error("the process before this one crashed", "at", at.UTC().Format(time.RFC3339), "report", l.kept(), "what", what)
	switch {
	case !again:
		return
	case !l.worked(from):
		l.cfg.Log.Error("it crashed twice within a minute, and has never worked for one: nothing is held, for there is nothing to serve instead")
		return
	}
	for n, t := range l.taken {
		if t.at.Before(from) { // all are from before this crash: nothing has been noted since
			continue
		}
		l.held[n] = t.version
		l.cfg.Log.Error("it crashed twice within a minute: this version is held, and the one before it serves on", "type", n.typ, "name", n.name, "version", t.version)
	}
}

// worked reports whether a proxy had been told something by a time, and lived on for a Window.
func (l *Ledger) worked(by time.Time) bool {
	for _, t := range l.taken {
		l.lasting = l.lasting || t.at.Before(by)
	}
	return l.lasting
}

// Held returns an error that wraps ErrHeld if a version is held.
func (l *Ledger) Held(r *xds.Resource) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := l.held[name{r.Type, r.Name}]; !ok || v != r.Version {
		return nil
	}
	return fmt.Errorf("%w: this proxy crashed twice within a minute of taking version %.12s; change the resource, or see %s", ErrHeld, r.Version, l.kept())
}

// Takes notes versions that are about to be put in force, and what they replace: inForce returns that of a name, and false for
// none. It returns when the notes would outlive the process.
func (l *Ledger) Takes(next []xds.Resource, inForce func(name string) (xds.Resource, bool)) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.cfg.Now()
	var b []byte
	for i := range next {
		n := name{next[i].Type, next[i].Name}
		t, current, v := l.taken[n], xds.Resource{}, next[i].Version
		if r, ok := inForce(n.name); ok {
			current = r
		}
		if l.held[n] == v || current.Version == v {
			continue
		}
		delete(l.held, n)
		if now.Sub(t.at) >= Window { // what is in force has proved itself
			t.former = current
		}
		t.version, t.at = v, now
		l.taken[n] = t
		b = l.seal.line(b, noteOf(n, t.version, t.at))
	}
	l.append(b)
}

// Former returns the resources that were in force before versions that have not proved themselves yet. A snapshot has them beside
// what it holds, so that Instead finds them.
func (l *Ledger) Former() []xds.Resource {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
	var out []xds.Resource
	for _, t := range l.taken {
		if t.former.Name != "" {
			out = append(out, t.former)
		}
	}
	return out
}

// Instead returns the resources of a snapshot with those that are held replaced by what was in force before, or left out.
// To be called before anything else uses the Ledger.
func (l *Ledger) Instead(resources, former []xds.Resource) []xds.Resource {
	if l == nil {
		return resources
	}
	before := map[name]xds.Resource{}
	for _, r := range former {
		before[name{r.Type, r.Name}] = r
	}
	var out []xds.Resource
	for _, r := range resources {
		n := name{r.Type, r.Name}
		f, known := before[n]
		switch {
		case l.Held(&r) == nil:
			if t, young := l.taken[n]; young {
				if t.former = f; !known && t.version != r.Version { // the process ended before that version was on the disk
					t.former = r
				}
				l.taken[n] = t
			}
		case known:
			r = f
		default:
			continue
		}
		out = append(out, r)
	}
	return out
}

// Close ends the writing of notes: another process does.
func (l *Ledger) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// forget drops what is known of versions that have proved themselves. The caller holds mu. Twice the Window: a crash asks for the
// minute before the crash before it.
func (l *Ledger) forget() {
	now := l.cfg.Now()
	for n, t := range l.taken {
		if now.Sub(t.at) > 2*Window {
			delete(l.taken, n)
			l.lasting = true
		}
	}
}

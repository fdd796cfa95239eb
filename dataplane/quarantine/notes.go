package quarantine

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// The file of notes has a line each, of which the first 32 hexadecimal digits are the first 16 octets of the HMAC-SHA-256 (RFC 2104) of the rest. A
// line that is torn or false is passed over. Later lines win.
type note struct {
	// Version of Type and Name that is about to be put in force at At, or is Held.
	Type    string `json:"t,omitempty"`
	Name    string `json:"n,omitempty"`
	Version string `json:"v,omitempty"`
	Held    bool   `json:"held,omitempty"`
	// Crash says that a process crashed At; Lasting that one has worked for a Window.
	Crash   bool  `json:"crash,omitempty"`
	Lasting bool  `json:"lasting,omitempty"`
	At      int64 `json:"at,omitempty"` // milliseconds since 1970
}

func noteOf(n name, version string, at time.Time) note {
	return note{Type: n.typ, Name: n.name, Version: version, At: at.UnixMilli()}
}

// sealer makes and checks lines.
type sealer struct{ mac hash.Hash }

const macDigits = 32

func newSealer(key []byte) sealer {
	derived := hmac.New(sha256.New, key)
	derived.Write([]byte("isthmus quarantine"))
	return sealer{hmac.New(sha256.New, derived.Sum(nil))}
}

// code returns the digits that a line of notes begins with.
func (s sealer) code(line []byte) []byte {
	s.mac.Reset()
	s.mac.Write(line)
	return hex.AppendEncode(nil, s.mac.Sum(nil)[:macDigits/2])
}

// line appends a note.
func (s sealer) line(b []byte, n note) []byte {
	body, err := json.Marshal(n)
	if err != nil { // strings, booleans and a number
		panic(err)
	}
	return append(append(append(b, s.code(body)...), body...), '\n')
}

// open returns the note of a line, and false if it is not one of ours.
func (s sealer) open(line []byte) (n note, ok bool) {
	if len(line) < macDigits || !hmac.Equal(line[:macDigits], s.code(line[macDigits:])) {
		return note{}, false
	}
	return n, json.Unmarshal(line[macDigits:], &n) == nil
}

// read takes the notes of the file in.
func (l *Ledger) read() error {
	f, err := os.Open(l.cfg.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		n, ok := l.seal.open(lines.Bytes())
		if !ok {
			continue
		}
		id, at := name{n.Type, n.Name}, time.UnixMilli(n.At)
		switch {
		case n.Lasting:
			l.lasting = true
		case n.Crash:
			l.last = at
		case n.Held:
			l.held[id] = n.Version
		default:
			l.taken[id] = taken{version: n.Version, at: at}
			if l.held[id] != n.Version {
				delete(l.held, id)
			}
		}
	}
	return lines.Err()
}

// append writes to the file, and drops what is old in it once it is large. The caller holds mu. What is written is in the page
// cache when it returns: it outlives the process, and need not outlive the machine.
func (l *Ledger) append(b []byte) {
	if l.file == nil || len(b) == 0 {
		return
	}
	if l.size += len(b); l.size > l.dropAt {
		l.compact()
		return // what is new is among what is known
	}
	if _, err := l.file.Write(b); err != nil {
		l.lose(err)
	}
}

// compact writes the notes anew, without what is old. The caller holds mu, or is Open.
func (l *Ledger) compact() {
	now := l.cfg.Now()
	var b []byte
	for n, v := range l.held {
		b = l.seal.line(b, note{Type: n.typ, Name: n.name, Version: v, Held: true, At: now.UnixMilli()})
	}
	if !l.last.IsZero() {
		b = l.seal.line(b, note{Crash: true, At: l.last.UnixMilli()})
	}
	l.forget()
	for n, t := range l.taken {
		if l.held[n] != t.version {
			b = l.seal.line(b, noteOf(n, t.version, t.at))
		}
	}
	if l.lasting {
		b = l.seal.line(b, note{Lasting: true})
	}
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	whole := l.cfg.Path + ".new"
	err := os.WriteFile(whole, b, 0o600)
	if err == nil {
		err = os.Rename(whole, l.cfg.Path)
	}
	if err == nil {
		l.file, err = os.OpenFile(l.cfg.Path, os.O_WRONLY|os.O_APPEND, 0)
	}
	if err != nil {
		l.lose(err)
	}
	l.size, l.dropAt = len(b), max(most, 2*len(b))
}

// lose says that there are no notes from now on.
func (l *Ledger) lose(err error) {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	l.cfg.Log.Warn("what this proxy is told cannot be noted; a crash will not be held against it", "path", l.cfg.Path, "error", err)
}

func (l *Ledger) crash() string { return l.cfg.Path + ".crash" }

// kept is where the report of the last crash lies, for people.
func (l *Ledger) kept() string { return l.crash() + ".last" }

// Watch has the runtime write the report of a crash where the next process looks for it. It is for commands: it is the whole
// process that it is about.
func (l *Ledger) Watch() error {
	if l == nil {
		return nil
	}
	f, err := os.OpenFile(l.crash(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()                                      // the runtime has a descriptor of its own
	return debug.SetCrashOutput(f, debug.CrashOptions{}) // a proxy that replaces another writes to the same file
}

// report returns when the last process crashed, and the first line of why; false if it did not. What it finds it puts aside.
func (l *Ledger) report() (at time.Time, what string, ok bool) {
	f, err := os.Open(l.crash())
	if err != nil {
		return time.Time{}, "", false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return time.Time{}, "", false
	}
	b, err := io.ReadAll(io.LimitReader(f, reportMost))
	if err == nil {
		err = os.Rename(l.crash(), l.kept())
	}
	if err != nil {
		l.cfg.Log.Warn("the report of a crash cannot be read or put aside", "path", l.crash(), "error", err)
		return time.Time{}, "", false
	}
	first, _, _ := bytes.Cut(b, []byte("\n"))
	if what = string(first); strings.HasPrefix(what, "SIGQUIT") || strings.HasPrefix(what, "SIGABRT") {
		return time.Time{}, "", false // somebody asked for the stacks
	}
	return info.ModTime(), what, true
}

package trust_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/trust"
)

// keeperEnv makes the test binary a process that keeps a snapshot at the path that it holds, by
// the way that keeperHow names.
const (
	keeperEnv = "ISTHMUS_TEST_TRUST_SNAPSHOT"
	keeperHow = "ISTHMUS_TEST_TRUST_HOW"
	inPlace   = "in place"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(keeperEnv); path != "" {
		fmt.Fprintln(os.Stderr, keep(path, os.Getenv(keeperHow)))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// keep boots from the snapshot at path and writes the next generations of it, as the agent does,
// until it is killed. It says each generation on standard output when it is written.
func keep(path, how string) error {
	key, err := trust.SealKeyFromFD(3)
	if err != nil {
		return err
	}
	file := trust.SnapshotFile(path, key)
	snap, err := trust.ReadSnapshot(file, time.Now(), time.Hour)
	if err != nil {
		return err
	}
	for {
		snap.Generation++
		snap.Sections = map[string][]byte{"resources": resources(snap.Generation)}
		if how == inPlace {
			err = writeInPlace(path, key, snap)
		} else {
			var got uint64
			if got, err = trust.WriteSnapshot(file, snap, time.Now()); err == nil && got != snap.Generation {
				err = fmt.Errorf("wrote generation %d, want %d", got, snap.Generation)
			}
		}
		if err != nil {
			return err
		}
		fmt.Println(snap.Generation)
	}
}

// resources is what generation g holds: of a size and content of its own, up to 300 KiB.
func resources(g uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, g*0x9e3779b97f4a7c15), int(1+g*7919%38400))
}

// writeInPlace is how a snapshot must not be written: over the bytes of the one before, some at a time.
func writeInPlace(path string, key trust.SealKey, s trust.Snapshot) error {
	aside := trust.SnapshotFile(path+".aside", key)
	if err := errors.Join(os.RemoveAll(aside.Path), os.RemoveAll(aside.Path+".prev")); err != nil { // they raise generations
		return err
	}
	if _, err := trust.WriteSnapshot(aside, s, time.Now()); err != nil {
		return err
	}
	b, err := os.ReadFile(aside.Path)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for len(b) > 0 {
		n := min(len(b), 64)
		if _, err := f.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// killed runs a process that keeps the snapshot of file, kills it with SIGKILL a random time after
// it wrote its first generations, and returns the last one it has said; 0 if none.
func killed(t *testing.T, file *trust.SealedFile, how string) uint64 {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.Write(file.Key.Reveal()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var complaint strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperEnv+"="+file.Path, keeperHow+"="+how)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{r}, &complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	var last uint64
	// A write takes about as long as the one before it: a kill within that time, counted from when one
	// was said, meets every part of the next.
	var took time.Duration
	for range 1 + rand.IntN(3) {
		begin := time.Now()
		if last, err = generation(lines); err != nil {
			break
		}
		took = time.Since(begin)
	}
	if err == nil {
		<-time.After(rand.N(took + 1))
	}
	_ = cmd.Process.Kill()
	for err == nil { // what it had said by then
		var next uint64
		if next, err = generation(lines); err == nil {
			last = next
		}
	}
	_ = cmd.Wait()
	if !errors.Is(err, io.EOF) || cmd.ProcessState.Exited() {
		t.Fatalf("the process that keeps the snapshot: %v, %v: %s", cmd.ProcessState, err, complaint.String())
	}
	return last
}

// generation reads a line that was written to its end: io.EOF if there is none.
func generation(lines *bufio.Reader) (uint64, error) {
	text, err := lines.ReadString('\n')
	if err != nil {
		return 0, io.EOF
	}
	return strconv.ParseUint(strings.TrimSpace(text), 10, 64)
}

// found says what is wrong with what a process left that had said acknowledged.
func found(file *trust.SealedFile, acknowledged uint64) error {
	s, err := trust.ReadSnapshot(file, time.Now(), time.Hour)
	switch {
	case err != nil:
		return err
	case s.FellBack != nil:
		return fmt.Errorf("fell back: %w", s.FellBack)
	case s.Generation != acknowledged && s.Generation != acknowledged+1:
		return fmt.Errorf("generation %d, want %d that was acknowledged or the one after it", s.Generation, acknowledged)
	case !bytes.Equal(s.Sections["resources"], resources(s.Generation)):
		return fmt.Errorf("generation %d does not hold what was written", s.Generation)
	}
	_, err = s.SVID()
	return err
}

func firstSnapshot(t *testing.T) *trust.SealedFile {
	t.Helper()
	file := trust.SnapshotFile(filepath.Join(t.TempDir(), "snapshot"), trust.NewSealKey())
	s := newSnapshot(t)
	s.Sections = map[string][]byte{"resources": resources(1)}
	if g, err := trust.WriteSnapshot(file, s, time.Now()); err != nil || g != 1 {
		t.Fatalf("generation %d, %v", g, err)
	}
	return file
}

// TestASnapshotOfAKilledProcessReads kills the process that writes snapshots with SIGKILL, at random
// instants: each time the file is whole, is a generation that was written, and is not older than the
// last one that was acknowledged; the next process boots from it. (What a loss of power leaves is not
// tested here: the page cache outlives a process.)
func TestASnapshotOfAKilledProcessReads(t *testing.T) {
	file := firstSnapshot(t)
	later := 0
	for i := range 120 {
		acknowledged := killed(t, file, "")
		if err := found(file, acknowledged); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if s, err := file.Read(); err == nil && s.Generation > acknowledged {
			later++
		}
	}
	t.Logf("%d of 120 processes were killed between a write and its acknowledgement", later)
}

// TestASnapshotWrittenInPlaceIsTorn is the control run: the same kills tear a file that is written
// over itself.
func TestASnapshotWrittenInPlaceIsTorn(t *testing.T) {
	file := firstSnapshot(t)
	for range 120 {
		err := found(file, killed(t, file, inPlace))
		if fault := sealFault(err); fault == trust.SealTruncated || fault == trust.SealForeign {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("120 kills tore no file that is written in place: they prove nothing")
}

package trust_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func sealedFile(t testing.TB) *trust.SealedFile {
	t.Helper()
	return &trust.SealedFile{Path: filepath.Join(t.TempDir(), "x"), Key: trust.NewSealKey(), Purpose: "test"}
}

func write(t testing.TB, f *trust.SealedFile, payload string) uint64 {
	t.Helper()
	g, err := f.Write([]byte(payload), 0, time.UnixMilli(1000))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// wantRead checks what Read returns; fellBack is the fault of the newest file.
func wantRead(t testing.TB, f *trust.SealedFile, payload string, fellBack trust.SealFault) {
	t.Helper()
	s, err := f.Read()
	if err != nil || string(s.Payload) != payload {
		t.Errorf("read %q, %v, want %q", s.Payload, err, payload)
		return
	}
	if got := sealFault(s.FellBack); got != fellBack {
		t.Errorf("fell back because of %q (%v), want %q", got, s.FellBack, fellBack)
	}
}

func sealFault(err error) trust.SealFault {
	var e *trust.SealError
	if errors.As(err, &e) {
		return e.Fault
	}
	return ""
}

func TestASealedFileReadsAsWritten(t *testing.T) {
	f := sealedFile(t)
	if _, err := f.Read(); !errors.Is(err, fs.ErrNotExist) || sealFault(err) != trust.SealMissing {
		t.Errorf("before the first write: %v", err)
	}
	for i, payload := range []string{"one", "two", "", "four"} {
		if g := write(t, f, payload); g != uint64(i+1) {
			t.Errorf("write %d: generation %d", i, g)
		}
		wantRead(t, f, payload, "")
		info, err := os.Stat(f.Path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
		}
	}
	if g, err := f.Write(nil, 100, time.UnixMilli(0)); err != nil || g != 100 {
		t.Errorf("floor 100: generation %d, %v", g, err)
	}
	if g := write(t, f, "x"); g != 101 {
		t.Errorf("after generation 100: %d", g)
	}
	names, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil || len(names) != 2 {
		t.Errorf("left %v, %v, want the file and the one before it", names, err)
	}
	write(t, f, "a marker in plain text")
	if data, err := os.ReadFile(f.Path); err != nil || bytes.Contains(data, []byte("marker")) {
		t.Errorf("the payload stands in plain text (%v)", err)
	}
}

// TestEveryDamageIsDetected flips each bit of each byte, cuts at each length, and
// appends.
func TestEveryDamageIsDetected(t *testing.T) {
	f := sealedFile(t)
	write(t, f, "the newest")
	good, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	damage := func(what string, data []byte) {
		t.Helper()
		n++
		if err := os.WriteFile(f.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := f.Read()
		if err == nil || sealFault(err) == "" {
			t.Errorf("%s: read %q, %v", what, s.Payload, err)
		}
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			damage(fmt.Sprintf("byte %d bit %d", i, bit), bad)
		}
		damage(fmt.Sprintf("cut to %d bytes", i), good[:i])
	}
	damage("one byte more", append(bytes.Clone(good), 0))
	damage("twice", append(bytes.Clone(good), good...))
	for range 200 {
		bad := bytes.Clone(good)
		i, j := rand.IntN(len(bad)), rand.IntN(len(bad))
		bad[i], bad[j] = bad[j], bad[i]
		if !bytes.Equal(bad, good) {
			damage(fmt.Sprintf("bytes %d and %d swapped", i, j), bad)
		}
	}
	t.Logf("%d damages of %d bytes looked at", n, len(good))
}

func TestADamagedFileFallsBackToTheOneBefore(t *testing.T) {
	f := sealedFile(t)
	write(t, f, "one")
	write(t, f, "two")
	if err := os.Truncate(f.Path, 100); err != nil {
		t.Fatal(err)
	}
	wantRead(t, f, "one", trust.SealTruncated)
	// The next write does not let the damaged file push out the good one, and its
	// generation is later than what was read.
	if g := write(t, f, "three"); g < 2 {
		t.Errorf("generation %d after 1", g)
	}
	wantRead(t, f, "three", "")
	if err := os.WriteFile(f.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRead(t, f, "one", trust.SealForeign)
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	wantRead(t, f, "one", trust.SealMissing)
	if err := os.Truncate(f.Path+".prev", 3); err != nil {
		t.Fatal(err)
	}
	// Both gone, one of them not by absence: that is no first start.
	if _, err := f.Read(); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one damaged, one missing: %v", err)
	}
}

func TestAFileOfAnotherKeyOrPurposeIsNotOpened(t *testing.T) {
	f := sealedFile(t)
	write(t, f, "x")
	for name, other := range map[string]trust.SealedFile{
		"key":     {Path: f.Path, Key: trust.NewSealKey(), Purpose: f.Purpose},
		"purpose": {Path: f.Path, Key: f.Key, Purpose: "other"},
		"no key":  {Path: f.Path, Purpose: f.Purpose},
	} {
		if _, err := other.Read(); sealFault(err) != trust.SealKeyWrong {
			t.Errorf("another %s: %v", name, err)
		}
	}
	none := trust.SealedFile{Path: f.Path + "2", Purpose: "x"}
	if _, err := none.Write(nil, 0, time.Now()); err == nil {
		t.Error("sealed without a key")
	}
}

func TestAFailedWriteLeavesTheOldFileInForce(t *testing.T) {
	for _, point := range trust.SealPoints() {
		for _, before := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s after %d", point, before), func(t *testing.T) {
				f := sealedFile(t)
				f.Points = failpoint.New(trust.SealPoints()...)
				for i := range before {
					write(t, f, fmt.Sprint("old ", i))
				}
				old := fmt.Sprint("old ", before-1)
				if err := f.Points.Enable(point, failpoint.Error(syscall.ENOSPC)); err != nil {
					t.Fatal(err)
				}
				if _, err := f.Write([]byte("new"), 0, time.Now()); !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("write: %v, want ENOSPC", err)
				}
				if point == trust.PointSealDirSync {
					old = "new" // renamed already; only its durability is unknown
				}
				wantRead(t, f, old, "")
				f.Points.Disable(point)
				write(t, f, "newer")
				wantRead(t, f, "newer", "")
			})
		}
	}
}

// TestADeathInAWriteLeavesAFileThatReads leaves the files as a kill at each point
// does: without the clean-up that an error gets.
func TestADeathInAWriteLeavesAFileThatReads(t *testing.T) {
	type killed struct{}
	for _, point := range trust.SealPoints() {
		f := sealedFile(t)
		f.Points = failpoint.New(trust.SealPoints()...).WithExit(func(int) { panic(killed{}) })
		write(t, f, "one")
		write(t, f, "two")
		if err := f.Points.Enable(point, failpoint.Exit(9)); err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if _, ok := recover().(killed); !ok {
					t.Errorf("%s was not reached", point)
				}
			}()
			_, _ = f.Write([]byte("three"), 0, time.Now())
		}()
		s, err := f.Read()
		want := "two"
		if point == trust.PointSealDirSync {
			want = "three"
		}
		if err != nil || string(s.Payload) != want || s.FellBack != nil {
			t.Errorf("killed at %s: read %q, %v, fell back %v; want %q", point, s.Payload, err, s.FellBack, want)
		}
		f.Points.Disable(point)
		if g := write(t, f, "four"); g <= s.Generation {
			t.Errorf("killed at %s: generation %d after %d", point, g, s.Generation)
		}
		wantRead(t, f, "four", "")
	}
}

func TestAFullDiskLeavesTheOldFileInForce(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("mounting a small disk takes root, which CI's user is")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := &trust.SealedFile{Path: filepath.Join(dir, "x"), Key: trust.NewSealKey(), Purpose: "test"}
	write(t, f, "old")
	if _, err := f.Write(make([]byte, 1<<20), 0, time.Now()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("1 MiB onto 256 KiB: %v, want ENOSPC", err)
	}
	wantRead(t, f, "old", "")
	write(t, f, "new") // the failed attempt holds no space
	wantRead(t, f, "new", "")
}

func TestASealKeyComesFromADescriptor(t *testing.T) {
	want := trust.NewSealKey()
	give := func(b []byte) int {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		w.Close()
		fd, err := syscall.Dup(int(r.Fd())) // SealKeyFromFD closes it
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		return fd
	}
	got, err := trust.SealKeyFromFD(give(want.Reveal()))
	if err != nil || !got.Equal(want.Secret) {
		t.Errorf("a pipe with the key: %v", err)
	}
	for name, b := range map[string][]byte{"nothing": nil, "31 bytes": make([]byte, 31), "33 bytes": make([]byte, 33)} {
		if _, err := trust.SealKeyFromFD(give(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := trust.SealKeyFromFD(1 << 20); err == nil {
		t.Error("no descriptor: accepted")
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, want.Reveal(), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := trust.SealKeyFromFD(fd); err != nil || !got.Equal(want.Secret) {
		t.Errorf("a file with the key: %v", err)
	}
}

func newSnapshot(t testing.TB) trust.Snapshot {
	root := newRoot(t, west)
	s := svid(t, root, shop, nil)
	return trust.Snapshot{
		Key: s.Key, Chain: s.Chain,
		Bundles:  []mesh.Bundle{bundle(west, 7, root), bundle(east, 1<<40, newRoot(t, east), newRoot(t, east))},
		Sections: map[string][]byte{"services": []byte("s"), "routes": bytes.Repeat([]byte("r"), 300), "empty": {}},
	}
}

func TestASnapshotReadsAsWritten(t *testing.T) {
	f := trust.SnapshotFile(filepath.Join(t.TempDir(), "snapshot"), trust.NewSealKey())
	want, now := newSnapshot(t), time.UnixMilli(1_800_000_000_000)
	for i := range uint64(3) {
		g, err := trust.WriteSnapshot(f, want, now)
		if err != nil || g != i+1 {
			t.Fatalf("generation %d, %v, want %d", g, err, i+1)
		}
	}
	got, err := trust.ReadSnapshot(f, now.Add(time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s, err := got.SVID()
	if err != nil || s.Identity != shop || !got.Key.Matches(want.Key.Public()) {
		t.Errorf("certificate: %v", err)
	}
	if got.Generation != 3 || !got.Created.Equal(now) || got.FellBack != nil {
		t.Errorf("generation %d, created %v, fell back %v", got.Generation, got.Created, got.FellBack)
	}
	if fmt.Sprint(got.Bundles) != fmt.Sprint(want.Bundles) || fmt.Sprint(got.Sections) != fmt.Sprint(want.Sections) {
		t.Error("bundles or sections differ")
	}
	if _, err := trust.NewBundles(got.Bundles...); err != nil {
		t.Error(err)
	}
	if got.CheckRollback(3) != nil || got.CheckRollback(4) == nil {
		t.Error("a rollback is judged wrongly")
	}
	for _, at := range []time.Duration{-time.Hour, -time.Minute, time.Hour} {
		if _, err := trust.ReadSnapshot(f, now.Add(at), time.Hour); err != nil {
			t.Errorf("%v after it was written: %v", at, err)
		}
	}
	for _, at := range []time.Duration{-time.Hour - time.Millisecond, time.Hour + time.Millisecond} {
		if _, err := trust.ReadSnapshot(f, now.Add(at), time.Hour); sealFault(err) != trust.SealAge {
			t.Errorf("%v after it was written: %v", at, err)
		}
	}
	if _, err := trust.WriteSnapshot(f, trust.Snapshot{}, now); err == nil {
		t.Error("a snapshot without a key was written")
	}
}

// FuzzSealedFileRead: bytes that we did not seal never open, and nothing panics.
func FuzzSealedFileRead(f *testing.F) {
	file := sealedFile(f)
	write(f, file, "payload")
	good, err := os.ReadFile(file.Path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:90])
	f.Add([]byte("isthseal"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := file.Read()
		if bytes.Equal(data, good) {
			if err != nil || string(s.Payload) != "payload" {
				t.Errorf("the good file: %q, %v", s.Payload, err)
			}
		} else if sealFault(err) == "" {
			t.Errorf("opened what was not sealed: %q, %v", s.Payload, err)
		}
	})
}

// FuzzSnapshotContent: authentic bytes of a hostile or later writer either decode to
// what encodes to the same again, or are refused.
func FuzzSnapshotContent(f *testing.F) {
	good, err := trust.EncodeSnapshot(newSnapshot(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{1})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := trust.DecodeSnapshot(payload)
		if err != nil {
			return
		}
		again, err := trust.EncodeSnapshot(s)
		if err != nil {
			t.Fatal(err)
		}
		// The key's PKCS #8 form may have had parts that we do not write; all else has one
		// form.
		if len(again) > len(payload) {
			t.Errorf("%d bytes decoded and encoded to %d", len(payload), len(again))
		}
		if _, err := trust.DecodeSnapshot(again); err != nil {
			t.Errorf("encoded again it does not decode: %v", err)
		}
	})
}

func TestSnapshotContentThatIsCutOrLongerIsRefused(t *testing.T) {
	good, err := trust.EncodeSnapshot(newSnapshot(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.DecodeSnapshot(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := trust.DecodeSnapshot(good[:i]); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
	if _, err := trust.DecodeSnapshot(append(good, 0)); err == nil {
		t.Error("one byte more: accepted")
	}
}

// TestAProxyBootsFromItsSnapshotAlone: no issuer, no control plane; it proves its
// identity and verifies others as before.
func TestAProxyBootsFromItsSnapshotAlone(t *testing.T) {
	e := newEnds(t)
	f := trust.SnapshotFile(filepath.Join(t.TempDir(), "snapshot"), trust.NewSealKey())
	s, err := e.server.Current().Snapshot(map[string][]byte{"routes": []byte("r")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.WriteSnapshot(f, s, time.Now()); err != nil {
		t.Fatal(err)
	}
	if s, err = trust.ReadSnapshot(f, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	e.server = trust.NewSource(clock.Real{})
	if _, err := e.server.Current().Snapshot(nil); err == nil {
		t.Error("a snapshot without a certificate")
	}
	if c, s := handshake(t, e.clientConfig(), e.serverConfig()); c == nil && s == nil {
		t.Error("control: it serves without a snapshot")
	}
	if err := s.Restore(e.server); err != nil {
		t.Fatal(err)
	}
	if c, s := handshake(t, e.clientConfig(), e.serverConfig()); c != nil || s != nil {
		t.Error(c, s)
	}
	s.Chain = nil
	if err := s.Restore(e.server); err == nil {
		t.Error("restored without a certificate")
	}
}

func BenchmarkWriteSnapshot1MiB(b *testing.B) {
	f := trust.SnapshotFile(filepath.Join(b.TempDir(), "snapshot"), trust.NewSealKey())
	s := newSnapshot(b)
	s.Sections["all"] = make([]byte, 1<<20)
	for b.Loop() {
		if _, err := trust.WriteSnapshot(f, s, time.UnixMilli(0)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadSnapshot1MiB(b *testing.B) {
	f := trust.SnapshotFile(filepath.Join(b.TempDir(), "snapshot"), trust.NewSealKey())
	s := newSnapshot(b)
	s.Sections["all"] = make([]byte, 1<<20)
	if _, err := trust.WriteSnapshot(f, s, time.UnixMilli(0)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := trust.ReadSnapshot(f, time.UnixMilli(0), time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}

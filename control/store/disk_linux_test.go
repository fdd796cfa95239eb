package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/isthmus-mesh/isthmus/control/store"
)

// What a disk does with each fsync is the content of a file beside the store's own: nothing, a time by which it is later, the error EIO, or that it says
// that all is well and does nothing. The store's process asks its kernel to be asked itself before each fsync (seccomp_unotify(2)), which takes no right and no
// file system of one's own.
const (
	diskEnv   = "ISTHMUS_TEST_STORE_DISK"
	diskWell  = ""
	diskFails = "fail"
	diskLies  = "lie"
)

// disk says what the disk does from now on.
func (s *server) disk(does string) {
	s.t.Helper()
	// In one step: the other process reads it at any time.
	next := filepath.Join(s.dir, "disk.next")
	if err := errors.Join(os.WriteFile(next, []byte(does), 0o600), os.Rename(next, filepath.Join(s.dir, "disk"))); err != nil {
		s.t.Fatal(err)
	}
}

// met is how many fsyncs met a fault.
func (s *server) met() int {
	b, err := os.ReadFile(filepath.Join(s.dir, "disk.met"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return len(b)
}

// ends waits until the process has ended by itself.
func (s *server) ends() {
	s.t.Helper()
	bound := time.AfterFunc(waitMax, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait() // it ends with an error, and which does not matter
	if !bound.Stop() {
		s.t.Fatalf("the store runs on after %v", waitMax)
	}
	s.cmd = nil
}

// notice and reply are struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notice struct {
	id         uint64
	pid, flags uint32
	data       struct {
		nr, arch int32
		ip       uint64
		args     [6]uint64
	}
}

type reply struct {
	id    uint64
	value int64
	error int32
	flags uint32
}

// faultyDisk has this process's fsyncs do what the file says.
func faultyDisk(dir string) error {
	fd, err := interceptFsync()
	if err != nil {
		return err
	}
	go func() {
		for {
			n := &notice{}
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n))); e == unix.EINTR || e == unix.ENOENT {
				continue
			} else if e != 0 {
				panic(e)
			}
			go answer(fd, dir, n)
		}
	}()
	return nil
}

// answer does what the disk does to one fsync.
func answer(fd uintptr, dir string, n *notice) {
	b, _ := os.ReadFile(filepath.Join(dir, "disk"))
	r := &reply{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	does := string(b)
	if does != diskWell {
		if f, err := os.OpenFile(filepath.Join(dir, "disk.met"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, _ = f.Write([]byte("x"))
			f.Close()
		}
	}
	switch does {
	case diskWell:
	case diskFails:
		r.flags, r.error = 0, -int32(unix.EIO)
	case diskLies:
		r.flags = 0
	default:
		late, err := time.ParseDuration(does)
		if err != nil {
			panic(err)
		}
		<-time.After(late)
	}
	// One that was interrupted asks again, and its first question is void.
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(r))); e != 0 && e != unix.ENOENT {
		panic(e)
	}
}

// interceptFsync puts a filter on all threads, for good, and returns the descriptor on which the kernel asks.
func interceptFsync() (uintptr, error) {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: unix.SYS_FSYNC},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_FDATASYNC},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return 0, fmt.Errorf("seccomp: %w", e)
	}
	return fd, nil
}

// onDisk starts a store whose disk does what it is told.
func onDisk(t *testing.T) *server {
	t.Helper()
	s := newServer(t)
	s.kill()
	s.env = append(s.env, diskEnv+"=1")
	s.start()
	return s
}

// TestASlowDiskDelaysAndLosesNothing: each fsync is 300 ms late. Writes wait for it and are acknowledged, reads and the watch go on, and nothing is lost when the store is killed
// in the middle of it.
func TestASlowDiskDelaysAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := onDisk(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	put(t, st, service("before"), `1`)
	s.disk("300ms")
	var slowest time.Duration
	for i := range 10 {
		began, written := time.Now(), make(chan error, 1)
		go func() {
			_, err := st.Put(t.Context(), store.Object{Key: service(fmt.Sprint("s", i)), Value: []byte(`1`)}, store.Any())
			written <- err
		}()
		if _, err := st.Get(t.Context(), service("before")); err != nil {
			t.Errorf("a read beside a slow write: %v", err)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	if s.met() < 10 {
		t.Errorf("%d fsyncs were late: the test shows nothing", s.met())
	}
	s.kill()
	s.disk(diskWell)
	s.start()
	m.reaches(put(t, st, service("after"), `1`))
	for i := range 10 {
		if _, err := st.Get(t.Context(), service(fmt.Sprint("s", i))); err != nil {
			t.Errorf("an acknowledged write is lost: %v", err)
		}
	}
	m.equals(st)
	if m.resyncs != 1 {
		t.Errorf("the watch lost its place: %d resyncs", m.resyncs)
	}
	t.Logf("fsyncs 300 ms late: the slowest of 10 writes was acknowledged after %v", slowest.Round(time.Millisecond))
}

// TestAFailingDiskLosesNothing: each fsync fails with EIO (fsyncgate: what was not written is not tried again), three times: the store acknowledges nothing more and ends by itself, does not come
// up on a disk that still fails, and on one that is well again has all that it acknowledged, with a watch that has no gap. The control is a disk that fails and says that all is well: to that the
// store goes on acknowledging.
func TestAFailingDiskLosesNothing(t *testing.T) {
	t.Parallel()
	s := onDisk(t)
	st := s.open(func(c *store.Config) { c.RequestTimeout = 500 * time.Millisecond })
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	acknowledged, sent := map[store.Key]string{}, 0
	write := func() error {
		sent++
		key, value := service(fmt.Sprint("s", sent)), fmt.Sprint(sent)
		_, err := st.Put(t.Context(), store.Object{Key: key, Value: []byte(value)}, store.Any())
		if err == nil {
			acknowledged[key] = value
		}
		return err
	}
	var healed []time.Duration
	for range 3 {
		for range 20 {
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
		s.disk(diskFails)
		for range 3 {
			if err := write(); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("a write to a disk that fails: %v, want that the store is away", err)
			}
		}
		s.ends()
		if err := s.run(); err == nil {
			t.Error("the store is ready on a disk that fails")
		}
		s.kill()
		s.disk(diskWell)
		began := time.Now()
		s.start()
		for err := write(); err != nil; err = write() {
			if !errors.Is(err, store.ErrUnavailable) || time.Since(began) > waitMax {
				t.Fatal(err)
			}
		}
		healed = append(healed, time.Since(began).Round(time.Millisecond))
	}
	for key, want := range acknowledged {
		if o, err := st.Get(t.Context(), key); err != nil || !bytes.Equal(o.Value, []byte(want)) {
			t.Errorf("%v was acknowledged as %s and is %s, %v", key, want, o.Value, err)
		}
	}
	m.equals(st)
	if m.resyncs != 1 {
		t.Errorf("the watch lost its place: %d resyncs", m.resyncs)
	}
	t.Logf("%d of %d writes acknowledged, %d fsyncs failed; written again %v after the disk was well", len(acknowledged), sent, s.met(), healed)

	s.disk(diskLies)
	before := s.met()
	for range 3 {
		if err := write(); err != nil {
			t.Errorf("control: %v, want that a disk that lies is believed", err)
		}
	}
	if s.met() == before {
		t.Error("control: no fsync met the fault")
	}
}

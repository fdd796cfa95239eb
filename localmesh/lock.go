package localmesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock is an exclusive lock on a file (flock), which the kernel gives up when the last
// descriptor of its opening is closed, however its holders die.
type lock struct{ file *os.File }

// errLocked says that somebody else holds the lock.
var errLocked = errors.New("locked by another process")

// pollEvery is the pause between looks at what cannot be waited for.
const pollEvery = 10 * time.Millisecond

// tryLock takes the lock at path, or returns errLocked.
func tryLock(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = errLocked
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Its last holder may have removed it between the two.
		ours, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(path); err == nil && os.SameFile(ours, there) {
				return &lock{f}, nil
			}
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// waitLock takes the lock at path as soon as it is free.
func waitLock(ctx context.Context, path string) (*lock, error) {
	for {
		l, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		if !sleep(ctx, pollEvery) {
			return nil, err
		}
	}
}

// release gives up the lock and leaves the file.
func (l *lock) release() { _ = l.file.Close() }

// remove takes the file away and gives up the lock.
func (l *lock) remove() {
	_ = os.Remove(l.file.Name())
	l.release()
}

// write makes v, as JSON, the content of the file.
func (l *lock) write(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = l.file.Truncate(0)
	}
	if err == nil {
		_, err = l.file.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", l.file.Name(), err)
	}
	return nil
}

// sleep waits d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// holder is who has a part of the address range, written into its lock.
type holder struct {
	StateDir string `json:"stateDir"`
	PID      int    `json:"pid"`
}

// TakenError says that another mesh has the addresses. Nothing was changed.
type TakenError struct {
	Base int
	// StateDir is of the mesh that has them; "" where it is no mesh of this user.
	StateDir string
	Address  string
}

func (e *TakenError) Error() string {
	if e.StateDir == "" {
		return fmt.Sprintf("address base %d is taken: another program listens on %s; give another --address-base", e.Base, e.Address)
	}
	return fmt.Sprintf("address base %d is taken by the mesh in %s; end it with isthmus down --state-dir %s, or give another --address-base",
		e.Base, e.StateDir, e.StateDir)
}

// lockNetworks takes 127.B.0.0/16 of every cluster of the plan.
func lockNetworks(dir string, p *Plan) (locks []*lock, err error) {
	defer func() {
		if err != nil {
			releaseAll(locks)
		}
	}()
	for _, c := range p.Clusters {
		path := filepath.Join(dir, fmt.Sprintf("127.%d.lock", int(p.Layout)+c.N))
		l, err := lockIn(dir, path)
		if errors.Is(err, errLocked) {
			var h holder
			text, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(text, &h)
			}
			if err != nil {
				h.StateDir = "" // about to be written or removed
			}
			return locks, &TakenError{Base: int(p.Layout), StateDir: h.StateDir, Address: p.api(c).String()}
		}
		if err != nil {
			return locks, fmt.Errorf("lock the addresses of the mesh: %w", err)
		}
		locks = append(locks, l)
		if err := l.write(holder{p.StateDir, os.Getpid()}); err != nil {
			return locks, err
		}
	}
	return locks, nil
}

// lockIn takes a lock in a directory that the last mesh to end removes.
func lockIn(dir, path string) (*lock, error) {
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if l, err := tryLock(path); !errors.Is(err, os.ErrNotExist) {
			return l, err
		}
	}
}

func releaseAll(locks []*lock) {
	for _, l := range locks {
		l.remove()
	}
}

// writeFile replaces path by content in one step, mode 0600.
func writeFile(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// readSmall reads a file of at most max bytes.
func readSmall(path string, maxBytes int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && int64(len(b)) > maxBytes {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxBytes)
	}
	return b, err
}

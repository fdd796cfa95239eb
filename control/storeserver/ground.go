package storeserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// socketNameMax is what is left of the 107 usable bytes of sun_path (unix(7))
// after "/proc/self/fd/NNNNNNNNNN/".
const socketNameMax = 107 - len("/proc/self/fd/") - 11

// A ground is the places on disk a store stands on, held for its lifetime.
type ground struct {
	lock *os.File
	dirs []*os.File // the sockets' folders, see address
}

// openGround makes or checks the folders of c and takes the lock on its data.
//
// The lock is ours, before etcd's own: etcd would first remove the running
// store's socket and then wait for its database without end.
func openGround(c Config) (*ground, error) {
	if err := ownDir(c.DataDir); err != nil {
		return nil, err
	}
	path := filepath.Join(c.DataDir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store directory %s: %w", c.DataDir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock store directory %s: another store is running on it: %w", c.DataDir, err)
		}
		return nil, fmt.Errorf("lock store directory %s: %w", c.DataDir, err)
	}
	return &ground{lock: f}, nil
}

// close gives the ground back. The lock file stays: removing it would let two
// processes hold locks on two files of one name.
func (g *ground) close() {
	for _, d := range g.dirs {
		d.Close()
	}
	g.lock.Close()
}

// address returns a name for the socket path that fits a socket address
// however deep its folder is: the folder is held open, and the kernel finds it
// by descriptor. The alternative, changing the process's working directory,
// would move every other relative path with it.
func (g *ground) address(path string) (string, error) {
	dir := filepath.Dir(path)
	if err := ownDir(dir); err != nil {
		return "", err
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", fmt.Errorf("open socket folder: %w", err)
	}
	g.dirs = append(g.dirs, d)
	return "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + filepath.Base(path), nil
}

// listen opens the socket at path with mode 0600, in place of one that a killed
// store left. Between bind and chmod the folder's mode protects it.
func (g *ground) listen(path string) (net.Listener, error) {
	addr, err := g.address(path)
	if err != nil {
		return nil, err
	}
	if err := removeSocket(addr); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(addr, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// removeSocket removes a socket, and nothing that is not one: a mistyped path
// must not cost a file.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the path is taken by something that is not a socket")
	}
	return os.Remove(path)
}

// ownDir makes dir with mode 0700, or refuses one that others can enter: the
// sockets in it have no other protection than the file system's.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make store directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("check store directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("store directory %s has mode %04o, so others than its owner can enter it; run chmod 700 %s", dir, mode, dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("store directory %s belongs to user %d, and this process runs as %d; run it as that user, or chown it", dir, st.Uid, os.Geteuid())
	}
	return nil
}

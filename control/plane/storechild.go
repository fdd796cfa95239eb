package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
)

// runStore keeps the store's process running: etcd exits when its log cannot be
// written, and a control plane must not.
func (p *Plane) runStore(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own executable: %w", err)
	}
	config, err := json.Marshal(map[string]string{"dataDir": p.cfg.path("store"), "clientSocket": p.cfg.StoreSocket(), "name": string(p.cfg.Cluster)})
	if err != nil {
		return err
	}
	path := p.cfg.path("store.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		began := p.clock.Now()
		err := p.storeOnce(ctx, exe, path)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.log.Error("the store's process ended; it is started again", "error", err)
		if p.clock.Now().Sub(began) > 30*time.Second {
			wait = 50 * time.Millisecond
		}
		if err := clock.Wait(ctx, p.clock, wait); err != nil {
			return err
		}
	}
}

// diskMin is less than a store can start with.
const diskMin = 1 << 20

// storeAway says that the disk is full, where it is: the store's process ends then, and is
// started again until there is room.
func (p *Plane) storeAway() error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(p.cfg.StateDir, &s); err != nil || uint64(s.Bavail)*uint64(s.Bsize) >= diskMin {
		return nil
	}
	return fmt.Errorf("the disk of %s is full: free some space, the store then starts by itself", p.cfg.StateDir)
}

// storeOnce runs the process until it ends, or until ctx does. It dies with us: it holds the
// read end of a pipe whose write end only we have.
func (p *Plane) storeOnce(ctx context.Context, exe, config string) error {
	alive, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd := exec.CommandContext(ctx, exe, "store", "--config", config)
	cmd.Env = append(os.Environ(), "ISTHMUS_PARENT_FD=3")
	cmd.ExtraFiles = []*os.File{alive}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Start()
	alive.Close()
	if err != nil {
		return fmt.Errorf("start the store's process: %w", err)
	}
	pid := p.cfg.path("store.pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		p.log.Warn("the store's process ID could not be written down", "error", err)
	}
	err = cmd.Wait()
	return errors.Join(err, os.Remove(pid))
}

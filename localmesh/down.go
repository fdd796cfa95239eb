package localmesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Remote is a mesh that another process runs, found by its state directory.
type Remote struct {
	Summary Summary
	token   string
}

// ErrNotRunning says that no mesh runs over a state directory.
var ErrNotRunning = errors.New("no mesh runs")

// Open finds the mesh that runs over stateDir; ErrNotRunning where none does.
func Open(stateDir string) (*Remote, error) {
	fail := func(err error) (*Remote, error) { return nil, fmt.Errorf("find the mesh in %s: %w", stateDir, err) }
	l, err := tryLock(filepath.Join(stateDir, "lock"))
	switch {
	case err == nil:
		l.release()
		return fail(ErrNotRunning)
	case errors.Is(err, fs.ErrNotExist):
		return fail(ErrNotRunning)
	case !errors.Is(err, errLocked):
		return fail(err)
	}
	s, err := ReadSummary(stateDir)
	if err != nil {
		return nil, err
	}
	token, err := ReadToken(stateDir)
	if err != nil {
		return nil, err
	}
	return &Remote{Summary: s, token: token}, nil
}

// Status asks what runs now.
func (r *Remote) Status(ctx context.Context) (Summary, error) {
	var s Summary
	err := r.call(ctx, http.MethodGet, "/v1/local", nil, &s)
	return s, err
}

// Drill has the mesh do a drill; see Mesh.Drill. A refusal is a *BadDrillError.
func (r *Remote) Drill(ctx context.Context, q DrillRequest) error {
	return r.call(ctx, http.MethodPost, "/v1/local/drill", q, nil)
}

func (r *Remote) call(ctx context.Context, method, path string, in, out any) error {
	fail := func(err error) error { return fmt.Errorf("%s %s%s: %w", method, r.Summary.Console, path, err) }
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fail(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.Summary.Console+path, body)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	transport := &http.Transport{DisableKeepAlives: true} // no proxy of the environment between us
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMaxByte))
	if err != nil {
		return fail(err)
	}
	if resp.StatusCode >= 300 {
		var refusal apiError
		if json.Unmarshal(text, &refusal) != nil || refusal.Error == "" {
			refusal.Error = short(text)
		}
		if resp.StatusCode == http.StatusUnprocessableEntity {
			return &BadDrillError{errors.New(refusal.Error)}
		}
		return fail(fmt.Errorf("%s: %s", resp.Status, refusal.Error))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fail(err)
	}
	return nil
}

// downMax is far longer than a mesh takes to end that ends by force what does not end by itself.
const downMax = time.Minute

// Down ends the mesh that runs over stateDir and returns when its last process has ended, its
// supervisor included. A mesh whose supervisor was killed is ending already: Down waits for it and clears what it
// left outside the state directory. Where nothing ran, the error is ErrNotRunning.
func Down(ctx context.Context, stateDir string) error {
	ctx, cancel := context.WithTimeout(ctx, downMax)
	defer cancel()
	fail := func(err error) error { return fmt.Errorf("end the mesh in %s: %w", stateDir, err) }
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNotRunning)
	}
	s, err := ReadSummary(stateDir)
	ran := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	r, err := Open(stateDir)
	switch {
	case err == nil:
		if err := r.call(ctx, http.MethodPost, "/v1/local/down", nil, nil); err != nil {
			return fail(err)
		}
	case !errors.Is(err, ErrNotRunning):
		return fail(err)
	}
	for _, name := range []string{"lock", "alive"} {
		l, err := waitLock(ctx, filepath.Join(stateDir, name))
		if err != nil {
			return fail(fmt.Errorf("wait for its last process: %w", err))
		}
		defer l.release()
	}
	if !ran {
		return fail(ErrNotRunning)
	}
	// It gives up its locks before it ends.
	for s.PID != os.Getpid() && runs(s.PID, s.Executable) {
		if !sleep(ctx, pollEvery) {
			return fail(fmt.Errorf("wait for its supervisor, process %d: %w", s.PID, ctx.Err()))
		}
	}
	for _, c := range s.Clusters {
		store := &storeDrill{pidFile: filepath.Join(stateDir, "clusters", string(c.Name), "store.pid"), executable: s.Executable}
		store.end(ctx, stopGrace)
	}
	return errors.Join(s.clear(), removeState(stateDir))
}

// clear removes the locks that a killed supervisor could not, unless another mesh has taken
// them since.
func (s Summary) clear() error {
	var errs []error
	for _, path := range s.Locks {
		if !strings.HasSuffix(path, ".lock") || errors.Is(statError(path), fs.ErrNotExist) {
			continue
		}
		switch l, err := tryLock(path); {
		case err == nil:
			l.remove()
			_ = os.Remove(filepath.Dir(path)) // if it was the last
		case !errors.Is(err, errLocked):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func statError(path string) error {
	_, err := os.Stat(path)
	return err
}

func removeState(stateDir string) error {
	if err := os.Remove(stateFile(stateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

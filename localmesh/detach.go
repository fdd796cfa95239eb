package localmesh

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ReportEnv names the variable that tells a detached supervisor where to say that its mesh is
// ready: the number of an inherited pipe.
const ReportEnv = "ISTHMUS_READY_FD"

// report is the one line that a detached supervisor says.
type report struct {
	Summary *Summary `json:"summary,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// Detachment is a supervisor to start in the background.
type Detachment struct {
	Executable string
	// Args are those of the same command without --detach.
	Args     []string
	Environ  []string
	StateDir string
}

// Detach starts a supervisor in a session of its own and returns when its mesh is ready; it
// then lives on without us. An error is that of the supervisor, whose mesh is not running.
// Ending ctx before that ends the supervisor.
func Detach(ctx context.Context, d Detachment) (Summary, error) {
	fail := func(err error) (Summary, error) {
		return Summary{}, fmt.Errorf("start the mesh in the background: %w", err)
	}
	logs := filepath.Join(d.StateDir, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return fail(err)
	}
	out, err := os.OpenFile(filepath.Join(logs, "supervisor.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	cmd := exec.Command(d.Executable, d.Args...)
	cmd.Env = append(environmentWithout(d.Environ, ReportEnv), ReportEnv+"=3")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	line, readErr := bufio.NewReader(io.LimitReader(r, 64<<20)).ReadBytes('\n')
	interrupted := !stop()
	var said report
	err = readErr
	if err == nil {
		err = json.Unmarshal(line, &said)
	}
	if err == nil && said.Summary != nil && !interrupted {
		return *said.Summary, cmd.Process.Release()
	}
	// It failed, and ends or has ended.
	wait := cmd.Wait()
	switch {
	case interrupted:
		return fail(context.Cause(ctx))
	case said.Error != "":
		return Summary{}, errors.New(said.Error)
	}
	return fail(fmt.Errorf("it ended without a word (%w): %s", errors.Join(err, wait), lastLine(out.Name())))
}

func environmentWithout(environ []string, name string) []string {
	var out []string
	for _, v := range environ {
		if !strings.HasPrefix(v, name+"=") {
			out = append(out, v)
		}
	}
	return out
}

// Reporter is the other end of Detach, in the supervisor. A nil Reporter reports nothing.
type Reporter struct{ pipe *os.File }

// OpenReporter takes the value of ReportEnv; nil where it names no descriptor, as in a
// supervisor that was not detached.
func OpenReporter(value string) *Reporter {
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return &Reporter{os.NewFile(uintptr(fd), "report")}
}

// Ready says that the mesh is ready; it fits Config.Ready.
func (r *Reporter) Ready(s Summary) { r.say(report{Summary: &s}) }

// Failed says why there is no mesh.
func (r *Reporter) Failed(err error) { r.say(report{Error: err.Error()}) }

// say reports once; later reports are dropped.
func (r *Reporter) say(v report) {
	if r == nil || r.pipe == nil {
		return
	}
	text, err := json.Marshal(v)
	if err == nil {
		_, _ = r.pipe.Write(append(text, '\n')) // whoever asked may have left
	}
	_ = r.pipe.Close()
	r.pipe = nil
}

package localmesh

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// logMax is the size at which a log is set aside as NAME.log.1, which the one before it
// makes room for: the logs of a process never hold more than twice as much.
const logMax = 10 << 20

// logFile takes what a process says. It is safe for concurrent use.
type logFile struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File // nil when closed
	size int64
}

func openLog(path string, maxBytes int64) (*logFile, error) {
	l := &logFile{path: path, max: maxBytes}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write appends b. It never fails: a process must not end because its log cannot be
// written, and a full disk must not stop a mesh.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return len(b), nil
	}
	if l.size > 0 && l.size+int64(len(b)) > l.max {
		_ = l.file.Close()
		l.file = nil
		if errors.Join(os.Rename(l.path, l.path+".1"), l.open()) != nil {
			return len(b), nil
		}
	}
	n, _ := l.file.Write(b)
	l.size += int64(n)
	return len(b), nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

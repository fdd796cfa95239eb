package store

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

// socketPathMax is the usable size of sun_path, unix(7).
const socketPathMax = 107

// A dialer makes the connections of one Store and remembers why the last one
// failed. It is safe for concurrent use.
type dialer struct {
	mu   sync.Mutex
	last error // nil when the last attempt succeeded
	// refused is what TLS failed by, until a connection has brought something.
	refused error
}

func (d *dialer) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused != nil {
		return d.refused
	}
	return d.last
}

func (d *dialer) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = err
}

// dial connects to addr: "unix:PATH", "unix://PATH", a path, or HOST:PORT.
func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := dialAddress(ctx, addr)
	if err == nil {
		conn = direct.New(conn)
	}
	if ctx.Err() == nil || err == nil {
		d.mu.Lock()
		d.last = err
		d.mu.Unlock()
	}
	return conn, err
}

func dialAddress(ctx context.Context, addr string) (net.Conn, error) {
	var nd net.Dialer
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix && !strings.HasPrefix(addr, "/") {
		return nd.DialContext(ctx, "tcp", addr)
	}
	path = strings.TrimPrefix(path, "//")
	if len(path) <= socketPathMax {
		return nd.DialContext(ctx, "unix", path)
	}
	// A path that does not fit a socket address is reached through its folder:
	// the kernel finds that by descriptor.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	defer dir.Close()
	return nd.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+filepath.Base(path))
}

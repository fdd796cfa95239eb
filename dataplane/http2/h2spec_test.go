package http2

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestH2Spec runs github.com/summerwind/h2spec in strict mode against ServeConn, where
// the environment names its binary.
func TestH2Spec(t *testing.T) {
	bin := os.Getenv("H2SPEC")
	if bin == "" {
		t.Skip("H2SPEC does not name the h2spec binary")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	defer cancel()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_ = ServeConn(ctx, c, Config{}, func(x message.Exchange) {
					if _, err := io.Copy(io.Discard, x); err != nil {
						return
					}
					if x.Respond(&message.Head{Status: 200, Length: 5}, false) == nil {
						x.Write([]byte("hello"))
						x.Finish(nil)
					}
				})
			})
		}
	})
	host, port, _ := net.SplitHostPort(l.Addr().String())
	out, err := exec.Command(bin, "--strict", "-h", host, "-p", port, "-o", "2").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "146 tests, 146 passed") {
		t.Fatalf("%v\n%s", err, out)
	}
}

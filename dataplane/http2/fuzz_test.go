package http2

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// seeds are conversations to start from, without the preface.
func seeds(f *testing.F) {
	for _, s := range []string{
		"",
		"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a",
		"\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x01a",
		"\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a\x00\x00\x03\x00\x01\x00\x00\x00\x01abc",
		"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
		"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88\x00\x00\x00\x09\x04\x00\x00\x00\x01",
		"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" + s))
	}
}

// converse sends b to nc, discards what comes, and ends.
func converse(t *testing.T, nc net.Conn, b []byte) {
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, nc)
	}()
	nc.Write(b)
	nc.Close()
	<-done
}

// FuzzServer: no octets make the server panic, hang or keep a goroutine.
func FuzzServer(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, s := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			ServeConn(t.Context(), s, Config{ConnectProtocol: true}, func(x message.Exchange) {
				x.SetDeadline(time.Now().Add(time.Second))
				for _, fd := range x.Request().Fields {
					if !validName(fd.Name) || !validValue(fd.Value) || strings.Contains("connection transfer-encoding content-length host", string(fd.Name)) {
						t.Errorf("field %q: %q got through", fd.Name, fd.Value)
					}
				}
				echo(x)
			})
		}()
		converse(t, c, append([]byte(preface), b...))
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("ServeConn hangs")
		}
	})
}

// FuzzClient: the same for the client, with a request under way.
func FuzzClient(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, s := net.Pipe()
		cc, err := NewClientConn(c, Config{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			do(cc, request("POST", "/"), []byte("body"), nil)
		}()
		converse(t, s, b)
		<-done
		cc.Close()
	})
}

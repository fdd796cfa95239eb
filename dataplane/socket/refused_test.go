//go:build linux

package socket

import (
	"errors"
	"net"
	"testing"
)

// TestAKernelThatRefusesToSpliceSaysSoBeforeItTakesAnything: a socket in the pipe's place is refused as a
// kernel without splice refuses all.
func TestAKernelThatRefusesToSpliceSaysSoBeforeItTakesAnything(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p, err := NewPipe(d, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := d.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	good := p.write
	_ = Raw(d).Control(func(fd uintptr) { p.write = int(fd) })
	n, err := p.Step()
	p.write = good
	if n != 0 || !errors.Is(err, errors.ErrUnsupported) || p.Held() != 0 {
		t.Errorf("%d, %v, holding %d", n, err, p.Held())
	}
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil || string(b) != "x" {
		t.Errorf("what had come is gone: %q, %v", b, err)
	}
}

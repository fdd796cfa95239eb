package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// proxyTarget names, in the environment of this test binary, the backend of the proxy
// that the binary then is: BenchmarkProxyProcess measures it apart from its load.
const proxyTarget = "ISTHMUS_HTTP1_PROXY_TARGET"

func TestMain(m *testing.M) {
	if target := os.Getenv(proxyTarget); target != "" {
		if err := runProxy(target); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// runProxy forwards to target and prints its address; for each line of input it prints
// the CPU it has used in nanoseconds, and it ends with its input.
func runProxy(target string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	p := NewPool(PoolConfig{Conn: &Config{}, Dial: dialTCP})
	cfg := &Config{}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = proxyConn(conn, cfg, p, target) }()
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(cpu().Nanoseconds())
	}
	return lines.Err()
}

func proxyConn(conn net.Conn, cfg *Config, p *Pool, target string) error {
	s := NewServerConn(conn, cfg)
	defer s.Close()
	var h message.Head
	buf := make([]byte, 32<<10)
	for {
		ex, err := s.Next()
		if err != nil {
			return err
		}
		ex.SetDeadline(time.Now().Add(15 * time.Second)) // as the pipeline will
		if err := forward(ex, p, target, &h, buf); err != nil {
			ex.Abort(err)
			return err
		}
	}
}

// answerAll answers every read of a connection with the same bytes.
func answerAll(ln net.Listener, answer []byte, wg *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			buf := make([]byte, 4096)
			for {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				if _, err := conn.Write(answer); err != nil {
					return
				}
			}
		})
	}
}

// BenchmarkProxyProcess reports the CPU that a proxy alone, in a process of its own, spends
// on a request, over 16 connections.
func BenchmarkProxyProcess(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	response := proxyResponses["length"]
	wg.Go(func() { answerAll(ln, []byte(response), &wg) })
	defer wg.Wait()
	defer ln.Close()

	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	proxy := exec.CommandContext(ctx, os.Args[0])
	proxy.Env = append(os.Environ(), proxyTarget+"="+ln.Addr().String())
	proxy.Stderr = os.Stderr
	in, err := proxy.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	outPipe, err := proxy.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := proxy.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = proxy.Wait() }()
	defer in.Close()
	out := bufio.NewReader(outPipe)
	line := func() string {
		text, err := out.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		return strings.TrimSpace(text)
	}
	used := func() int64 {
		_, _ = io.WriteString(in, "\n")
		n, err := strconv.ParseInt(line(), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	addr := line()
	size := written(b, response)
	before := used()
	b.ResetTimer()
	load(b, addr, size)
	b.StopTimer()
	b.ReportMetric(float64(used()-before)/float64(b.N), "proxy-cpu-ns/op")
}

// written returns how long a response is once the proxy has written it again.
func written(tb testing.TB, response string) int {
	i := strings.Index(response, "\r\n\r\n") + 4
	var h message.Head
	if _, _, perr := parseResponse(&h, h.KeepString(response[:i]), 128, asked{}); perr != nil {
		tb.Fatal(perr)
	}
	b, _, err := appendResponse(nil, &h, false, answered{})
	if err != nil {
		tb.Fatal(err)
	}
	return len(b) + len(response) - i
}

// load sends b.N requests over 16 connections.
func load(b *testing.B, addr string, size int) {
	var wg sync.WaitGroup
	const conns = 16
	for i := range conns {
		n := b.N / conns
		if i < b.N%conns {
			n++
		}
		wg.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			buf, ask := make([]byte, size), []byte(browserRequest)
			for range n {
				_, werr := conn.Write(ask)
				_, rerr := io.ReadFull(conn, buf)
				if err := errors.Join(werr, rerr); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

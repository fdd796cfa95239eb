package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// attackTime is how long each attack lasts. The figures of docs/security.md are of 60s.
var attackTime = flag.Duration("attack", 2*time.Second, "how long each attack lasts")

// attack is one way to trouble a proxy. run attacks over one connection until that breaks or the
// deadline of the connection passes.
type attack struct {
	name string
	// at is the port: 15008 as a workload of the mesh that went bad, 15001 as a bad application,
	// 15443 as anybody.
	at    int
	conns int // at once
	// ends says that the proxy must end each connection long before the attacker would.
	ends bool
	// logs, if not empty, is what the proxy must say of it.
	logs string
	run  func(c net.Conn)
}

// h2 is a client of HTTP/2 with bad manners.
type h2 struct {
	*http2.Framer
	c    net.Conn
	out  *bufio.Writer
	enc  *hpack.Encoder
	head bytes.Buffer
}

// stepsMax is more than any honest budget allows.
const stepsMax = 1 << 20

// flood makes an attack of a step that is repeated. Frames are sent in large writes, as a flood is,
// and what comes back is read and thrown away.
func flood(start func(*h2), step func(f *h2, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriterSize(c, 16<<10)}
		f.Framer = http2.NewFramer(f.out, c)
		f.Framer.AllowIllegalWrites = true
		f.enc = hpack.NewEncoder(&f.head)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, c)
		}()
		defer func() { c.Close(); <-gone }()
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings()
		if start != nil {
			start(f)
		}
		for i := range uint32(stepsMax) {
			step(f, 2*i+1)
			if f.out.Buffered() > 12<<10 {
				if f.out.Flush() != nil {
					return
				}
				select {
				case <-gone:
					return
				default:
				}
			}
		}
		_ = f.out.Flush()
	}
}

// block encodes a request for the service, with more fields.
func (f *h2) block(method string, more ...string) []byte {
	f.head.Reset()
	more = append([]string{":method", method, ":scheme", "http", ":authority", "echo.demo", ":path", "/", "isthmus-to", "demo/echo:80"}, more...)
	for i := 0; i+1 < len(more); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	return f.head.Bytes()
}

func (f *h2) request(stream uint32, end bool, method string, more ...string) {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(method, more...), EndStream: end, EndHeaders: true})
}

var attacks = []attack{
	{"rapid reset (CVE-2023-44487)", 15008, 1, true, "floods it", flood(nil, func(f *h2, s uint32) {
		f.request(s, true, "GET")
		_ = f.WriteRSTStream(s, http2.ErrCodeCancel)
	})},
	{"MadeYouReset (CVE-2025-8671)", 15008, 1, true, "floods it", flood(nil, func(f *h2, s uint32) {
		f.request(s, false, "POST")
		_ = f.WriteWindowUpdate(s, 0)
	})},
	{"CONTINUATION flood (CVE-2024-24549 and kin)", 15008, 1, true, "floods it", flood(func(f *h2) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block("GET")})
	}, func(f *h2, _ uint32) { _ = f.WriteContinuation(1, false, nil) })},
	{"SETTINGS flood (CVE-2019-9515)", 15008, 1, true, "floods it", flood(nil, func(f *h2, _ uint32) { _ = f.WriteSettings() })},
	{"PING flood (CVE-2019-9512)", 15008, 1, true, "floods it", flood(nil, func(f *h2, _ uint32) { _ = f.WritePing(false, [8]byte{}) })},
	{"empty DATA flood (CVE-2019-9518)", 15008, 1, true, "floods it", flood(func(f *h2) { f.request(1, false, "POST") },
		func(f *h2, _ uint32) { _ = f.WriteData(1, false, nil) })},
	{"HPACK bomb", 15008, 1, true, "floods it", flood(func(f *h2) {
		f.request(1, true, "GET", "x-bomb", strings.Repeat("b", 3800))
	}, func(f *h2, s uint32) {
		// One octet names the last field of the dynamic table: 4,000 in a block decode to 15 MB.
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s + 2, EndStream: true, EndHeaders: true,
			BlockFragment: append(slices.Clone(f.block("GET")), bytes.Repeat([]byte{0x80 | 62}, 4000)...)})
	})},
	{"100,000 header fields", 15008, 1, true, "floods it", flood(func(f *h2) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block("GET")})
	}, func(f *h2, s uint32) {
		f.head.Reset()
		for i := range 500 {
			_ = f.enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d-%d", s, i), Value: "v", Sensitive: true})
		}
		_ = f.WriteContinuation(1, false, f.head.Bytes())
	})},
	{"zero window", 15008, 4, false, "", func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriter(c)}
		f.Framer = http2.NewFramer(f.out, c)
		f.enc = hpack.NewEncoder(&f.head)
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for s := uint32(1); s < 400; s += 2 {
			f.request(s, true, "GET", "x-fill", strings.Repeat("z", 1000))
		}
		_ = f.out.Flush()
		_, _ = io.Copy(io.Discard, c) // answers wait for a window that never opens
	}},
	{"slow read", 15008, 4, false, "", func(c net.Conn) {
		f := &h2{c: c, out: bufio.NewWriter(c)}
		f.Framer = http2.NewFramer(f.out, c)
		f.enc = hpack.NewEncoder(&f.head)
		fmt.Fprint(f.out, http2.ClientPreface)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = f.WriteWindowUpdate(0, 1<<30)
		for s := uint32(1); f.out.Flush() == nil; s += 2 { // answers that nobody reads fill the socket
			f.request(s, true, "GET", "x-fill", strings.Repeat("z", 8000))
		}
	}},
	{"slowloris", 15001, 200, false, "", func(c net.Conn) {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: echo.demo\r\n")
		for dribble(c, "x: y\r\n") {
		}
	}},
	{"slow body", 15001, 200, false, "", func(c net.Conn) {
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: echo.demo\r\nContent-Length: 1000000\r\n\r\n")
		for dribble(c, "b") {
		}
	}},
	{"pipelined requests whose answers are not read", 15001, 20, false, "", func(c net.Conn) {
		line := "GET / HTTP/1.1\r\nHost: echo.demo\r\nx-fill: " + strings.Repeat("z", 8000) + "\r\n\r\n"
		for {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	}},
	{"a head without end", 15001, 4, true, "head_too_large", func(c net.Conn) {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: echo.demo\r\n")
		for i := range stepsMax {
			if _, err := fmt.Fprintf(c, "x-%d: %s\r\n", i, strings.Repeat("h", 1000)); err != nil {
				return
			}
		}
	}},
	{"half a ClientHello", 15443, 400, false, "", func(c net.Conn) {
		hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}
		_, _ = c.Write(hello)
		for dribble(c, "\x00") {
		}
	}},
	{"a ClientHello in records of one octet", 15443, 20, true, "", func(c net.Conn) {
		for range stepsMax {
			if _, err := c.Write([]byte{22, 3, 1, 0, 1}); err != nil {
				return
			}
			if _, err := c.Write([]byte{1}); err != nil {
				return
			}
		}
	}},
}

// dribble sends a little and waits a little; it reports whether to go on.
func dribble(c net.Conn, text string) bool {
	if _, err := io.WriteString(c, text); err != nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, err := c.Read(make([]byte, 512))
	return err == nil || os.IsTimeout(err)
}

// TestAttacks runs each attack against a sidecar or a gateway while an honest client goes on
// beside it: nobody else's request fails, memory is bounded, floods are ended and logged. What CPU
// and memory an attack costs, and what it does to the honest client's latency, is printed.
func TestAttacks(t *testing.T) {
	m := newMesh(t, 130)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	gone := m.join(t, 1, mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "gone-bad"})
	sni := mesh.SNI{Service: mesh.ServiceName{Namespace: "demo", Name: "echo"}, TrustDomain: "us-east.isthmus.local"}.String()
	dial := map[int]func() (net.Conn, error){
		15008: func() (net.Conn, error) {
			return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", m.address(1, 1, 1, 15008), &tls.Config{ServerName: sni,
				NextProtos: []string{interProxy}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{gone}})
		},
		15001: func() (net.Conn, error) { return net.DialTimeout("tcp", m.address(0, 0, 1, 15001), 5*time.Second) },
		15443: func() (net.Conn, error) { return net.DialTimeout("tcp", m.address(1, 0, 3, 15443), 5*time.Second) },
	}
	victim := map[int]string{15008: "us-east.demo.echo-0.sidecar", 15001: "eu-west.shell", 15443: "us-east.gateway"}
	client := m.shell(0)
	for range 20 { // connections are there and caches are warm
		if a := get(client, echo+"/"); a.Status != 200 {
			t.Fatal(a)
		}
	}
	var before []time.Duration
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			name := victim[a.at]
			pid := m.pids("/" + name)
			if len(pid) != 1 {
				t.Fatalf("%d processes of %s", len(pid), name)
			}
			if before == nil {
				before = m.honest(t, *attackTime)
			}
			past := len(m.log(name))
			cpu, rss := usage(t, pid[0])
			begin := time.Now()
			ended, made, during, most := m.under(t, a, dial[a.at], pid[0])
			cpu2, _ := usage(t, pid[0])
			wall := time.Since(begin)
			t.Logf("%d connections made, %d ended by the proxy; %.1f %% of a core, memory +%.1f MiB at most; honest p50 %v, p99 %v (%v, %v before)",
				made, ended, 100*(cpu2-cpu).Seconds()/wall.Seconds(), float64(most-rss)/(1<<20), at(during, 50), at(during, 99), at(before, 50), at(before, 99))
			if grown := most - rss; grown > 48<<20 {
				t.Errorf("the proxy grew by %d MiB", grown>>20)
			}
			if a.ends && ended == 0 {
				t.Errorf("none of %d connections was ended by the proxy", made)
			}
			if a.logs != "" {
				m.says(t, name, past, 2*time.Second, a.logs)
			}
		})
	}
}

// honest measures the latency of a client beside whom nothing happens.
func (m *meshUnder) honest(t *testing.T, d time.Duration) []time.Duration {
	l := m.load(0, echo+"/", 100)
	<-time.After(d)
	l.stop().mustNotFail(t)
	return latencies(l)
}

func latencies(l *load) []time.Duration {
	var out []time.Duration
	for _, s := range l.all {
		out = append(out, s.took)
	}
	slices.Sort(out)
	return out
}

// at is a percentile of sorted values.
func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)].Round(10 * time.Microsecond)
}

// under runs an attack beside an honest client. It returns how many connections the proxy ended and
// how many were made, the client's latencies, and the most memory that the proxy had.
func (m *meshUnder) under(t *testing.T, a attack, dial func() (net.Conn, error), pid int) (ended, made int, took []time.Duration, most int64) {
	l := m.load(0, echo+"/", 100)
	end := time.Now().Add(*attackTime)
	var mu sync.Mutex
	var attackers sync.WaitGroup
	for range a.conns {
		attackers.Go(func() {
			for time.Now().Before(end) {
				c, err := dial()
				if err != nil {
					return // refused at the door: that is a defence
				}
				_ = c.SetDeadline(end)
				a.run(c)
				c.Close()
				mu.Lock()
				made++
				if time.Now().Before(end) {
					ended++
				}
				mu.Unlock()
				// One who was thrown out comes back, but not faster than anybody could be let in.
				<-time.After(min(500*time.Millisecond, max(0, time.Until(end))))
			}
		})
	}
	over := make(chan struct{})
	go func() { attackers.Wait(); close(over) }()
	for attacking := true; attacking; {
		select {
		case <-over:
			attacking = false
		case <-time.After(50 * time.Millisecond):
		}
		_, rss := usage(t, pid)
		most = max(most, rss)
	}
	l.stop().mustNotFail(t)
	return ended, made, latencies(l), most
}

// usage is the CPU time that a process has used, and its resident memory in bytes.
func usage(t *testing.T, pid int) (cpu time.Duration, rss int64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatalf("the proxy is gone: %v", err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:])) // from the state on, field 3 of proc(5)
	var ticks int64
	for _, i := range []int{11, 12} { // utime, stime, in hundredths of a second
		n, _ := strconv.ParseInt(f[i], 10, 64)
		ticks += n
	}
	pages, _ := strconv.ParseInt(f[21], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, pages * int64(os.Getpagesize())
}

package http1

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/corpus"
)

// tag is a field that the hop in front gives to each request that it forwards, another
// value each time. A request that arrives without one, or with one that has been seen,
// is one that the hop in front did not know it was sending: the two disagree on borders.
const tag = "x-tag"

// sighting is what a hop saw of one request.
type sighting struct{ tag, method, path, body string }

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:8])
}

// sightings is filled by many connections.
type sightings struct {
	mu   sync.Mutex
	list []sighting
}

func (s *sightings) add(v sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, v)
}

// all is what there is so far: a hop behind may still be busy with what a client no longer waits for.
func (s *sightings) all() []sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// netHTTP is a backend on Go's server that notes what it sees.
func netHTTP(t *testing.T, seen *sightings) string {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // it was never whole: nothing acts on it
		}
		seen.add(sighting{strings.Join(r.Header.Values(tag), "+"), r.Method, path(r), sum(body)})
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		fmt.Fprint(w, "seen")
	}))
	srv.Config.ErrorLog = nil
	srv.Config.ReadTimeout = 2 * time.Second
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// path is the target in this engine's words, where CONNECT has none.
func path(r *http.Request) string {
	if r.Method == http.MethodConnect {
		return ""
	}
	return r.RequestURI
}

// engine is a hop on the engine under test. It notes what it accepts; with a target it
// forwards that, tagged.
func engine(t *testing.T, seen *sightings, target string) string {
	pool := newTestPool(t, PoolConfig{})
	var serial atomic.Uint64
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				sc := NewServerConn(c, &Config{})
				defer sc.Close()
				for {
					ex, err := sc.Next()
					if err != nil {
						return
					}
					if target == "" {
						note(ex, seen)
						continue
					}
					forwardTagged(ex, pool, target, seen, fmt.Sprint("ours-", serial.Add(1)))
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

// note answers and notes.
func note(ex message.Exchange, seen *sightings) {
	ex.SetDeadline(time.Now().Add(2 * time.Second))
	body, err := io.ReadAll(ex)
	if err != nil {
		ex.Abort(err)
		return
	}
	q := ex.Request()
	var tags [][]byte
	for _, f := range q.Fields {
		if string(f.Name) == tag {
			tags = append(tags, f.Value)
		}
	}
	seen.add(sighting{string(bytes.Join(tags, []byte("+"))), string(q.Method), string(q.Path), sum(body)})
	h := message.Head{Status: 200, Length: 0}
	if ex.Respond(&h, true) != nil {
		ex.Abort(io.ErrUnexpectedEOF)
	}
}

// forwardTagged forwards a request with its body whole, tagged, so that what was accepted is known.
func forwardTagged(ex message.Exchange, pool *Pool, target string, seen *sightings, name string) {
	ex.SetDeadline(time.Now().Add(2 * time.Second))
	body, err := io.ReadAll(ex)
	if err != nil {
		ex.Abort(err)
		return
	}
	q := ex.Request()
	q.Upgrade, q.Expect100 = nil, false
	q.Set(tag, name)
	seen.add(sighting{name, string(q.Method), string(q.Path), sum(body)})
	var h message.Head
	s, end, err := sendOver(pool, target, q, body, ex.Trailers(), &h)
	if errors.Is(err, message.ErrNotExecuted) { // a proxy goes on to another connection
		s, end, err = sendOver(pool, target, q, body, ex.Trailers(), &h)
	}
	if err != nil {
		ex.Abort(err)
		return
	}
	defer s.Close()
	answer, err := io.ReadAll(s)
	if err != nil {
		ex.Abort(err)
		return
	}
	h.Upgrade = nil
	if h.Length > 0 && len(answer) == 0 { // HEAD
		end = true
	}
	if err := ex.Respond(&h, end); err != nil {
		ex.Abort(err)
		return
	}
	if !end {
		if _, err := ex.Write(answer); err != nil {
			ex.Abort(err)
			return
		}
		_ = ex.Finish(nil)
	}
}

// sendOver sends a request over the pool and receives the final head of its answer into h.
func sendOver(pool *Pool, target string, q *message.Head, body []byte, trailers []message.Field, h *message.Head) (s message.Stream, end bool, err error) {
	if s, _, err = pool.Get(context.Background(), target); err != nil {
		return nil, false, err
	}
	s.SetDeadline(time.Now().Add(time.Minute))
	end = q.Length == 0
	if err = s.Send(q, end); err == nil && !end {
		if _, err = s.Write(body); err == nil {
			err = s.CloseWrite(trailers)
		}
	}
	for h.Status = 0; err == nil && h.Status < 200; {
		h.Reset()
		end, err = s.Receive(h)
	}
	if err != nil {
		s.Close()
	}
	return s, end, err
}

// daemon runs a server in the foreground until the test ends, and returns where it listens. The port is found free and then bound by
// the server: where it was another's meanwhile, which ends the server, another is tried.
func daemon(t *testing.T, name string, args func(at string) []string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is not installed (on Debian: apt-get install %s): %v", name, name, err)
		}
	}
	said := ""
	for range 5 {
		at := freeAddr(t)
		cmd := exec.Command(path, args(at)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		if listens(t, at, ended) {
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			return at
		}
		said += out.String()
	}
	t.Fatalf("%s ends: %s", name, said)
	return ""
}

// listens waits until somebody listens, who is the process if that has not ended a while after; else it returns false.
func listens(t *testing.T, at string, ended <-chan error) bool {
	deadline := time.After(guard)
	for ours := 0; ours < 20; {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			ours++
		}
		select {
		case <-ended:
			return false
		case <-deadline:
			t.Fatalf("nobody listens on %s after %s", at, guard)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

func freeAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func write(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nginx runs nginx in front of target; it tags what it forwards if it is told to.
func nginx(t *testing.T, target string, tags bool) string {
	set := ""
	if tags {
		set = "proxy_set_header " + tag + " $request_id;"
	}
	return daemon(t, "nginx", func(at string) []string {
		conf := write(t, "nginx.conf", fmt.Sprintf(`user root; daemon off; master_process off; pid nginx.pid; error_log error.log crit;
events { worker_connections 512; }
http {
	access_log off; client_header_timeout 2s; client_body_timeout 2s;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
	upstream next { server %s; keepalive 16; }
	server {
		listen %s;
		location / { proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
			proxy_read_timeout 2s; proxy_ignore_client_abort on; %s }
	}
}`, target, at, set))
		return []string{"-p", filepath.Dir(conf), "-e", "error.log", "-c", conf}
	})
}

// haproxy runs HAProxy in front of target; it tags what it forwards if it is told to.
func haproxy(t *testing.T, target string, tags bool) string {
	set := ""
	if tags {
		set = "unique-id-format %[uuid()]\n\tunique-id-header " + tag
	}
	return daemon(t, "haproxy", func(at string) []string {
		conf := write(t, "haproxy.cfg", fmt.Sprintf(`global
	nbthread 1
defaults
	mode http
	timeout client 2s
	timeout server 2s
	timeout connect 2s
	timeout http-request 2s
	timeout http-keep-alive 2s
	retries 0
frontend in
	bind %s
	%s
	default_backend next
backend next
	http-reuse always
	server next %s
`, at, set, target))
		return []string{"-db", "-f", conf}
	})
}

// attempts are the corpus, and what comes of splicing it: two vectors in a row, a piece of one
// within another, a field line of one in another's head. Each ends in a plain request, which is what a
// smuggled remainder would eat.
func attempts(t *testing.T, r *rand.Rand, spliced int) [][]byte {
	const plain = "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n"
	vectors := corpus.Read(t, "testdata/requests.txt", 4)
	any := func() []byte { return vectors[r.IntN(len(vectors))].Bytes }
	var out [][]byte
	for _, v := range vectors {
		out = append(out, append(slices.Clone(v.Bytes), plain...))
	}
	for range spliced {
		a, b := any(), any()
		var x []byte
		switch r.IntN(6) {
		case 0:
			x = slices.Concat(a, b)
		case 1:
			i, j := r.IntN(len(a)+1), r.IntN(len(b)+1)
			x = slices.Concat(a[:i], b[j:])
		case 2:
			lines := bytes.SplitAfter(b, []byte("\n"))
			i := bytes.IndexByte(a, '\n') + 1
			x = slices.Concat(a[:i], lines[r.IntN(len(lines))], a[i:])
		case 3, 4:
			x = smuggle(r)
		default:
			x = slices.Clone(a)
			if len(x) > 0 {
				x[r.IntN(len(x))] = byte(r.IntN(256))
			}
		}
		out = append(out, append(x, plain...))
	}
	return out
}

// smuggle makes a request whose body holds another: a hop that reads its framing otherwise
// than the next takes the inner one for a request of its own. Framing fields are drawn from what is
// plain, doubled, spelt oddly and contradictory.
func smuggle(r *rand.Rand) []byte {
	const inner = "GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	size := fmt.Sprintf("%x", len(inner))
	body := one(
		inner,                             // the whole body by Content-Length, nothing of it otherwise
		"0\r\n\r\n"+inner,                 // CL.TE: chunked ends at once
		size+"\r\n"+inner+"\r\n0\r\n\r\n", // TE.CL: the chunk is the request
		size+";a=b\r\n"+inner+"\r\n0\r\n\r\n", // with an extension
		"0"+size+"\r\n"+inner+"\r\n0\r\n\r\n", // with a leading zero
		size+"\n"+inner+"\r\n0\r\n\r\n",       // with a bare LF
		"0\r\nHost: y\r\n\r\n"+inner,          // with a trailer
		"0\r\n"+inner+"\r\n",                  // the request as trailers
	)
	length := func() string {
		n := one(fmt.Sprint(len(body)), fmt.Sprint(len(body)-len(inner)), fmt.Sprint(len(size)+2), "0", "+"+fmt.Sprint(len(size)+2), "0x4", "4 , 4", " 4")
		return one("Content-Length: ", "content-length:", "Content-Length : ", "Content_Length: ", "Content-Length:\t", " Content-Length: ") + n + one("\r\n", "\r\n", "\r\n", "\n", " \r\n")
	}
	coding := func() string {
		return one("Transfer-Encoding: ", "transfer-encoding:", "Transfer-Encoding : ", "Transfer_Encoding: ", "Transfer-Encoding:\x0b", "X: y\r\n Transfer-Encoding: ") +
			one("chunked", "chunked", "Chunked", "xchunked", "chunked, identity", "identity", "identity, chunked", "\"chunked\"", "chunked;q=1", "chunked\t") +
			one("\r\n", "\r\n", "\r\n", "\n")
	}
	var framing string
	switch r.IntN(6) {
	case 0:
		framing = length() + length()
	case 1:
		framing = coding() + coding()
	case 2:
		framing = coding() + length()
	case 3:
		framing = length()
	case 4:
		framing = coding()
	default:
		framing = length() + coding()
	}
	version := one("1.1", "1.1", "1.1", "1.0")
	return []byte(one("POST", "POST", "GET", "DELETE") + " /outer HTTP/" + version + "\r\nHost: x\r\n" + one("", "", "Connection: keep-alive, Content-Length\r\n", "Connection: Transfer-Encoding\r\n") +
		framing + "\r\n" + body)
}

// sendAll gives each attempt a connection of its own and hears it out.
func sendAll(t *testing.T, at string, all [][]byte) {
	work := make(chan []byte)
	var senders sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for b := range work {
				c, err := net.Dial("tcp", at)
				if err != nil {
					t.Error(err)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(guard))
				_, _ = c.Write(b)                 // a peer that refuses may close at once
				_ = c.(*net.TCPConn).CloseWrite() // nothing more will complete what is cut short
				_, _ = io.Copy(io.Discard, c)     // until it closes
				c.Close()
			}
		})
	}
	for _, b := range all {
		work <- b
	}
	close(work)
	senders.Wait()
}

// TestNoTwoHopsDisagreeOnBorders runs the corpus and splices of it through this engine in
// front of nginx, HAProxy and Go's net/http, and through nginx and HAProxy in front of this
// engine: the hop behind sees exactly requests that the hop in front sent, each once, with the
// same method, path and body.
func TestNoTwoHopsDisagreeOnBorders(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	spliced := 3000
	if raceEnabled {
		spliced = 500
	}
	all := attempts(t, rand.New(rand.NewPCG(seed, 1)), spliced)
	for name, peer := range map[string]func(*testing.T, string, bool) string{
		"net/http": func(_ *testing.T, target string, _ bool) string { return target },
		"nginx":    nginx, "haproxy": haproxy,
	} {
		t.Run("in front of "+name, func(t *testing.T) {
			t.Parallel()
			var sent, seen sightings
			sendAll(t, engine(t, &sent, peer(t, netHTTP(t, &seen), false)), all)
			known := map[string]sighting{}
			for _, s := range sent.all() {
				known[s.tag] = s
			}
			agree(t, seen.all(), known)
			t.Logf("%d attempts, %d accepted and sent, %d seen behind", len(all), len(sent.all()), len(seen.all()))
		})
		if name == "net/http" {
			continue // no proxy
		}
		t.Run("behind "+name, func(t *testing.T) {
			t.Parallel()
			var seen sightings
			sendAll(t, peer(t, engine(t, &seen, ""), true), all)
			agree(t, seen.all(), nil)
			t.Logf("%d attempts, %d seen behind", len(all), len(seen.all()))
		})
	}
}

// lenient is a hop as many were written: it looks for Content-Length and nothing else, and
// forwards the bytes of the head as they came.
func lenient(t *testing.T, target string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for serial := 0; ; serial++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { relayLeniently(c, target, serial) })
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

func relayLeniently(c net.Conn, target string, serial int) {
	defer c.Close()
	next, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer next.Close()
	_ = next.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(c)
	for i := 0; ; i++ {
		var head []string
		length := 0
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
			if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "content-length") {
				length, _ = strconv.Atoi(strings.TrimSpace(value))
			}
			head = append(head, line)
		}
		body := make([]byte, min(max(0, length), 1<<20))
		if len(head) == 0 {
			continue
		}
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		head = append(head, fmt.Sprintf("%s: lenient-%d-%d\r\n\r\n", tag, serial, i))
		if _, err := io.WriteString(next, strings.Join(head, "")+string(body)); err != nil {
			return
		}
	}
}

// TestDisagreementIsSeen is the control: with a lenient hop in the engine's place the same
// attempts show requests that nobody sent.
func TestDisagreementIsSeen(t *testing.T) {
	var seen sightings
	sendAll(t, lenient(t, netHTTP(t, &seen)), attempts(t, rand.New(rand.NewPCG(1, 1)), 500))
	for _, s := range seen.all() {
		if s.tag == "" {
			return
		}
	}
	t.Errorf("%d requests came through a lenient hop and all were known to it: the corpus smuggles nothing", len(seen.all()))
}

// agree checks what the hop behind saw. known, if not nil, is what the hop in front sent.
func agree(t *testing.T, seen []sighting, known map[string]sighting) {
	least := 100
	if raceEnabled { // of a sixth of the attempts; a loaded machine misses some by their deadline
		least = 50
	}
	if len(seen) < least {
		t.Fatalf("only %d requests were seen: nothing was tested", len(seen))
	}
	times := map[string]int{}
	for _, s := range seen {
		if times[s.tag]++; s.tag == "" || strings.Contains(s.tag, "+") || times[s.tag] > 1 {
			t.Errorf("a request that the hop in front did not send, or twice: %+v", s)
		}
		if known == nil {
			continue
		}
		if k, ok := known[s.tag]; !ok || k.method != s.method || k.body != s.body || k.path != s.path {
			t.Errorf("sent %+v, seen %+v", k, s)
		}
	}
}

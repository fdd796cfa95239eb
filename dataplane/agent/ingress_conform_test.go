package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/internal/corpus"
	"github.com/isthmus-mesh/isthmus/internal/foreign"
	"github.com/isthmus-mesh/isthmus/internal/issued"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tlsOffset is how much higher than the port of a listener of HTTP that of HTTPS is to the same application.
const tlsOffset = 100

// outsideOf starts an ingress gateway before an application, and returns where requests for any host come in for each of the
// ports of the service: 8080 is HTTP/1.1 and 8082 HTTP/2.
func outsideOf(t *testing.T, target netip.AddrPort, ports ...uint16) (doors []netip.AddrPort) {
	t.Helper()
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, target)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	web := &ir.Gateway{Namespace: "shop", Name: "web", Object: "Gateway shop/web@eu-west"}
	at, pair := loopback.Net(t).Addr().Next(), issued.NewAuthority(t).For("shop.example")
	for _, port := range ports {
		routes := []ir.Route{{Object: "HTTPRoute shop/web", Backends: []ir.Backend{{Service: catalog, Port: port, Weight: 1}}}}
		web.Listeners = append(web.Listeners, ir.Listener{Name: fmt.Sprint("to-", port), Port: port, Protocol: mesh.ListenerHTTP, Hosts: []ir.VirtualHost{{Routes: routes}}})
		doors = append(doors, netip.AddrPortFrom(at, port))
		web.Terminations = append(web.Terminations, ir.Termination{Certificates: []ir.Certificate{{Object: "Secret shop/web", Chain: string(pair.Certificate), Key: mesh.Hide(pair.Key)}},
			Listener: ir.Listener{Name: fmt.Sprint("tls-to-", port), Port: port + tlsOffset, Protocol: mesh.ListenerHTTPS, Hosts: []ir.VirtualHost{{Routes: routes}}}})
	}
	w.script.set("shop/web", web)
	in := w.ingressGateway(at)
	server.waitReady(t)
	in.waitReady(t)
	for _, door := range doors {
		eventually(t, "requests enter at "+door.String(), func() bool { s, _, _ := enter(t, door, "x", "/"); return s == 200 })
	}
	return doors
}

// TestIngressListenersH2Spec runs h2spec against the listeners of a Gateway.
func TestIngressListenersH2Spec(t *testing.T) {
	doors := outsideOf(t, serveBoth(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "hello")
	})), 8080, 8082)
	t.Run("to HTTP/1.1", func(t *testing.T) { foreign.H2Spec(t, doors[0].String()) })
	t.Run("to HTTP/2", func(t *testing.T) { foreign.H2Spec(t, doors[1].String()) })
	t.Run("by TLS, of a client that names no server", func(t *testing.T) {
		foreign.H2Spec(t, netip.AddrPortFrom(doors[1].Addr(), doors[1].Port()+tlsOffset).String(), "-t", "-k")
	})
}

// recorder is an application of net/http that remembers what came, as requests and as bytes.
type recorder struct {
	mu       sync.Mutex
	bytes    bytes.Buffer
	requests []string // "METHOD length", the length as that of the body that was read
}

type recorded struct {
	net.Conn
	to *recorder
}

func (c recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.bytes.Write(b[:n])
	return n, err
}

type recordingListener struct {
	net.Listener
	to *recorder
}

func (l recordingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return recorded{c, l.to}, nil
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, fmt.Sprint(q.Method, " ", len(body)))
}

// take returns what came since, and forgets it.
func (r *recorder) take() (requests []string, raw string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests, raw = r.requests, r.bytes.String()
	r.requests = nil
	r.bytes.Reset()
	return requests, raw
}

func (r *recorder) serve(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r, DisableGeneralOptionsHandler: true}
	go func() { _ = srv.Serve(recordingListener{ln, r}) }()
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), bound)
		defer stop()
		_ = srv.Shutdown(ctx)
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// canonicalHead is the one form in which a request leaves a proxy: nothing folded, no bare CR or LF, names in lower case.
var canonicalHead = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-\"$-~]+ HTTP/1\\.1(\r\n[!#$%&'*+.^_`|~0-9a-z-]+: ?[^\x00-\x08\x0a-\x1f\x7f]*)+\r\n\r\n")

// heads splits what came to an application into requests, by what is canonical alone, and says what is not.
func heads(raw string) (n int, fault string) {
	for ; raw != ""; n++ {
		head := canonicalHead.FindString(raw)
		if head == "" {
			return n, fmt.Sprintf("not canonical: %q", raw)
		}
		raw = raw[len(head):]
		lengths, chunked := 0, strings.Contains(head, "\r\ntransfer-encoding: chunked\r\n")
		for _, line := range strings.Split(head, "\r\n") {
			if value, ok := strings.CutPrefix(line, "content-length: "); ok {
				lengths++
				var size int
				if _, err := fmt.Sscanf(value, "%d", &size); err != nil || size > len(raw) {
					return n, fmt.Sprintf("a length of %q before %q", value, raw)
				}
				raw = raw[size:]
			}
		}
		if lengths > 1 || lengths == 1 && chunked || strings.Contains(head, "\r\ntransfer-encoding:") && !chunked || strings.Count(head, "\r\nhost:") != 1 {
			return n, fmt.Sprintf("its border is not said once: %q", head)
		}
		if chunked {
			end := strings.Index(raw, "0\r\n\r\n")
			if end < 0 {
				return n, fmt.Sprintf("chunks without an end: %q", raw)
			}
			raw = raw[end+len("0\r\n\r\n"):]
		}
	}
	return n, ""
}

// beginsAsHTTP1 is the form of the first line of HTTP/1.1.
var beginsAsHTTP1 = regexp.MustCompile(`^(\r\n)?\S+ \S+ HTTP/1\.\d\r?\n`)

// TestNothingIsSmuggledInFromOutside makes each attempt of the corpus at a Gateway's listener: what is refused reaches nobody,
// and of what is let in the application sees one request, in the one form that proxies write.
func TestNothingIsSmuggledInFromOutside(t *testing.T) {
	var seen recorder
	door := outsideOf(t, seen.serve(t), 8080)[0]
	seen.take()
	accepted := 0
	for _, v := range corpus.Read(t, "../http1/testdata/requests.txt", 4) {
		answer := attempt(t, door, v.Bytes)
		requests, raw := seen.take()
		want := strings.Fields(v.Columns[0])
		switch {
		case bytes.HasPrefix(v.Bytes, []byte("PRI * HTTP/2.0")):
			want = []string{""} // the server's own preface may come before the end of a connection on which there is no request
			if answer != "" && !strings.HasPrefix(answer[min(3, len(answer)):], "\x04") {
				t.Errorf("line %d (%s): answered %.40q: want the frame SETTINGS (RFC 9113 §3.4), or nothing", v.Line, v.Columns[2], answer)
			}
		case answer == "" && !beginsAsHTTP1.Match(v.Bytes):
			want = []string{""} // it speaks no version of HTTP: no answer is owed
		}
		if want[0] != "ok" {
			if len(requests) > 0 || raw != "" || !strings.HasPrefix(answer, "HTTP/1.1 "+want[0]) && want[0] != "" {
				t.Errorf("line %d (%s): answered %.40q, and the application saw %q: want %s and nothing", v.Line, v.Columns[2], answer, requests, want[0])
			}
			continue
		}
		n, fault := heads(raw)
		switch {
		case fault != "":
			t.Errorf("line %d (%s): the application was sent what is %s", v.Line, v.Columns[2], fault)
		case n > 1 || len(requests) != n:
			t.Errorf("line %d (%s): the application saw %q in %q", v.Line, v.Columns[2], requests, raw)
		case n == 0 && !strings.Contains(answer, "\r\nisthmus-reason: "):
			t.Errorf("line %d (%s): answered %.80q without a reason, and nothing reached the application", v.Line, v.Columns[2], answer)
		case n == 1 && !strings.HasPrefix(requests[0], want[1]+" "):
			t.Errorf("line %d (%s): the application saw %q", v.Line, v.Columns[2], requests)
		}
		accepted += n
	}
	if accepted < 20 {
		t.Errorf("only %d attempts of the corpus came in", accepted)
	}
}

// attempt sends bytes to a port, ends its direction and returns all that is answered.
func attempt(t *testing.T, at netip.AddrPort, what []byte) string {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	_, _ = c.Write(what)
	_ = c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Logf("%.40q: %v", what, err) // a reset ends it too
	}
	return string(answer)
}

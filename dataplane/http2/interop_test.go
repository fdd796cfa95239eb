package http2

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the ends of a loopback connection.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan net.Conn, 1)
	go func() {
		s, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-got
	return client, server
}

// tlsPair is tcpPair under TLS 1.3 with ALPN isthmus/1.
func tlsPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"x"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, s := tcpPair(t)
	sc := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos: []string{"isthmus/1"}, MinVersion: tls.VersionTLS13})
	cc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"isthmus/1"}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := sc.Handshake(); err != nil {
			t.Error(err)
		}
	})
	if err := cc.Handshake(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	return cc, sc
}

// pair runs our client against our server.
func pair(t testing.TB, cfg Config, client, server net.Conn, handler func(message.Exchange)) *ClientConn {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeConn(ctx, server, cfg, handler) }()
	cc, err := NewClientConn(client, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		stop()
		select {
		case <-done:
		case <-time.After(bound):
			t.Error("ServeConn did not return")
		}
	})
	return cc
}

// echo answers with the request's body and trailers.
func echo(x message.Exchange) {
	h := message.Head{Status: 200, Length: message.LengthUnknown}
	req := x.Request()
	h.Add("x-method", string(req.Method))
	h.Add("x-path", string(req.Path))
	h.Add("x-authority", string(req.Authority))
	h.Add("x-length", fmt.Sprint(req.Length))
	if v := req.Get("cookie"); v != nil {
		h.Add("x-cookie", string(v))
	}
	if err := x.Respond(&h, false); err != nil {
		return
	}
	b := make([]byte, 8<<10)
	for {
		n, err := x.Read(b)
		if n > 0 {
			if _, err := x.Write(b[:n]); err != nil {
				return
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.Abort(err)
			return
		}
	}
	x.Finish(x.Trailers())
}

func request(method, path string) *message.Head {
	h := &message.Head{Length: message.LengthUnknown}
	h.Method, h.Scheme = h.KeepString(method), h.KeepString("http")
	h.Authority, h.Path = h.KeepString("a.example:80"), h.KeepString(path)
	return h
}

// do sends one request and reads the whole response.
func do(cc *ClientConn, h *message.Head, body []byte, trailers []message.Field) (*message.Head, []byte, []message.Field, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	s, err := cc.Open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(bound))
	end := body == nil && trailers == nil
	if err := s.Send(h, end); err != nil {
		return nil, nil, nil, err
	}
	sent := make(chan error, 1)
	if end {
		sent <- nil
	} else {
		go func() {
			_, err := s.Write(body)
			if err == nil {
				err = s.CloseWrite(trailers)
			}
			sent <- err
		}()
	}
	resp := new(message.Head)
	if _, err := s.Receive(resp); err != nil {
		<-sent
		return nil, nil, nil, err
	}
	b, err := io.ReadAll(s)
	<-sent
	var tr []message.Field
	for _, f := range s.Trailers() {
		tr = append(tr, message.Field{Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value)})
	}
	return resp, b, tr, err
}

func TestOurClientAndOurServer(t *testing.T) {
	for name, dial := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "tls": tlsPair,
		"pipe": func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }} {
		t.Run(name, func(t *testing.T) {
			c, s := dial(t)
			cc := pair(t, Config{}, c, s, echo)
			big := bytes.Repeat([]byte("isthmus "), 300<<10)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					for j := range 10 {
						var body []byte
						switch {
						case i == 0 && j < 2:
							body = big
						case j%2 == 1:
							body = big[:j*1000]
						}
						want := []message.Field{{Name: []byte("x-sum"), Value: []byte(fmt.Sprint(i, j))}}
						if body == nil {
							want = nil
						}
						resp, got, tr, err := do(cc, request("POST", fmt.Sprintf("/%d/%d", i, j)), body, want)
						if err != nil {
							t.Errorf("request %d/%d: %v", i, j, err)
							return
						}
						if resp.Status != 200 || !bytes.Equal(got, body) || string(resp.Get("x-path")) != fmt.Sprintf("/%d/%d", i, j) {
							t.Errorf("request %d/%d: status %d, %d octets of %d, %s", i, j, resp.Status, len(got), len(body), resp.Get("x-path"))
						}
						if len(want) != len(tr) || len(tr) > 0 && string(tr[0].Value) != string(want[0].Value) {
							t.Errorf("trailers %v; want %v", tr, want)
						}
					}
				})
			}
			wg.Wait()
			if n := cc.InFlight(); n != 0 {
				t.Errorf("%d streams in flight after the last", n)
			}
		})
	}
}

// foreignServer serves net/http's HTTP/2 on a connection.
func foreignServer(t *testing.T, h http.HandlerFunc) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: unencryptedHTTP2()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func unencryptedHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func TestOurClientAndForeignServer(t *testing.T) {
	c := foreignServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hints":
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.WriteHeader(204)
		case "/abort":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("X-Query", r.URL.RawQuery)
			n, _ := io.Copy(w, r.Body)
			w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-Client")))
		}
	})
	cc, err := NewClientConn(c, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	body := bytes.Repeat([]byte("0123456789"), 300<<10)
	post := request("POST", "/x?q=1")
	post.Add("trailer", "x-client") // net/http shows announced trailers only
	resp, got, tr, err := do(cc, post, body, []message.Field{{Name: []byte("x-client"), Value: []byte("yes")}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != 200 || !bytes.Equal(got, body) || string(resp.Get("x-query")) != "q=1" {
		t.Errorf("status %d, %d octets, query %q", resp.Status, len(got), resp.Get("x-query"))
	}
	if len(tr) != 1 || string(tr[0].Name) != "x-sum" || string(tr[0].Value) != fmt.Sprint(len(body), "yes") {
		t.Errorf("trailers %s", tr)
	}

	s, err := cc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(request("GET", "/hints"), true); err != nil {
		t.Fatal(err)
	}
	var h message.Head
	if end, err := s.Receive(&h); err != nil || end || h.Status != 103 || string(h.Get("link")) != "</a>" {
		t.Errorf("first head: %d %v %v", h.Status, end, err)
	}
	if end, err := s.Receive(&h); err != nil || !end || h.Status != 204 || h.Has("link") {
		t.Errorf("second head: %d %v %v", h.Status, end, err)
	}
	s.Close()

	resp, _, _, err = do(cc, request("GET", "/abort"), nil, nil)
	if resp == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("aborted response: %v, %v", resp, err)
	}
	resp, got, _, err = do(cc, request("HEAD", "/x"), nil, nil)
	if err != nil || resp.Status != 200 || len(got) != 0 {
		t.Errorf("HEAD: %v %q %v", resp, got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if rtt, err := cc.Ping(ctx); err != nil || rtt <= 0 {
		t.Errorf("ping: %v %v", rtt, err)
	}
}

func TestForeignClientAndOurServer(t *testing.T) {
	c, s := tcpPair(t)
	done := make(chan error, 1)
	go func() {
		done <- ServeConn(t.Context(), s, Config{}, func(x message.Exchange) {
			switch string(x.Request().Path) {
			case "/early": // answers before the body has come
				x.Respond(&message.Head{Status: 403, Length: 0}, true)
			case "/abort":
				x.Respond(&message.Head{Status: 200, Length: message.LengthUnknown}, false)
				x.Write([]byte("part"))
				x.Abort(errors.New("upstream broke"))
			case "/refuse":
				x.Abort(fmt.Errorf("no place: %w", message.ErrNotExecuted))
			case "/nothing":
			default:
				echo(x)
			}
		})
	}()
	dials := 0
	cc := &http.Transport{Protocols: unencryptedHTTP2(), DialContext: func(context.Context, string, string) (net.Conn, error) {
		if dials++; dials > 1 {
			return nil, errors.New("the connection was given up")
		}
		return c, nil
	}}
	defer func() {
		for { // a stream that was just given up may keep the connection from being idle
			cc.CloseIdleConnections()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("ServeConn: %v", err)
				}
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	do := func(method, path string, body io.Reader, set func(*http.Request)) (*http.Response, []byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://a.example"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if set != nil {
			set(req)
		}
		resp, err := cc.RoundTrip(req)
		if err != nil {
			return nil, nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, b, err
	}
	big := strings.Repeat("isthmus ", 400<<10)
	resp, b, err := do("POST", "/x", io.MultiReader(strings.NewReader(big)), func(r *http.Request) {
		r.Trailer = http.Header{"X-T": {"1"}}
		r.AddCookie(&http.Cookie{Name: "a", Value: "1"})
		r.AddCookie(&http.Cookie{Name: "b", Value: "2"})
	})
	if err != nil || string(b) != big || resp.Trailer.Get("X-T") != "1" || resp.Header.Get("X-Cookie") != "a=1; b=2" {
		t.Errorf("echo: %v, %d octets, %v", err, len(b), resp)
	}
	if resp, b, err := do("POST", "/y", strings.NewReader("abc"), nil); err != nil || string(b) != "abc" || resp.Header.Get("X-Length") != "3" {
		t.Errorf("echo with length: %v %q %v", err, b, resp)
	}
	if resp, _, err := do("POST", "/early", strings.NewReader(big), nil); err != nil || resp.StatusCode != 403 {
		t.Errorf("early: %v %v", resp, err)
	}
	if _, _, err := do("GET", "/abort", nil, nil); err == nil {
		t.Error("an aborted response was taken for a whole one")
	}
	if _, _, err := do("POST", "/refuse", io.MultiReader(strings.NewReader("x")), nil); err == nil || !strings.Contains(err.Error(), "REFUSED_STREAM") {
		t.Errorf("refused: %v", err)
	}
	if _, _, err := do("GET", "/nothing", nil, nil); err == nil {
		t.Error("a handler that did nothing sent a response")
	}
	if resp, _, err := do("GET", "/again", nil, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("after all that: %v %v", resp, err)
	}
}

// A foreign client loses nothing by our drain: its transport moves what GOAWAY names.
func TestForeignClientSurvivesOurDrain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	var drains []context.CancelFunc
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			one, drain := context.WithCancel(ctx)
			// Of a connection that ends before it has carried anything net/http says that it could not be established, and asks no
			// other; the listeners give such a one time (agent's idleGrace).
			used := sync.OnceFunc(func() {
				mu.Lock()
				defer mu.Unlock()
				drains = append(drains, drain)
			})
			conns.Go(func() {
				defer drain()
				if err := ServeConn(one, s, Config{}, func(x message.Exchange) { used(); echo(x) }); err != nil {
					t.Errorf("ServeConn: %v", err)
				}
			})
		}
	})
	tr := &http.Transport{Protocols: unencryptedHTTP2()}
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				resp, err := client.Post("http://"+l.Addr().String()+"/", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Errorf("request: %v", err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(b) != "body" {
					t.Errorf("response: %q, %v", b, err)
				}
				if i%20 == 10 {
					mu.Lock()
					for _, drain := range drains {
						drain()
					}
					drains = nil
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	tr.CloseIdleConnections()
	stop()
	l.Close()
	conns.Wait()
}

// Our client loses nothing when a foreign server shuts down.
func TestOurClientSurvivesAForeignShutdown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: unencryptedHTTP2(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(l) })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cc, err := NewClientConn(c, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	started := make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				_, b, _, err := do(cc, request("POST", "/"), []byte("body"), nil)
				if errors.Is(err, message.ErrNotExecuted) {
					return
				}
				if err != nil || string(b) != "body" {
					t.Errorf("%q, %v", b, err)
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 50 {
		<-started
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	wg.Wait()
	serving.Wait()
}

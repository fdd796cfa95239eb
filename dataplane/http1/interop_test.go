package http1

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// relay forwards one request with its body and interim heads, one goroutine each way.
func relay(ex message.Exchange, p *Pool, target string) error {
	s, _, err := p.Get(context.Background(), target)
	if err != nil {
		return err
	}
	defer s.Close()
	deadline := time.Now().Add(guard)
	s.SetDeadline(deadline)
	ex.SetDeadline(deadline)
	q := ex.Request()
	if err := s.Send(q, q.Length == 0); err != nil {
		return err
	}
	upload := func() error {
		_, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{ex}, make([]byte, 8<<10))
		if err != nil {
			return err
		}
		return s.CloseWrite(ex.Trailers())
	}
	sent := make(chan error, 1)
	start := sync.OnceFunc(func() {
		if q.Length == 0 {
			sent <- nil
			return
		}
		go func() { sent <- upload() }()
	})
	if !q.Expect100 {
		start()
	}
	var h message.Head
	for {
		end, err := s.Receive(&h)
		if err != nil {
			return err
		}
		if err := ex.Respond(&h, end); err != nil {
			return err
		}
		if h.Status == 100 {
			start()
		}
		if h.Status < 200 {
			continue
		}
		if !end {
			if _, err := io.CopyBuffer(struct{ io.Writer }{ex}, struct{ io.Reader }{s}, make([]byte, 8<<10)); err != nil {
				return err
			}
			if err := ex.Finish(s.Trailers()); err != nil {
				return err
			}
		}
		if q.Expect100 {
			s.SetDeadline(time.Unix(1, 0)) // if the body was never asked for
			start()
		}
		<-sent // an early answer makes its error moot
		return nil
	}
}

// relayTo runs a proxy in front of target and returns its URL.
func relayTo(t *testing.T, target string) string {
	p := newTestPool(t, PoolConfig{})
	b := newBackend(t, func(ex message.Exchange) {
		if err := relay(ex, p, target); err != nil {
			t.Errorf("relay: %v", err)
			ex.Abort(err)
		}
	})
	return "http://" + b.addr
}

// Go's own client and server must not notice that the engine stands between them.
func TestNetHTTPThroughTheEngine(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		// Without it net/http drops up to 256 KiB of the body once it answers.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Sum")
		n, err := io.Copy(w, r.Body)
		w.Header().Set("Sum", fmt.Sprint(n, err, r.Trailer.Get("Asked")))
	})
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "a")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "done")
	})
	mux.HandleFunc("/continue", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprint(w, len(b), err)
	})
	origin := httptest.NewServer(mux)
	defer origin.Close()
	url := relayTo(t, strings.TrimPrefix(origin.URL, "http://"))
	transport := &http.Transport{ExpectContinueTimeout: guard, DialContext: (&net.Dialer{Timeout: guard}).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: guard}

	do := func(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequest(method, url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(r)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	for range 3 {
		res, body := do("POST", "/echo", bytes.NewReader(big), nil)
		if body != string(big) || res.Trailer.Get("Sum") != fmt.Sprint(len(big), nil, "") {
			t.Errorf("echo: %d bytes, trailer %q", len(body), res.Trailer)
		}
		res, body = do("POST", "/echo", struct{ io.Reader }{bytes.NewReader(big)}, func(r *http.Request) {
			r.Trailer = http.Header{"Asked": {"yes"}}
		})
		if body != string(big) || res.Trailer.Get("Sum") != fmt.Sprint(len(big), nil, "yes") {
			t.Errorf("chunked echo: %d bytes, trailer %q", len(body), res.Trailer)
		}
		if res, body := do("GET", "/empty", nil, nil); res.StatusCode != 204 || body != "" {
			t.Errorf("empty: %d %q", res.StatusCode, body)
		}
		if res, body := do("HEAD", "/hints", nil, nil); res.StatusCode != 200 || res.ContentLength != 4 || body != "" {
			t.Errorf("head: %d, length %d, %q", res.StatusCode, res.ContentLength, body)
		}
		if res, body := do("GET", "/hints", nil, nil); res.Header.Get("Link") != "a" || body != "done" {
			t.Errorf("hints: %q %q", res.Header, body)
		}
		if _, body := do("PUT", "/continue", bytes.NewReader(big), func(r *http.Request) {
			r.Header.Set("Expect", "100-continue")
		}); body != fmt.Sprint(len(big), nil) {
			t.Errorf("continue: %q", body)
		}
		if res, _ := do("GET", "/nowhere", nil, nil); res.StatusCode != 404 {
			t.Errorf("nowhere: %d", res.StatusCode)
		}
	}
}

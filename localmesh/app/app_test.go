package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(service string) Config {
	return Config{Service: service, Namespace: "shop", Cluster: "eu-west", Region: "eu-west-1", Zone: "a", Instance: service + "-0",
		Listen: netip.MustParseAddrPort("127.0.0.1:0")}
}

func ask(t *testing.T, h http.Handler, method, target string, change func(*http.Request)) (*httptest.ResponseRecorder, Answer) {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a Answer
	if w.Body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("the answer is no JSON: %v\n%s", err, w.Body)
		}
	}
	return w, a
}

func TestEchoSaysWhereItIsAndWhoCalls(t *testing.T) {
	h := Handler(Echo, config("catalog"), slog.New(slog.DiscardHandler))
	w, got := ask(t, h, "GET", "http://catalog.shop/items?id=7", func(r *http.Request) {
		r.Header.Set("X-Forwarded-Client-Cert", `By=spiffe://x/ns/a/sa/b;URI="spiffe://eu-west.isthmus.local/ns/default/sa/shell"`)
		r.Header.Add("X-Many", "1")
		r.Header.Add("X-Many", "2")
	})
	want := Answer{Service: "catalog", Namespace: "shop", Cluster: "eu-west", Region: "eu-west-1", Zone: "a", Instance: "catalog-0",
		Caller: "spiffe://eu-west.isthmus.local/ns/default/sa/shell", Method: "GET", Path: "/items?id=7",
		Headers: map[string]string{"host": "catalog.shop", "x-many": "1, 2",
			"x-forwarded-client-cert": `By=spiffe://x/ns/a/sa/b;URI="spiffe://eu-west.isthmus.local/ns/default/sa/shell"`}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("answer (-want +got):\n%s", d)
	}
	if w.Code != 200 || bytes.Count(w.Body.Bytes(), []byte("\n")) != 1 || !bytes.HasSuffix(w.Body.Bytes(), []byte("\n")) {
		t.Errorf("status %d and body %q: want 200 and one line", w.Code, w.Body)
	}
	for i, field := range []string{"service", "namespace", "cluster", "region", "zone", "instance", "caller", "method", "path", "headers"} {
		if at := strings.Index(w.Body.String(), `"`+field+`":`); at < 0 {
			t.Errorf("field %d, %s, is missing in %s", i, field, w.Body)
		}
	}
}

func TestTheNearestPeerIsTheCaller(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{"Hash=abc"}, ""},
		{[]string{"URI=spiffe://a/ns/b/sa/c"}, "spiffe://a/ns/b/sa/c"},
		{[]string{"By=x;URI=spiffe://far,Hash=1;uri=spiffe://near"}, "spiffe://near"},
		{[]string{"URI=spiffe://far", "URI=spiffe://near"}, "spiffe://near"},
	} {
		if got := caller(c.values); got != c.want {
			t.Errorf("caller(%q) = %q, want %q", c.values, got, c.want)
		}
	}
}

func TestKnobsTurnByQueryAndByHeader(t *testing.T) {
	h := Handler(Echo, config("catalog"), slog.New(slog.DiscardHandler))
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w, a := ask(t, h, "GET", "/?delay=50ms&size=1000", func(r *http.Request) { r.Header.Set("x-echo-status", "503") })
		if w.Code != 503 || len(a.Padding) != 1000 {
			t.Errorf("status %d, %d bytes of padding: want 503 and 1000", w.Code, len(a.Padding))
		}
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("answered after %v, want 50ms", took)
		}
	})
	for _, target := range []string{"/?delay=2m", "/?delay=-1s", "/?status=99", "/?status=ok", "/?size=-1", "/?size=999999999", "/?lanes=0", "/?load=much"} {
		if w, _ := ask(t, h, "GET", target, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", target, w.Code)
		}
	}
	if w, _ := ask(t, h, "HEAD", "/", nil); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: status %d, body %q: want 200 and none", w.Code, w.Body)
	}
}

// TestHiddenLanesAreSharedAndTold: requests that ask for lanes wait for each other, though the instance has no limit, and say how busy those are if they
// are to.
func TestHiddenLanesAreSharedAndTold(t *testing.T) {
	h := Handler(Echo, config("catalog"), slog.New(slog.DiscardHandler))
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() { ask(t, h, "GET", "/?delay=100ms&lanes=2", nil) })
		}
		all.Wait()
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("six of 100 ms before two lanes took %v, want 300ms", took)
		}
		if w, _ := ask(t, h, "GET", "/?lanes=2&load=true", nil); w.Header().Get("Endpoint-Load-Metrics") != "TEXT application_utilization=0.500" {
			t.Errorf("one of two lanes is busy, and it says %q", w.Header())
		}
	})
}

// shop runs each service of the shop, and a proxy that leads their names to them.
func shop(t *testing.T, broken string) http.Handler {
	t.Helper()
	services := map[string]http.Handler{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, ok := strings.CutSuffix(r.URL.Hostname(), ".shop.svc.clusterset.local")
		if h := services[service]; ok && h != nil && service != broken {
			h.ServeHTTP(w, r)
			return
		}
		http.Error(w, "no healthy endpoint", http.StatusServiceUnavailable)
	}))
	t.Cleanup(proxy.Close)
	for _, name := range []string{"frontend", "catalog", "reviews", "cart"} {
		c := config(name)
		c.Proxy = proxy.Listener.Addr().(*net.TCPAddr).AddrPort()
		h := Handler(Shop, c, slog.New(slog.DiscardHandler))
		if client := h.(*handler).client; client != nil {
			t.Cleanup(client.CloseIdleConnections)
		}
		services[name] = h
	}
	return services["frontend"]
}

func TestTheShopNestsTheAnswersOfWhomItCalls(t *testing.T) {
	w, a := ask(t, shop(t, ""), "GET", "/", func(r *http.Request) { r.Header.Set("x-request-id", "r-1") })
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if d := cmp.Diff([]string{"catalog", "reviews", "cart"}, names(t, a)); d != "" {
		t.Errorf("called (-want +got):\n%s", d)
	}
	var catalog Answer
	if err := json.Unmarshal(a.Calls[0].Answer, &catalog); err != nil {
		t.Fatal(err)
	}
	if got := catalog.Headers["x-request-id"]; got != "r-1" {
		t.Errorf("the catalog saw request id %q, want that of the caller", got)
	}
}

func TestAFailureAnywhereInTheShopIsSeenByTheCaller(t *testing.T) {
	w, a := ask(t, shop(t, "reviews"), "GET", "/", nil)
	if w.Code != http.StatusBadGateway {
		t.Errorf("status %d, want 502", w.Code)
	}
	if !strings.Contains(w.Body.String(), "no healthy endpoint") {
		t.Errorf("the reason is not in the answer: %s", w.Body)
	}
	if a.Calls[1].Status != 200 {
		t.Errorf("cart: %+v: want it called all the same", a.Calls[1])
	}
}

func TestARingOfServicesEnds(t *testing.T) {
	w, _ := ask(t, shop(t, ""), "GET", "/", func(r *http.Request) { r.Header.Set(headerDepth, fmt.Sprint(nestedMax)) })
	if w.Code != 200 || strings.Contains(w.Body.String(), `"calls"`) {
		t.Errorf("status %d, %s: want no further calls", w.Code, w.Body)
	}
}

func names(t *testing.T, a Answer) []string {
	t.Helper()
	var out []string
	for _, c := range a.Calls {
		out = append(out, c.Service)
		var next Answer
		if err := json.Unmarshal(c.Answer, &next); err != nil {
			t.Fatalf("%s: %v: %s", c.Service, err, c.Error)
		}
		out = append(out, names(t, next)...)
	}
	return out
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, ln, Handler(Echo, config("catalog"), slog.New(slog.DiscardHandler))) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + ln.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v, want nil", err)
	}
	if err := Run(t.Context(), "ecko", config("x"), nil); err == nil {
		t.Error("an unknown workload ran")
	}
	if err := Run(t.Context(), Echo, Config{Instance: "x"}, nil); err == nil {
		t.Error("a workload without an address ran")
	}
}

func TestACommandRunsWithItsEnvironmentAndEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "out")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Instance: "x-0", Dir: dir, Env: []string{"PORT=8080"}, Command: []string{"/bin/sh", "-c", `echo "$PORT in $PWD" > out; exec sleep 60`}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Exec, c, nil) }()
	said := make(chan string, 1)
	go func() { said <- read(fifo) }()
	if got, want := <-said, "8080 in "+dir+"\n"; got != want {
		t.Errorf("the command said %q, want %q", got, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v, want nil", err)
	}
}

func TestACommandThatEndsByItselfIsAnError(t *testing.T) {
	for script, status := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137} {
		err := Run(t.Context(), Exec, Config{Command: []string{"/bin/sh", "-c", script}}, nil)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Status != status {
			t.Errorf("%s: %v, want status %d", script, err, status)
		}
	}
	if err := Run(t.Context(), Exec, Config{Command: []string{"/nonexistent"}}, nil); err == nil {
		t.Error("a command that does not exist ran")
	}
	if err := Run(t.Context(), Exec, Config{}, nil); err == nil {
		t.Error("no command ran")
	}
}

func TestReadConfigRefusesWhatItDoesNotKnow(t *testing.T) {
	if _, err := ReadConfig(strings.NewReader(`{"service":"a","listen":"127.0.0.1:80"}`)); err != nil {
		t.Error(err)
	}
	if _, err := ReadConfig(strings.NewReader(`{"servise":"a"}`)); err == nil {
		t.Error("an unknown field was read")
	}
}

func read(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestDatagramsAreAnswered by a workload that runs, at the port of its requests.
func TestDatagramsAreAnswered(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	at := socket.LocalAddr().String()
	ended := answerFrom(ctx, socket, config("dns"))
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 4096)
	var got Received
	for range 60 {
		_, _ = c.Write([]byte("who?"))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(b); err == nil {
			if err := json.Unmarshal(b[:n], &got); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	want := Received{Service: "dns", Namespace: "shop", Cluster: "eu-west", Region: "eu-west-1", Zone: "a", Instance: "dns-0", Text: "who?", From: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// Where somebody else has the port, an instance goes on without it.
	<-answerDatagrams(ctx, at, config("late"), slog.New(slog.DiscardHandler))
	stop()
	<-ended
}

package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Answer is the body of every response, one line of JSON.
type Answer struct {
	Service   string           `json:"service"`
	Namespace string           `json:"namespace"`
	Cluster   mesh.ClusterName `json:"cluster"`
	Region    mesh.Region      `json:"region"`
	Zone      mesh.Zone        `json:"zone"`
	Instance  string           `json:"instance"`
	// Caller is the SPIFFE ID that the sidecar authenticated; "" without one.
	Caller  string            `json:"caller"`
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	// BodyBytes is the length of the request's body.
	BodyBytes int64  `json:"bodyBytes,omitempty"`
	Calls     []Call `json:"calls,omitempty"`
	// Padding is what Knobs.Size asks for.
	Padding string `json:"padding,omitempty"`
}

// Call is what became of a call to another service.
type Call struct {
	Service string `json:"service"`
	Status  int    `json:"status,omitempty"` // 0 where there was no answer
	Error   string `json:"error,omitempty"`
	// Answer is the callee's, where it was JSON.
	Answer json.RawMessage `json:"answer,omitempty"`
}

// Knobs are what a request may ask for, by query or by header: ?delay=50ms or
// x-echo-delay: 50ms.
type Knobs struct {
	Delay  time.Duration // before the answer, at most a minute
	Status int           // of the answer, 200 to 599
	Size   int           // at least so many bytes of padding in the body, at most 16 MiB
	// Lanes is how many requests that ask for it are served at once, as the first of them asks, though nothing declares it.
	Lanes int
	// Load says that the answer is to state how busy those lanes are (dataplane/orca).
	Load bool
}

const (
	delayMax    = time.Minute
	sizeMax     = 16 << 20
	bodyMax     = 1 << 30
	lanesMax    = 1000
	callTimeout = 15 * time.Second
	answerMax   = 4 << 20 // of a callee
	nestedMax   = 8       // calls of calls, so that a ring of services ends
	headerDepth = "x-shop-depth"
)

func readKnobs(r *http.Request) (Knobs, error) {
	k := Knobs{Status: http.StatusOK}
	query := r.URL.Query()
	for _, knob := range []struct {
		name string
		read func(string) error
	}{
		{"delay", func(s string) (err error) {
			k.Delay, err = time.ParseDuration(s)
			return within(k.Delay, 0, delayMax, err)
		}},
		{"status", func(s string) (err error) { k.Status, err = strconv.Atoi(s); return within(k.Status, 200, 599, err) }},
		{"lanes", func(s string) (err error) { k.Lanes, err = strconv.Atoi(s); return within(k.Lanes, 1, lanesMax, err) }},
		{"load", func(s string) (err error) { k.Load, err = strconv.ParseBool(s); return err }},
		{"size", func(s string) (err error) { k.Size, err = strconv.Atoi(s); return within(k.Size, 0, sizeMax, err) }},
	} {
		text := r.Header.Get("x-echo-" + knob.name)
		if query.Has(knob.name) {
			text = query.Get(knob.name)
		}
		if text == "" {
			continue
		}
		if err := knob.read(text); err != nil {
			return k, fmt.Errorf("%s=%s: %w", knob.name, text, err)
		}
	}
	return k, nil
}

func within[T int | time.Duration](v, low, high T, err error) error {
	if err == nil && (v < low || v > high) {
		return fmt.Errorf("want %v to %v", low, high)
	}
	return err
}

// handler answers for one instance.
type handler struct {
	Config
	calls  []string
	client *http.Client
	log    *slog.Logger
	lanes  chan struct{} // nil is no limit
	asked  sync.Once
	hidden chan struct{} // the lanes of requests that ask for some
}

// Handler answers as echo or shop.
func Handler(what string, c Config, log *slog.Logger) http.Handler {
	h := &handler{Config: c, log: log}
	if c.Lanes > 0 {
		h.lanes = make(chan struct{}, c.Lanes)
	}
	if what == Shop {
		calls := c.Calls
		if calls == nil {
			calls = DefaultCalls()
		}
		h.calls = calls[c.Service]
		h.client = client(c)
	}
	return h
}

// client calls through the explicit proxy, from the instance's own address.
func client(c Config) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Listen.Addr(), 0))}
	t := &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	if c.Proxy.IsValid() {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: c.Proxy.String()})
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, err := readKnobs(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, bodyMax))
	if err != nil {
		http.Error(w, "read the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	lanes := h.lanes
	if k.Lanes > 0 {
		h.asked.Do(func() { h.hidden = make(chan struct{}, k.Lanes) })
		lanes = h.hidden
	}
	if lanes != nil {
		select {
		case lanes <- struct{}{}:
			defer func() { <-lanes }()
		case <-r.Context().Done():
			return
		}
	}
	if k.Load && lanes != nil {
		w.Header().Set("Endpoint-Load-Metrics", fmt.Sprintf("TEXT application_utilization=%.3f", float64(len(lanes))/float64(cap(lanes))))
	}
	timer := time.NewTimer(k.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return
	}
	a := h.answer(r)
	a.BodyBytes = body
	a.Padding = strings.Repeat("x", k.Size)
	a.Calls = h.callAll(r)
	for _, c := range a.Calls {
		// Half an answer is none: who calls the shop shall see a failure wherever it was.
		if (c.Error != "" || c.Status >= 500) && k.Status < 500 {
			k.Status = http.StatusBadGateway
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(k.Status)
	if r.Method == http.MethodHead || k.Status == http.StatusNoContent || k.Status == http.StatusNotModified {
		return
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(a); err != nil {
		h.log.Error("an answer could not be written", "error", err)
		return
	}
	_, _ = w.Write(line.Bytes())
}

func (h *handler) answer(r *http.Request) Answer {
	a := Answer{Service: h.Service, Namespace: h.Namespace, Cluster: h.Cluster, Region: h.Region, Zone: h.Zone, Instance: h.Instance,
		Caller: caller(r.Header.Values("x-forwarded-client-cert")), Method: r.Method, Path: r.URL.RequestURI(),
		Headers: map[string]string{"host": r.Host}}
	for name, values := range r.Header {
		a.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return a
}

// caller is the identity of the nearest peer: the URI of the last element.
func caller(values []string) string {
	id := ""
	for _, v := range values {
		for element := range strings.SplitSeq(v, ",") {
			for pair := range strings.SplitSeq(element, ";") {
				if key, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && strings.EqualFold(key, "URI") {
					id = strings.Trim(value, `"`)
				}
			}
		}
	}
	return id
}

// callAll calls whom the service needs, at once, and returns their answers in order.
func (h *handler) callAll(r *http.Request) []Call {
	depth, _ := strconv.Atoi(r.Header.Get(headerDepth))
	if len(h.calls) == 0 || depth >= nestedMax {
		return nil
	}
	out := make([]Call, len(h.calls))
	var wg sync.WaitGroup
	for i, service := range h.calls {
		wg.Go(func() { out[i] = h.call(r, service, depth+1) })
	}
	wg.Wait()
	return out
}

// passed on, so that what a person sends to the frontend can be followed through the shop.
var passed = [...]string{"traceparent", "tracestate", "x-request-id"}

func (h *handler) call(r *http.Request, service string, depth int) Call {
	c := Call{Service: service}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	host := service + "." + h.Namespace + "." + mesh.ClustersetDomain
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	for _, name := range passed {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	req.Header.Set(headerDepth, strconv.Itoa(depth))
	resp, err := h.client.Do(req)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	defer resp.Body.Close()
	c.Status = resp.StatusCode
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	switch {
	case err != nil:
		c.Error = "read the answer: " + err.Error()
	case json.Valid(text):
		c.Answer = bytes.TrimSpace(text)
	default:
		c.Error = fmt.Sprintf("%s: %s", resp.Status, bytes.TrimSpace(text[:min(len(text), 200)]))
	}
	return c
}

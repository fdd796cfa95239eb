package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/store"
)

// Bounds of a connection.
const (
	headTimeout = 10 * time.Second
	idleTimeout = 2 * time.Minute
	writeGrace  = 10 * time.Second // one event of a watch
	headBytes   = 64 << 10
)

// Server answers requests. It is an http.Handler; Run also serves it. It is safe for
// concurrent use.
type Server struct {
	cfg Config
	mux *http.ServeMux
	// ending closes when watches must end.
	ending context.Context
	end    context.CancelFunc

	// writing makes applies that ask for addresses take turns, so that two services never get one.
	writing sync.Mutex
	// stated is guarded by writing.
	stated address.Stated
}

// NewServer returns a server; the error lists what is missing in cfg.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg.withDefaults(), mux: http.NewServeMux()}
	s.ending, s.end = context.WithCancel(context.Background())
	for pattern, h := range map[string]handler{
		"POST /v1/apply":                                s.apply,
		"GET /v1/objects/{kind}":                        s.list,
		"GET /v1/objects/{kind}/{namespace}/{name}":     s.get,
		"DELETE /v1/objects/{kind}/{namespace}/{name}":  s.remove,
		"GET /v1/proxies":                               s.proxies,
		"GET /v1/proxies/{namespace}/{workload}/config": s.proxyConfig,
		"GET /v1/explain":                               s.explain,
		"GET /v1/forecast":                              s.forecast,
		"GET /v1/status":                                s.status,
		"GET /v1/version":                               s.version,
		"GET /v1/digests":                               s.digests,
		"GET /v1/digests/{side}/{cluster}":              s.digestObjects,
		"GET /metrics":                                  s.metrics,
		"GET /v1/metrics":                               s.metrics, // by way of a local mesh's console
		"GET /v1/bundle":                                s.bundle,
		"POST /v1/tokens":                               s.tokens,
		"/":                                             s.unknown,
	} {
		s.mux.Handle(pattern, s.authorised(h))
	}
	for pattern, h := range s.cfg.More {
		s.mux.Handle(pattern, s.authorised(h))
	}
	s.mux.Handle("GET /healthz", s.checked(s.health))
	return s, nil
}

// handler answers a request or returns why not; it has then written nothing.
type handler func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends all watches; requests in progress are left to end.
func (s *Server) Close() { s.end() }

// Run serves connections of l until ctx ends, then lets requests in progress end for up to
// five seconds. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headBytes}
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(stopped)
		<-ctx.Done()
		s.Close()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // what is left is cut off
		}
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	}
	return nil
}

// checked refuses requests that a web page could have sent: by a name that is not ours (DNS
// rebinding) or from another origin.
func (s *Server) checked(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		switch origin := r.Header.Get("Origin"); {
		case !s.isOurHost(r.Host):
			answer(w, &Error{Status: http.StatusForbidden, Op: "call", Object: r.Host, Problem: "the API does not go by this name",
				Remedy: "use its IP address or localhost"})
		case origin != "" && !sameOrigin(origin, r.Host):
			answer(w, &Error{Status: http.StatusForbidden, Op: "call", Object: r.Host, Problem: "requests from the origin " + origin + " are refused",
				Remedy: "call the API from the console's own page or without a browser"})
		default:
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		}
	})
}

// authorised is checked, for callers with the token and with a deadline.
func (s *Server) authorised(h handler) http.Handler {
	want := sha256.Sum256([]byte(s.cfg.Token))
	return s.checked(func(w http.ResponseWriter, r *http.Request) error {
		shown, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(shown)) // equal lengths, so that the comparison takes equal time
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			return &Error{Status: http.StatusUnauthorized, Op: "call", Object: r.URL.Path, Problem: "the token is missing or wrong",
				Remedy: "send Authorization: Bearer with the token of the state directory"}
		}
		if r.URL.Query().Get("watch") == "" {
			ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		return h(w, r)
	})
}

func (s *Server) isOurHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(strings.ToLower(host), "[]")
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost" || slices.Contains(s.cfg.Hosts, host)
}

func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host == host && (u.Scheme == "http" || u.Scheme == "https")
}

// fail answers with the error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: statusOfError(err), Op: strings.ToLower(r.Method), Object: r.URL.Path, Problem: err.Error()}
	}
	if e.Status >= http.StatusInternalServerError {
		s.cfg.Log.Warn("request failed", "op", e.Op, "object", e.Object, "err", e.Problem)
	}
	answer(w, e)
}

// statusOfError translates what the store says.
func statusOfError(err error) int {
	for _, k := range []struct {
		err    error
		status int
	}{
		{store.ErrNotFound, http.StatusNotFound}, {store.ErrConflict, http.StatusConflict}, {store.ErrExists, http.StatusConflict},
		{store.ErrTooLarge, http.StatusRequestEntityTooLarge}, {store.ErrFull, http.StatusInsufficientStorage},
		{store.ErrUnavailable, http.StatusServiceUnavailable}, {context.DeadlineExceeded, http.StatusGatewayTimeout},
	} {
		if errors.Is(err, k.err) {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

func answer(w http.ResponseWriter, e *Error) { _ = reply(w, e.Status, e) }

// reply writes v as JSON. A caller who left meanwhile is no error of anybody.
func reply(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return nil
}

func (s *Server) unknown(_ http.ResponseWriter, r *http.Request) error {
	return &Error{Status: http.StatusNotFound, Op: strings.ToLower(r.Method), Object: r.URL.Path, Problem: "the API has no such path or method"}
}

// health answers without a token: 200 when the control plane is ready.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	if err := s.cfg.Ready(); err != nil {
		return &Error{Status: http.StatusServiceUnavailable, Op: "check", Object: "control plane", Problem: err.Error()}
	}
	_, _ = w.Write([]byte("ok\n"))
	return nil
}

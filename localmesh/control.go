package localmesh

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// DrillRequest is the body of POST /v1/local/drill.
type DrillRequest struct {
	Verb    string       `json:"verb"`
	Targets []string     `json:"targets"`
	Options DrillOptions `json:"options"`
}

// apiError is the body of every answer that is not a success.
type apiError struct {
	Error string   `json:"error"`
	Valid []string `json:"valid,omitempty"` // targets that could have been written
}

const requestMaxBytes = 1 << 20

// serve answers on the console's address until ctx ends; the channel is closed when the last
// answer is given.
func (m *Mesh) serve(ctx context.Context) <-chan struct{} {
	srv := &http.Server{Handler: m.handler(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			_ = srv.Close()
		}
	})
	go func() {
		defer close(done)
		if err := srv.Serve(m.console); !errors.Is(err, http.ErrServerClosed) {
			m.log.Error("the mesh's API ended", "error", err)
		}
		if !stop() {
			<-stopped
		}
	}()
	return done
}

// handler is the mesh's API:
//
//	GET  /v1/local                   what runs: Summary
//	POST /v1/local/drill             DrillRequest
//	POST /v1/local/down              ends the mesh
//	     /v1/clusters/CLUSTER/REST   /v1/REST of the cluster's control plane
func (m *Mesh) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/local", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, m.Summary()) })
	mux.HandleFunc("POST /v1/local/drill", m.serveDrill)
	mux.HandleFunc("POST /v1/local/down", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusAccepted, struct{}{})
		m.down()
	})
	mux.HandleFunc("/v1/clusters/{cluster}/{rest...}", m.serveCluster)
	return m.guard(mux)
}

// guard lets in who has the token, and nobody whom a browser was talked into sending: Host
// and Origin must be our own (a name that resolves to us is not).
func (m *Mesh) guard(next http.Handler) http.Handler {
	host := m.console.Addr().String()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case r.Host != host && r.Host != localhost(host):
			answer(w, http.StatusMisdirectedRequest, apiError{Error: fmt.Sprintf("host %q: this is %s", r.Host, host)})
		case r.Header.Get("Origin") != "" && r.Header.Get("Origin") != "http://"+r.Host:
			answer(w, http.StatusForbidden, apiError{Error: "another site's page may not call this API"})
		case !bearer || subtle.ConstantTimeCompare([]byte(token), m.token.Reveal()) != 1:
			w.Header().Set("WWW-Authenticate", "Bearer")
			answer(w, http.StatusUnauthorized, apiError{Error: "a token is needed: Authorization: Bearer, with the content of " + m.plan.tokenFile()})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// localhost is the other name of 127.0.0.1, which people type.
func localhost(host string) string {
	if port, ok := strings.CutPrefix(host, "127.0.0.1:"); ok {
		return "localhost:" + port
	}
	return host
}

func (m *Mesh) serveDrill(w http.ResponseWriter, r *http.Request) {
	var q DrillRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMaxBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		answer(w, http.StatusBadRequest, apiError{Error: "read the drill: " + err.Error()})
		return
	}
	err := m.Drill(r.Context(), q.Verb, q.Targets, q.Options)
	var bad *BadDrillError
	var unknown *UnknownTargetError
	body := apiError{}
	if err != nil {
		body.Error = err.Error()
	}
	if errors.As(err, &unknown) {
		body.Valid = unknown.Valid
	}
	switch {
	case err == nil:
		answer(w, http.StatusOK, struct{}{})
	case errors.As(err, &bad):
		answer(w, http.StatusUnprocessableEntity, body)
	default:
		answer(w, http.StatusInternalServerError, body)
	}
}

// serveCluster passes a request on to the API of a cluster's control plane.
func (m *Mesh) serveCluster(w http.ResponseWriter, r *http.Request) {
	api, ok := m.apis[mesh.ClusterName(r.PathValue("cluster"))]
	if !ok {
		answer(w, http.StatusNotFound, apiError{Error: fmt.Sprintf("no cluster %q", r.PathValue("cluster"))})
		return
	}
	(&httputil.ReverseProxy{
		Transport:     m.transport,
		FlushInterval: -1, // watches
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: api.address.String()})
			p.Out.URL.Path, p.Out.URL.RawPath = "/v1/"+strings.TrimPrefix(p.In.PathValue("rest"), "v1/"), ""
			p.Out.Host = api.address.String()
			p.Out.Header.Del("Origin") // checked here, and it names this address
			p.Out.Header.Set("Authorization", "Bearer "+string(api.token.Reveal()))
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			answer(w, http.StatusBadGateway, apiError{Error: fmt.Sprintf("ask the control plane of %s: %v", api.cluster, err)})
		},
	}).ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has left needs no answer
}

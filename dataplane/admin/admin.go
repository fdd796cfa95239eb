// Package admin is the HTTP server of a proxy's admin port (15020): for people, probes, scrapers and
// the control plane. Its one idea is the table of pages: what it serves is what its help page at /
// lists.
//
// It has no page of its own but help and profiles, and no authentication: the port is bound to the
// workload's own address. It refuses what a browser may be made to send it: a Host that is a name
// (DNS rebinding), and a change asked for by a page from elsewhere. Read Page first.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Page is one thing that the port answers. A page that changes something has the method POST.
type Page struct {
	Method, Path string
	// Says is a line of help.
	Says  string
	Serve http.HandlerFunc
}

// closeTime bounds the end of requests in progress when the port closes.
const closeTime = 2 * time.Second

// Serve answers on ln until ctx ends, and closes it.
func Serve(ctx context.Context, ln net.Listener, title string, pages []Page) error {
	srv := &http.Server{Handler: Handler(title, pages), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		closing, done := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer done()
		if srv.Shutdown(closing) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-ended
	}
	return err
}

// Handler answers pages, profiles and help.
func Handler(title string, pages []Page) http.Handler {
	mux := http.NewServeMux()
	pages = append(pages[:len(pages):len(pages)],
		Page{"GET", "/debug/pprof/", "profiles of the Go runtime: go tool pprof http://ADDRESS/debug/pprof/profile?seconds=5", pprof.Index},
		Page{"GET", "/debug/pprof/profile", "where processor time goes, for ?seconds=", pprof.Profile},
		Page{"GET", "/debug/pprof/trace", "an execution trace, for ?seconds=", pprof.Trace})
	for _, p := range pages {
		mux.HandleFunc(p.Method+" "+p.Path, p.Serve)
	}
	var help strings.Builder
	fmt.Fprintf(&help, "%s\n\n", title)
	for _, p := range pages {
		fmt.Fprintf(&help, "%-5s %-22s %s\n", p.Method, p.Path, p.Says)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(help.String()))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !safeHost(r.Host):
			http.Error(w, "Host is "+r.Host+": this port answers to an address or localhost, not to a name", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead && foreign(r):
			http.Error(w, "a page from "+r.Header.Get("Origin")+" may change nothing here", http.StatusForbidden)
		default:
			w.Header().Set("X-Content-Type-Options", "nosniff")
			mux.ServeHTTP(w, r)
		}
	})
}

// safeHost reports whether a Host is an address or localhost: a name may have been made to point
// here by whoever owns it, and a browser then lets his page read the answers.
func safeHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// foreign reports whether a browser sends the request for a page of another origin. Other programs
// send no such fields.
func foreign(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		site := r.Header.Get("Sec-Fetch-Site")
		return site != "" && site != "same-origin" && site != "none"
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}

// JSON answers with v, indented for people.
func JSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // who left needs no answer
}

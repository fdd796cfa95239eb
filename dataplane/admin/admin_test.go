package admin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/admin"
)

func TestWhatABrowserMayBeMadeToSendIsRefused(t *testing.T) {
	changed := 0
	h := admin.Handler("proxy shop/a", []admin.Page{
		{Method: "GET", Path: "/config", Says: "what is in force", Serve: func(w http.ResponseWriter, _ *http.Request) { admin.JSON(w, "x") }},
		{Method: "POST", Path: "/drain", Says: "leave", Serve: func(http.ResponseWriter, *http.Request) { changed++ }},
	})
	for _, c := range []struct {
		method, host, path string
		header             [2]string
		want               int
	}{
		{"GET", "127.0.0.1:15020", "/config", [2]string{}, 200},
		{"GET", "localhost:15020", "/config", [2]string{}, 200},
		{"GET", "[::1]:15020", "/config", [2]string{}, 200},
		{"GET", "10.0.0.7", "/", [2]string{}, 200},
		{"GET", "attacker.example:15020", "/config", [2]string{}, 421}, // DNS rebinding
		{"POST", "attacker.example", "/drain", [2]string{}, 421},
		{"GET", "127.0.0.1.attacker.example", "/config", [2]string{}, 421},
		{"GET", "127.0.0.1:15020", "/drain", [2]string{}, 405}, // an image's source
		{"POST", "127.0.0.1:15020", "/drain", [2]string{"Origin", "http://attacker.example"}, 403},
		{"POST", "127.0.0.1:15020", "/drain", [2]string{"Origin", "null"}, 403},
		{"POST", "127.0.0.1:15020", "/drain", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "127.0.0.1:15020", "/drain", [2]string{"Origin", "http://127.0.0.1:15020"}, 200},
		{"POST", "127.0.0.1:15020", "/drain", [2]string{}, 200},
		{"GET", "127.0.0.1:15020", "/nothing", [2]string{}, 404},
		{"GET", "127.0.0.1:15020", "/debug/pprof/", [2]string{}, 200},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.Host = c.host
		if c.header[0] != "" {
			r.Header.Set(c.header[0], c.header[1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s%s %v: %d, want %d: %s", c.method, c.host, c.path, c.header, w.Code, c.want, w.Body)
		}
		if c.path == "/" && (!strings.Contains(w.Body.String(), "/drain") || !strings.Contains(w.Body.String(), "/debug/pprof/")) {
			t.Errorf("help: %s", w.Body)
		}
	}
	if changed != 2 {
		t.Errorf("%d changes, want 2", changed)
	}
}

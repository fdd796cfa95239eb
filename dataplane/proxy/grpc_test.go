package proxy_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// call is a unary request of gRPC.
func call(host string) *exchange {
	ex := post(host, "/shop.Catalog/Get", "\x00\x00\x00\x00\x00").with("content-type", "application/grpc+proto").with("te", "trailers")
	ex.head.HTTP2 = true
	return ex
}

// TestRefusalsSpeakGRPC: whoever refuses, this proxy, the server's or a lack of time, a client of
// gRPC is told in one head, with a code and a message.
func TestRefusalsSpeakGRPC(t *testing.T) {
	for name, c := range map[string]struct {
		host, code, reason, message string
		script                      []any
		ends                        int
	}{
		"this proxy": {host: "nobody.shop.svc.clusterset.local", code: "14", reason: "unknown_host", message: "unknown_host: no cluster of the mesh has a service shop/nobody"},
		"the server proxy": {host: "catalog", code: "7", reason: "access_denied", message: "access_denied: by AccessPolicy shop/no%25, a line%0Aand %C3%A4",
			script: []any{answer(403, "access_denied: by AccessPolicy shop/no%, a line\nand ä\n").says("isthmus-reason", "access_denied")}},
		"no time": {host: "catalog", code: "4", reason: "try_timeout", script: []any{os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded}},
		"nobody there": {host: "catalog", code: "14", script: []any{message.ErrNotExecuted, message.ErrNotExecuted, message.ErrNotExecuted,
			message.ErrNotExecuted, errors.New("and more")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, nil)
			w.script = c.script
			ex := call(c.host)
			w.proxy.Outbound(ex, proxy.Via{})
			if ex.status != 200 || ex.field("content-type") != "application/grpc" || ex.field("grpc-status") != c.code || ex.out.Len() > 0 || ex.ends != 1 {
				t.Errorf("%d, %q, body %q, ended %d times; want grpc-status %s in one head", ex.status, ex.fields, ex.out.String(), ex.ends, c.code)
			}
			if c.reason != "" && ex.field("isthmus-reason") != c.reason {
				t.Errorf("reason %q, want %q", ex.field("isthmus-reason"), c.reason)
			}
			if got := ex.field("grpc-message"); c.message != "" && got != c.message || got == "" {
				t.Errorf("message %q, want %q", got, c.message)
			}
		})
	}
}

// TestAnswersOfGRPCApplicationsPass: what the application itself says is its own, a status of
// HTTP included; and what is not gRPC is refused in HTTP.
func TestAnswersOfGRPCApplicationsPass(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.script = []any{answer(404, "no such page")}
	ex := call("catalog")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 404 || ex.out.String() != "no such page" {
		t.Errorf("%d %q, want what the application answered", ex.status, ex.out.String())
	}
	for _, other := range []string{"application/grpc-web", "application/grpcx", "application/json"} {
		ex := call("nobody.shop.svc.clusterset.local")
		ex.head.Set("content-type", other)
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 502 || ex.field("grpc-status") != "" || !strings.HasPrefix(ex.out.String(), "unknown_host: ") {
			t.Errorf("%s: %d %q %q, want 502 in HTTP", other, ex.status, ex.fields, ex.out.String())
		}
	}
}

// TestAnUpgradeThatWasNotGrantedIsNotShownAsOne: 200 grants an extended CONNECT (RFC 8441 §5), so
// an application's 200 that switched nothing must not reach a client of HTTP/2.
func TestAnUpgradeThatWasNotGrantedIsNotShownAsOne(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.script = []any{answer(200, "a page").says("isthmus-not-switched", "1")}
	ex := get("catalog", "/chat")
	ex.head.Method, ex.head.Upgrade, ex.head.HTTP2 = []byte("CONNECT"), []byte("websocket"), true
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 501 || ex.field("isthmus-reason") != "upgrade_refused" {
		t.Errorf("%d %q", ex.status, ex.fields)
	}
}

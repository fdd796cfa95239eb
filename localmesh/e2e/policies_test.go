package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// policyOf are the services of TestPolicies, all of one application, and what the TrafficPolicy of each says.
var policyOf = map[string]string{
	"routed": "",
	"timed":  "{timeouts: {request: 500ms}, retry: {attempts: 0}}",
	"tried":  "{timeouts: {request: 40s, backendRequest: 2s}, retry: {attempts: 2, conditions: [timeout, 503], backoff: 1ms}}",
	"kept":   "{retry: {attempts: 2, conditions: [503], anyMethod: true}, limits: {replayBodyBytes: 100}}",
	"frugal": "{retry: {attempts: 2, conditions: [503], budget: {percent: 10, burst: 5}}}",
	"faulty": "",
	"rated":  "{locality: {strategy: Local}, rateLimits: [{name: few, requests: 1, per: 1h, burst: 1, keys: [{identity: true}], match: {paths: [/few*]}}]}",
	"narrow": "{limits: {requests: 1}}",
	"shed":   "{locality: {strategy: Local}, limits: {concurrency: 1}}",
	"sized":  "{limits: {requestHeadBytes: 1000, responseHeadBytes: 1000, requestBodyBytes: 100, responseBodyBytes: 4000}}",
	"http":   "{healthCheck: {http: {path: /healthz}, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2}}",
	"tcp":    "{healthCheck: {tcp: {}, port: 9090, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2}}",
	"grpc":   "{healthCheck: {grpc: {}, port: 9091, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2}}",
	"even":   "{locality: {strategy: Local}, loadBalancing: {algorithm: RoundRobin}}",
	"least":  "{locality: {strategy: Local}, loadBalancing: {algorithm: LeastRequest}}",
	"random": "{locality: {strategy: Local}, loadBalancing: {algorithm: Random}}",
	"maglev": "{locality: {strategy: Local}, loadBalancing: {algorithm: ConsistentHash, consistentHash: {keys: [{header: x-key}, {cookie: key}, {query: key}]}}}",
	"ring":   "{locality: {strategy: Local}, loadBalancing: {algorithm: ConsistentHash, consistentHash: {table: Ring, keys: [{header: x-key}]}}}",
	"source": "{locality: {strategy: Local}, loadBalancing: {algorithm: ConsistentHash, consistentHash: {keys: [{source: true}]}}}",
	"cookie": "{sessionPersistence: {sessionName: s}, healthCheck: {http: {path: /healthz}, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2}}",
	"header": "{sessionPersistence: {sessionName: x-s, type: Header}, healthCheck: {http: {path: /healthz}, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 2}}",
	"warm":   "{locality: {strategy: Local}, loadBalancing: {algorithm: RoundRobin, warmup: 1h}}",
}

// policyObjects are those services, and what is no TrafficPolicy.
func policyObjects() string {
	var b strings.Builder
	service := func(name, selector, port, policy string) {
		fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: demo}
spec: {selector: {app: %[2]s}, ports: [{name: %[3]s, port: 80, targetPort: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: %[1]s, namespace: demo}
---
`, name, selector, port)
		if policy != "" {
			fmt.Fprintf(&b, `apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: %[1]s, namespace: demo}
spec: {targetRefs: [{group: "", kind: Service, name: %[1]s}], %[2]s
---
`, name, strings.TrimPrefix(policy, "{"))
		}
	}
	for name, policy := range policyOf {
		service(name, "app", "http", policy)
	}
	service("idle", "bytes", "tcp", "{timeouts: {idle: 2s}}")
	service("single", "bytes", "tcp", "{limits: {connections: 1}}")
	b.WriteString(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: routed}]
  rules:
  - matches:
    - path: {type: Exact, value: /exact}
    - path: {type: RegularExpression, value: "/re/[0-9]+"}
    - {path: {type: PathPrefix, value: /and}, method: POST, headers: [{name: x-a, value: "1"}], queryParams: [{name: q, value: "yes"}]}
    backendRefs: [{name: other, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: ours}], add: [{name: x-add, value: more}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: filtered}]}}
    backendRefs: [{name: routed, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /away}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: away.example, path: {type: ReplaceFullPath, replaceFullPath: /there}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /cors}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://a.example"], allowMethods: [PUT], allowHeaders: [x-a], maxAge: 60}}]
    backendRefs: [{name: routed, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /copied}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}]
    backendRefs: [{name: routed, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /half}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, percent: 50}}]
    backendRefs: [{name: routed, port: 80}]
  - backendRefs: [{name: routed, port: 80}]
---
apiVersion: isthmus.dev/v1alpha1
kind: FaultPolicy
metadata: {name: faulty, namespace: demo}
spec:
  targetRefs: [{group: "", kind: Service, name: faulty}]
  faults:
  - {match: {headers: [{name: x-fault, value: abort}]}, abort: {status: 418}}
  - {match: {headers: [{name: x-fault, value: delay}]}, delay: {duration: 400ms}}
  - {match: {headers: [{name: x-fault, value: slow}]}, bandwidth: {bytesPerSecond: 20000}}
`)
	return b.String()
}

// ruled is the mesh of TestPolicies.
type ruled struct {
	*testing.T
	m   *meshUnder
	dir string
}

// TestPolicies is what policies and routes ask of proxies, stage by stage, from YAML to the bytes on the wire: written to control
// planes, compiled, sent, and done by the sidecars of two clusters.
func TestPolicies(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := newMesh(t, 165)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
manifests: [%[4]q]
workloads:
  - {name: app, namespace: demo, replicas: 2, run: [%[1]q, %[2]s, "governed:app:%[3]s"]}
  - {name: bytes, namespace: demo, clusters: [eu-west], run: [%[1]q, %[2]s, tcp]}
  - {name: other, namespace: demo, clusters: [eu-west], run: [%[1]q, %[2]s, "governed:other:%[3]s"]}
`, self, workloadArg, dir, write(t, "policies.yaml", policyObjects()))))
	for _, step := range []struct {
		name string
		f    func(*ruled)
	}{
		{"routes match by path, expression, method, header and query", (*ruled).matches},
		{"filters rewrite, redirect and change headers", (*ruled).filters},
		{"CORS is answered for the application", (*ruled).cors},
		{"copies go where they are told, whole and in part", (*ruled).mirrors},
		{"timeouts end requests, tries and idle connections", (*ruled).timeouts},
		{"retries have conditions, a budget, and the body", (*ruled).retries},
		{"faults are injected", (*ruled).faults},
		{"a caller's rate is limited", (*ruled).rates},
		{"requests, connections and concurrency are bounded", (*ruled).bounds},
		{"heads and bodies are bounded", (*ruled).sizes},
		{"applications that are not well are spared", (*ruled).health},
		{"algorithms choose as they are named", (*ruled).algorithms},
		{"sessions stay, in another cluster too", (*ruled).sessions},
		{"a proxy of another mesh calls by HBONE", (*ruled).byHBONE},
		{"what comes back warms up", (*ruled).warmUp},
	} {
		t.Run(step.name, func(t *testing.T) {
			own := *m
			own.t = t
			step.f(&ruled{t, &own, dir})
		})
	}
}

// got is an answer.
type got struct {
	told
	Status int
	Reason string
	Header http.Header
	Bytes  int
	Took   time.Duration
}

func (g *got) String() string { return strings.TrimSpace(fmt.Sprint(g.Status, " ", g.Reason)) }

// ask sends a request from the shell of a cluster; what is to be asked begins with the name of the service. Fields are "name: value".
func (r *ruled) ask(cluster int, method, url, body string, fields ...string) *got {
	r.Helper()
	g, err := r.try(cluster, method, url, body, fields...)
	if err != nil {
		r.Fatal(err)
	}
	return g
}

func (r *ruled) try(cluster int, method, url, body string, fields ...string) (*got, error) {
	service, path, _ := strings.Cut(url, "/")
	q, err := http.NewRequest(method, "http://"+service+".demo.svc.clusterset.local/"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		q.Header.Set(name, value)
	}
	c := r.m.shell(cluster)
	c.Timeout = time.Minute
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer c.CloseIdleConnections()
	began := time.Now()
	a, err := c.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return nil, err
	}
	g := &got{Status: a.StatusCode, Reason: a.Header.Get("isthmus-reason"), Header: a.Header, Bytes: len(b), Took: time.Since(began)}
	_ = json.Unmarshal(b, &g.told)
	return g, nil
}

func (r *ruled) get(url string, fields ...string) *got {
	r.Helper()
	return r.ask(0, "GET", url, "", fields...)
}

// is wants an answer "status reason".
func (r *ruled) is(g *got, want string) {
	r.Helper()
	if g.String() != want {
		r.Errorf("%s, want %s", g, want)
	}
}

// becomes waits for an answer 200.
func (r *ruled) becomes(url string) {
	r.Helper()
	eventually(r.T, time.Minute, url+" is answered", func() (string, bool) { g := r.get(url); return g.String(), g.String() == "200" })
}

// seen counts the requests of an id that reached a workload.
func (r *ruled) seen(workload, id string) int {
	b, _ := os.ReadFile(filepath.Join(r.dir, "seen-"+workload+"-"+id))
	return bytes.Count(b, []byte("\n"))
}

// touch makes a file that applications look for, and returns what removes it.
func (r *ruled) touch(name string) func() {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		r.Fatal(err)
	}
	return func() { _ = os.Remove(path) }
}

func (r *ruled) matches() {
	for _, c := range []struct {
		method, url, want string
		fields            []string
	}{
		{"GET", "routed/exact", "other", nil}, {"GET", "routed/exact/x", "app", nil},
		{"GET", "routed/re/42", "other", nil}, {"GET", "routed/re/42x", "app", nil},
		{"POST", "routed/and/x?q=yes", "other", []string{"x-a: 1"}}, {"GET", "routed/and/x?q=yes", "app", []string{"x-a: 1"}},
		{"POST", "routed/and/x?q=no", "app", []string{"x-a: 1"}}, {"POST", "routed/and/x?q=yes", "app", []string{"x-a: 2"}},
	} {
		if g := r.ask(0, c.method, c.url, "", c.fields...); g.Status != 200 || g.Service != c.want {
			r.Errorf("%s %s %v: %s by %s, want %s", c.method, c.url, c.fields, g, g.Service, c.want)
		}
	}
}

func (r *ruled) filters() {
	g := r.get("routed/old/x?y=1", "x-gone: 1", "x-set: theirs", "x-add: some")
	if g.Path != "/new/x?y=1" || g.Host != "new.example" || g.Headers.Get("x-set") != "ours" || g.Headers.Get("x-gone") != "" ||
		strings.ReplaceAll(strings.Join(g.Headers.Values("x-add"), ","), " ", "") != "some,more" || g.Header.Get("x-answer") != "filtered" {
		r.Errorf("%s %+v, answered with %v", g, g.told, g.Header)
	}
	if g := r.get("routed/away/x"); g.Status != 301 || g.Header.Get("location") != "https://away.example/there" {
		r.Errorf("%s to %s", g, g.Header.Get("location"))
	}
}

func (r *ruled) cors() {
	before := r.ask(0, "OPTIONS", "routed/cors?id=preflight", "", "Origin: https://a.example", "Access-Control-Request-Method: PUT")
	if before.Status != 204 || before.Header.Get("access-control-allow-origin") != "https://a.example" || before.Header.Get("access-control-allow-methods") != "PUT" || r.seen("app", "preflight") != 0 {
		r.Errorf("the preflight: %s %v, and the application saw %d", before, before.Header, r.seen("app", "preflight"))
	}
	for origin, want := range map[string]string{"https://a.example": "https://a.example", "https://b.example": ""} {
		if g := r.get("routed/cors", "Origin: "+origin); g.Status != 200 || g.Header.Get("access-control-allow-origin") != want {
			r.Errorf("of %s: %s %v", origin, g, g.Header)
		}
	}
}

func (r *ruled) mirrors() {
	if g := r.get("routed/copied?id=copy"); g.Service != "app" {
		r.Errorf("answered by %s", g.Service)
	}
	eventually(r.T, time.Minute, "a copy arrives", func() (string, bool) { n := r.seen("other", "copy"); return fmt.Sprint(n), n == 1 })
	const n = 100
	for range n {
		r.is(r.get("routed/half?id=half"), "200")
	}
	// 50 are expected, σ = 5; six σ either way.
	eventually(r.T, time.Minute, "half of the copies arrive", func() (string, bool) { k := r.seen("other", "half"); return fmt.Sprint(k), k >= 20 })
	if k := r.seen("other", "half"); k > 80 || r.seen("app", "half") != n {
		r.Errorf("%d copies of %d requests that the application saw", k, r.seen("app", "half"))
	}
}

func (r *ruled) timeouts() {
	if g := r.get("timed/?hold=never"); g.String() != "504 request_timeout" || g.Took < 500*time.Millisecond {
		r.Errorf("%s after %s", g, g.Took)
	}
	r.is(r.get("tried/?slowfirst&id=slow"), "200") // the first try never answers
	if n := r.seen("app", "slow"); n < 2 {
		r.Errorf("%d tries of a request whose first is slow", n)
	}
	c, in, _ := r.m.connect(r.T, "idle.demo.svc.clusterset.local:80")
	exchange(r.T, c, in, "hello")
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	began := time.Now()
	if _, err := in.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		r.Errorf("a connection on which nothing moves: %v", err)
	} else if took := time.Since(began); took < time.Second {
		r.Errorf("ended after %s", took)
	}
}

func (r *ruled) retries() {
	for _, c := range []struct {
		method, url, body, want string
		tries                   int
	}{
		{"GET", "tried/?first&status=503&id=a", "", "200", 2},
		{"GET", "tried/?first&status=500&id=b", "", "500", 1},                       // no condition
		{"POST", "tried/?first&status=503&id=c", "x", "503", 1},                     // not idempotent
		{"POST", "kept/?first&status=503&id=d", strings.Repeat("x", 99), "200", 2},  // any method, and the body is kept
		{"POST", "kept/?first&status=503&id=e", strings.Repeat("x", 999), "503", 1}, // too large to be
		{"GET", "tried/?status=503&id=f", "", "503", 3},
	} {
		g := r.ask(0, c.method, c.url, c.body)
		_, id, _ := strings.Cut(c.url, "id=")
		if n := r.seen("app", id); g.String() != c.want || n != c.tries {
			r.Errorf("%s %s: %s after %d tries, want %s after %d", c.method, c.url, g, n, c.want, c.tries)
		}
	}
	const n = 50
	for range n {
		r.is(r.get("frugal/?status=503&id=budget"), "503")
	}
	if k := r.seen("app", "budget"); k <= n || k > n+n/10+5+1 { // without a budget it were 150
		r.Errorf("%d tries of %d requests that all fail, under a budget of a tenth and 5", k, n)
	}
}

func (r *ruled) faults() {
	r.is(r.get("faulty/?id=aborted", "x-fault: abort"), "418 fault_injected")
	if n := r.seen("app", "aborted"); n != 0 {
		r.Errorf("the application saw %d of what was aborted", n)
	}
	if g := r.get("faulty/", "x-fault: delay"); g.Status != 200 || g.Took < 400*time.Millisecond {
		r.Errorf("delayed: %s after %s", g, g.Took)
	}
	if g := r.get("faulty/?bytes=20000", "x-fault: slow"); g.Bytes != 20000 || g.Took < 500*time.Millisecond {
		r.Errorf("20,000 bytes at 20,000 a second: %d after %s", g.Bytes, g.Took)
	}
	r.is(r.get("faulty/"), "200")
}

func (r *ruled) rates() {
	count := map[string]int{}
	for range 8 { // one an hour, of each of two server proxies
		g := r.get("rated/few")
		if g.Status == 429 && g.Header.Get("retry-after") == "" {
			r.Error("no retry-after")
		}
		count[g.String()]++
	}
	if n := count["200"]; n < 1 || n > 2 || n+count["429 rate_limited"] != 8 {
		r.Errorf("%v, want one or two of 8", count)
	}
	r.is(r.get("rated/many"), "200") // not what the limit speaks of
}

// held begins a request that the application holds, and returns when it has it; release lets it go and gives its answer.
func (r *ruled) held(service, name string) (instance string, release func() *got) {
	r.Helper()
	answer := make(chan *got, 1)
	go func() {
		g, err := r.try(0, "GET", service+"/?hold="+name+"&id="+name, "")
		if err != nil {
			g = &got{Reason: err.Error()}
		}
		answer <- g
	}()
	eventually(r.T, time.Minute, name+" is held", func() (string, bool) {
		select {
		case g := <-answer:
			answer <- g
			return g.String(), true
		default:
		}
		return "", r.seen("app", name) > 0
	})
	b, _ := os.ReadFile(filepath.Join(r.dir, "seen-app-"+name))
	return strings.TrimSpace(string(b)), func() *got {
		r.touch("release-" + name)
		return <-answer
	}
}

func (r *ruled) bounds() {
	_, release := r.held("narrow", "narrow")
	r.is(r.get("narrow/?id=refused"), "503 overloaded")
	r.is(release(), "200")
	r.becomes("narrow/") // a request counts until it has ended, which its client may know a little earlier
	if n := r.seen("app", "refused"); n != 0 {
		r.Errorf("the application saw %d of what was refused", n)
	}

	first, one := r.held("shed", "one")
	second, two := r.held("shed", "two")
	if first == second {
		r.Errorf("both are held by %s, which takes one", first)
	}
	r.is(r.get("shed/?id=shed"), "503 overloaded")
	r.is(one(), "200")
	r.is(two(), "200")
	r.becomes("shed/")
	if n := r.seen("app", "shed"); n != 0 {
		r.Errorf("the application saw %d of what was shed", n)
	}

	connects := func() (net.Conn, string) {
		c, _, a := r.m.connect(r.T, "single.demo.svc.clusterset.local:80")
		return c, strings.TrimSpace(fmt.Sprint(a.StatusCode, " ", a.Header.Get("isthmus-reason")))
	}
	c, is := connects()
	if _, second := connects(); is != "200" || second != "503 overloaded" {
		r.Errorf("%s, and a second connection %s", is, second)
	}
	c.Close()
	eventually(r.T, time.Minute, "there is room again", func() (string, bool) { _, is := connects(); return is, is == "200" })
}

func (r *ruled) sizes() {
	long := strings.Repeat("x", 2000)
	r.is(r.get("sized/"), "200")
	r.is(r.get("sized/", "x-long: "+long), "431 head_too_large")
	r.is(r.ask(0, "POST", "sized/", long), "413 body_too_large")
	r.is(r.get("sized/?head=2000"), "502 head_too_large")
	if g, err := r.try(0, "GET", "sized/?bytes=8000", ""); err == nil && g.String() != "502 body_too_large" { // broken off, once it has begun
		r.Errorf("a body beyond the limit: %s with %d bytes", g, g.Bytes)
	}
}

func (r *ruled) health() {
	here, there := fmt.Sprint(r.m.base+1), fmt.Sprint(r.m.base+2)
	servedBy := func(network string) {
		r.Helper()
		var all sync.WaitGroup
		for _, service := range []string{"http", "tcp", "grpc"} {
			all.Go(func() {
				eventually(r.T, time.Minute, service+" is served by 127."+network, func() (string, bool) {
					g, err := r.try(0, "GET", service+"/", "")
					if err != nil {
						return err.Error(), false
					}
					if g.Status != 200 {
						r.Errorf("%s: %s while applications fall ill", service, g)
					}
					return g.Instance, strings.HasPrefix(g.Instance, "127."+network+".")
				})
			})
		}
		all.Wait()
	}
	servedBy(here)
	heal := r.touch("sick-" + here)
	servedBy(there)
	heal()
	servedBy(here)
}

func (r *ruled) algorithms() {
	spread := func(n int, url string, fields ...string) map[string]int {
		r.Helper()
		by := map[string]int{}
		for range n {
			g := r.get(url, fields...)
			r.is(g, "200")
			by[g.Instance]++
		}
		return by
	}
	for service, least := range map[string]int{"even": 19, "random": 4, "least": 1} { // of 40: of random ones fewer than 4 are one run in 10^8
		by := spread(40, service+"/")
		for _, n := range by {
			if len(by) != 2 || n < least {
				r.Errorf("%s: %v", service, by)
			}
		}
	}
	busy, release := r.held("least", "busy")
	if by := spread(20, "least/"); by[busy] != 0 || len(by) != 1 {
		r.Errorf("least: %v although %s is busy", by, busy)
	}
	r.is(release(), "200")

	instances := map[string]map[string]bool{"maglev": {}, "ring": {}}
	for service, used := range instances {
		for key := range 30 {
			field := fmt.Sprint("x-key: ", key)
			first := r.get(service+"/", field).Instance
			used[first] = true
			if again := r.get(service+"/", field).Instance; again != first {
				r.Errorf("%s: key %d went to %s and %s", service, key, first, again)
			}
		}
		if len(used) != 2 {
			r.Errorf("%s: 30 keys went to %v", service, used)
		}
	}
	for what, by := range map[string]map[string]int{"cookie": spread(8, "maglev/", "Cookie: key=a"), "query": spread(8, "maglev/?key=a"), "source": spread(8, "source/")} {
		if len(by) != 1 {
			r.Errorf("hashed by %s: %v", what, by)
		}
	}
}

// sessions begin in the other cluster, since all of this one are not well: they stay there when those are well again, and lead to the
// same endpoint from that cluster itself, which knows it otherwise.
func (r *ruled) sessions() {
	here, there := fmt.Sprintf("127.%d.", r.m.base+1), fmt.Sprintf("127.%d.", r.m.base+2)
	comes := func(service, from string) (first *got) {
		eventually(r.T, time.Minute, service+" is served by "+from, func() (string, bool) {
			first = r.get(service + "/")
			return first.Instance, strings.HasPrefix(first.Instance, from)
		})
		return first
	}
	heal := r.touch("sick-" + strings.Split(here, ".")[1])
	firsts := map[string]*got{"cookie": comes("cookie", there), "header": comes("header", there)}
	heal()
	for service, first := range firsts {
		comes(service, here)
		session := "x-s: " + first.Header.Get("x-s")
		if service == "cookie" {
			pair, _, _ := strings.Cut(first.Header.Get("set-cookie"), ";")
			session = "Cookie: " + pair
		}
		for _, cluster := range []int{0, 0, 0, 0, 0, 1, 1, 1, 1, 1} {
			if g := r.ask(cluster, "GET", service+"/", "", session); g.Status != 200 || g.Instance != first.Instance {
				r.Errorf("%s from cluster %d: %s by %s, and the session %q is with %s", service, cluster, g, g.Instance, session, first.Instance)
			}
		}
	}
}

// warmUp has an endpoint go and come back: a tenth of its share is its due at first, and half of all is without a warm-up.
func (r *ruled) warmUp() {
	r.m.run("drill", "kill", "app.demo/1@eu-west")
	lost := strings.Split(r.m.address(0, 2, 2, 8080), ":")[0]
	r.m.run("drill", "resume", "app.demo/1@eu-west")
	share := func(service string) int {
		eventually(r.T, time.Minute, "it is back", func() (string, bool) { g := r.get(service + "/"); return g.Instance, g.Instance == lost })
		n := 0
		for range 100 {
			if g := r.get(service + "/"); g.Instance == lost {
				n++
			}
		}
		return n
	}
	if n := share("warm"); n > 30 {
		r.Errorf("warming up, it served %d of 100", n)
	}
	if n := share("even"); n < 35 {
		r.Errorf("without a warm-up it served %d of 100", n)
	}
}

// byHBONE has a proxy of another mesh call, whose trust domain this one is told of meanwhile: by the application's address, at which
// every service of this test listens, and by the name of one.
func (r *ruled) byHBONE() {
	const domain, id = "ambient.example.org", "spiffe://ambient.example.org/ns/web/sa/client"
	theirs := newAuthority(r.T, domain)
	certificate := theirs.leaf(r.T, id, time.Now().Add(time.Hour))
	at := r.m.address(0, 1, 2, 8080)
	call := func(authority string) *got {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", r.m.address(0, 1, 1, 15008), &tls.Config{NextProtos: []string{"h2"},
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}})
		if err != nil {
			return &got{Reason: err.Error()}
		}
		defer c.Close()
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
		tr.Protocols.SetUnencryptedHTTP2(true) // to net/http the connection is made
		defer tr.CloseIdleConnections()
		in, to := io.Pipe()
		q, err := http.NewRequest(http.MethodConnect, "http://"+authority, in)
		if err != nil {
			r.Fatal(err)
		}
		a, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(q)
		if err != nil {
			to.Close()
			return &got{Reason: err.Error()}
		}
		defer a.Body.Close()
		g := &got{Status: a.StatusCode, Reason: a.Header.Get("isthmus-reason")}
		if a.StatusCode == http.StatusOK {
			_, _ = io.WriteString(to, "GET /by/hbone HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
			to.Close() // half-closed: the answer comes nevertheless
			inner, err := http.ReadResponse(bufio.NewReader(a.Body), nil)
			if err != nil {
				r.Fatal(err)
			}
			if err := json.NewDecoder(inner.Body).Decode(&g.told); err != nil {
				r.Error(err)
			}
			return g
		}
		to.Close()
		return g
	}
	if g := call(at); g.Status != 0 {
		r.Errorf("of a domain that nobody knows: %s", g)
	}
	objects := "apiVersion: isthmus.dev/v1alpha1\nkind: Cluster\nmetadata: {name: ambient}\nspec:\n  trustDomain: " + domain + "\n  trustBundle: |\n    " +
		strings.ReplaceAll(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: theirs.cert.Raw}))), "\n", "\n    ") + "\n"
	apply := func(yaml string) {
		if out, code := r.m.apply("eu-west", yaml); code != 0 {
			r.Fatalf("apply: exit %d\n%s", code, out)
		}
	}
	becomes := func(authority, want string) {
		r.Helper()
		eventually(r.T, time.Minute, authority+" answers "+want, func() (string, bool) {
			g := call(authority)
			return g.String(), g.String() == want && (g.Status != 200 || g.Path == "/by/hbone" && g.Instance+":8080" == at)
		})
	}
	apply(objects)
	named := "narrow.demo.svc.clusterset.local:80"
	becomes(at, "200")
	becomes(named, "200")
	apply("apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: even, namespace: demo}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: even}]\n" +
		"  action: Deny\n  rules: [{from: [{trustDomains: [" + domain + "], namespaces: [web]}]}]\n")
	becomes(at, "403 access_denied")
	becomes(named, "200")
	becomes("even.demo.svc.clusterset.local:80", "403 access_denied")
	becomes(r.m.address(0, 1, 1, 15020), "421 misdirected")
	r.m.run("delete", "cluster", "ambient", "--cluster", "eu-west")
	eventually(r.T, time.Minute, "the domain is forgotten", func() (string, bool) { g := call(named); return g.String(), g.Status == 0 })
}

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	door "github.com/isthmus-mesh/isthmus/api/authority"
)

// rootsMesh is two clusters; far and ticks are in us-east alone, near is in both.
const rootsMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
certificateTTL: %s
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: near, namespace: demo, replicas: 2, run: builtin/echo}
  - {name: far, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: ticks, namespace: demo, clusters: [us-east], run: [%q, %s, ticks]}
`

func upRoots(t *testing.T, base int, ttl string) *meshUnder {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, base)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(rootsMesh, ttl, self, workloadArg)))
	return m
}

// ticks is a gRPC server whose Watch says something ten times a second.
func ticks(ln net.Listener) error {
	h := grpchealth.NewServer()
	go func() {
		for i := 0; ; i++ {
			h.SetServingStatus("", healthpb.HealthCheckResponse_ServingStatus(1+i%2))
			<-time.After(100 * time.Millisecond)
		}
	}()
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	return srv.Serve(ln)
}

// streamLong is how long a stream lives: a connection whose certificate ends lets its streams go on for 30 s, rotation or not.
const streamLong = 20 * time.Second

// streams are gRPC streams from the shell of eu-west to ticks in us-east: old ones and short ones.
type streams struct {
	mu              sync.Mutex
	failed          []string
	messages, opens int
	stop            func() *streams
}

func (m *meshUnder) streams(t *testing.T) *streams {
	t.Helper()
	const host = "ticks.demo.svc.clusterset.local:80"
	dial := func(ctx context.Context, target string) (net.Conn, error) {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", m.address(0, 0, 1, 15001))
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
		r := bufio.NewReader(c)
		if resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || resp.StatusCode != http.StatusOK {
			c.Close()
			return nil, fmt.Errorf("CONNECT %s: %v, %v", target, resp, err)
		}
		return c, nil
	}
	s := &streams{}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	// watch follows one stream, on a connection of its own, for so long.
	watch := func(long time.Duration) {
		began := time.Now()
		own, end := context.WithCancel(ctx)
		defer end()
		conn, err := grpc.NewClient("passthrough:///"+host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
		var w healthpb.Health_WatchClient
		if err == nil {
			defer conn.Close()
			w, err = healthpb.NewHealthClient(conn).Watch(own, &healthpb.HealthCheckRequest{})
		}
		for err == nil && time.Since(began) < long {
			late := time.AfterFunc(failedAfter, end)
			if _, err = w.Recv(); err == nil {
				s.mu.Lock()
				s.messages++
				s.mu.Unlock()
			}
			late.Stop()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opens++
		if err != nil && ctx.Err() == nil {
			s.failed = append(s.failed, fmt.Sprintf("after %v: %v", time.Since(began).Round(time.Millisecond), err))
		}
	}
	for _, long := range []time.Duration{time.Second, streamLong, streamLong, streamLong} {
		all.Go(func() {
			for ctx.Err() == nil {
				watch(long)
			}
		})
	}
	s.stop = func() *streams {
		cancel()
		all.Wait()
		return s
	}
	return s
}

func (s *streams) mustNotFail(t *testing.T) {
	t.Helper()
	t.Logf("%d gRPC streams, %d messages, %d failed", s.opens, s.messages, len(s.failed))
	if len(s.failed) > 0 || s.messages < 100 {
		t.Errorf("%d of %d gRPC streams failed, %d messages; the first: %s", len(s.failed), s.opens, s.messages, strings.Join(s.failed[:min(3, len(s.failed))], "; "))
	}
}

const (
	nearURL = "http://near.demo.svc.clusterset.local/"
	farURL  = "http://far.demo.svc.clusterset.local/"
)

// trustOf is what isthmus trust says of a cluster.
func (m *meshUnder) trustOf(cluster string) (s door.Status, err error) {
	out, complaints, _ := m.apart("trust", "status", "--cluster", cluster, "-o", "json")
	var all []door.Status
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return s, fmt.Errorf("%v: %s%s", err, out, complaints)
	}
	return all[0], nil
}

// withdrawn waits until one root alone is believed again.
func (m *meshUnder) withdrawn(t *testing.T, cluster string, within time.Duration) door.Status {
	t.Helper()
	var s door.Status
	eventually(t, within, "the old root of "+cluster+" is withdrawn", func() (string, bool) {
		var err error
		s, err = m.trustOf(cluster)
		return fmt.Sprintf("%+v %v", s, err), err == nil && s.Phase == "stable" && s.Signs
	})
	return s
}

// TestARootIsReplacedUnderLoad: requests within the cluster and into it, over connections that are kept, and gRPC streams, old and
// new. Its control does the same without waiting for those who verify, and loses requests.
func TestARootIsReplacedUnderLoad(t *testing.T) {
	m := upRoots(t, 213, "30s")
	before, err := m.trustOf("us-east")
	if err != nil || before.Phase != "stable" || len(before.Roots) != 1 || before.Roots[0].Role != "signs" {
		t.Fatalf("%+v, %v", before, err)
	}
	inside, into, calls := m.load(1, nearURL, 100), m.load(0, farURL, 100), m.streams(t)
	defer inside.stop()
	defer into.stop()
	defer calls.stop()
	out := m.run("trust", "rotate", "--cluster", "us-east")
	if !strings.Contains(out, "signs") || !strings.Contains(out, "last") {
		t.Errorf("rotate says: %s", out)
	}
	after := m.withdrawn(t, "us-east", 2*time.Minute)
	if len(after.Roots) != 1 || after.Roots[0].Fingerprint == before.Roots[0].Fingerprint || after.Generation != 3 {
		t.Errorf("%+v", after)
	}
	for _, l := range []*load{inside, into} {
		l.stop().mustNotFail(t)
	}
	calls.stop().mustNotFail(t)
	if out := m.run("events", "--kind", "trust", "--about", "us-east"); !strings.Contains(out, "root_introduced") && !strings.Contains(out, "a person began to replace the root") {
		t.Errorf("events: %s", out)
	}
	for _, c := range []string{"eu-west", "us-east"} { // the object is what it was, and what is believed stands under it
		eventually(t, 10*time.Second, c+" shows what it believes", func() (string, bool) {
			out, _ := m.try("get", "cluster", "us-east", "-o", "json", "--cluster", c)
			return out, strings.Contains(out, `"generation": 3`) && strings.Contains(out, "whoever joins by this object cannot verify the cluster")
		})
	}
	t.Run("the control: without waiting", func(t *testing.T) {
		l := m.load(0, farURL, 100)
		defer l.stop()
		m.run("trust", "rotate", "--cluster", "us-east", "--wait", "no")
		eventually(t, 20*time.Second, "forced to the end", func() (string, bool) {
			out, _ := m.try("trust", "rotate", "--cluster", "us-east", "--force", "--yes", "--wait", "no")
			s, err := m.trustOf("us-east")
			return out, err == nil && s.Phase == "stable"
		})
		eventually(t, 30*time.Second, "requests fail", func() (string, bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return fmt.Sprint(l.total), len(l.failed) > 0
		})
		l.stop()
		t.Logf("%d of %d requests failed, the first %s", len(l.failed), l.total, l.failed[0])
	})
}

// loseKey takes the key of us-east's authority away while its control plane is down; with the record, all that is known of it.
func (m *meshUnder) loseKey(t *testing.T, spoil func(path string) error, recordToo bool) {
	t.Helper()
	m.run("drill", "kill", "control-plane@us-east")
	dir := filepath.Join(m.dir, "clusters", "us-east")
	_ = os.Remove(filepath.Join(dir, "authority.sealed.prev")) // there may be none
	if err := spoil(filepath.Join(dir, "authority.sealed")); err != nil {
		t.Fatal(err)
	}
	if recordToo {
		_ = os.Remove(filepath.Join(dir, "identity.sealed.prev"))
		if err := os.Remove(filepath.Join(dir, "identity.sealed")); err != nil {
			t.Fatal(err)
		}
	}
	m.run("drill", "resume", "control-plane@us-east")
}

// mustSayLost is what people are told.
func (m *meshUnder) mustSayLost(t *testing.T) {
	t.Helper()
	eventually(t, 20*time.Second, "the loss is said", func() (string, bool) {
		out, code := m.try("trust", "--cluster", "us-east")
		return out, code == 1 && strings.Contains(out, "lost") && strings.Contains(out, "cannot sign")
	})
	eventually(t, 5*time.Second, "the loss is an event and a metric", func() (string, bool) {
		out, _ := m.try("events", "--kind", "trust", "--about", "us-east")
		return out, strings.Contains(out, "cannot sign") && strings.Contains(m.metrics("us-east"), `isthmus_ca_signs{cluster="us-east"} 0`)
	})
}

// TestAKeyIsLostUnderLoad: of a cluster's authority, while its control plane is down. The certificates in use go on, and nobody fails
// until the key is restored from a backup, or another root signs; both for as long as a certificate lives, so that each was
// renewed. Its control is the same loss of the public half too: a new authority that all who hold certificates are strangers to.
func TestAKeyIsLostUnderLoad(t *testing.T) {
	const ttl = 60 * time.Second
	m := upRoots(t, 216, ttl.String())
	file, secret, wrong := filepath.Join(t.TempDir(), "us-east.age"), write(t, "secret", "correct horse battery\n"), write(t, "wrong", "incorrect horse\n")
	m.run("trust", "backup", file, "--cluster", "us-east", "--passphrase-file", secret)
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "-----BEGIN AGE ENCRYPTED FILE-----") {
		t.Fatalf("%.60s, %v", b, err)
	}
	if out, code := m.try("trust", "backup", file, "--cluster", "us-east", "--passphrase-file", secret); code != 2 {
		t.Errorf("a backup was overwritten: %s", out)
	}
	if out, code := m.try("trust", "restore", file, "--cluster", "us-east", "--passphrase-file", secret); code != 1 {
		t.Errorf("restored over a key that is there: exit %d: %s", code, out)
	}
	before, err := m.trustOf("us-east")
	if err != nil {
		t.Fatal(err)
	}
	underLoad := func(name string, mend func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			own := *m
			own.t = t
			inside, into, calls := own.load(1, nearURL, 100), own.load(0, farURL, 100), own.streams(t)
			defer inside.stop()
			defer into.stop()
			defer calls.stop()
			mend(t)
			for _, l := range []*load{inside, into} {
				l.stop().mustNotFail(t)
			}
			calls.stop().mustNotFail(t)
		})
	}
	underLoad("restored from a backup", func(t *testing.T) {
		m.loseKey(t, func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("lost", 100)), 0o600) }, false)
		m.mustSayLost(t)
		if out, code := m.try("trust", "restore", file, "--cluster", "us-east", "--passphrase-file", wrong); code != 2 {
			t.Errorf("opened by another passphrase: exit %d: %s", code, out)
		}
		m.run("trust", "restore", file, "--cluster", "us-east", "--passphrase-file", secret)
		<-time.After(ttl)
		if s, err := m.trustOf("us-east"); err != nil || !s.Signs || s.Roots[0].Fingerprint != before.Roots[0].Fingerprint || s.Roots[0].Certificates == 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	underLoad("a new root is rolled out", func(t *testing.T) {
		m.loseKey(t, os.Remove, false)
		m.mustSayLost(t)
		m.run("trust", "rotate", "--cluster", "us-east")
		if s := m.withdrawn(t, "us-east", ttl+90*time.Second); s.Roots[0].Fingerprint == before.Roots[0].Fingerprint {
			t.Errorf("%+v", s)
		}
	})
	t.Run("the old backup would undo it", func(t *testing.T) {
		m.loseKey(t, os.Remove, false)
		m.mustSayLost(t)
		out, code := m.try("trust", "restore", file, "--cluster", "us-east", "--passphrase-file", secret)
		if code != 1 || !strings.Contains(out, "undo") {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("the control: nothing is known of the root that was", func(t *testing.T) {
		l := m.load(0, farURL, 50)
		defer l.stop()
		m.loseKey(t, func(string) error { return nil }, true)
		eventually(t, ttl+30*time.Second, "requests fail", func() (string, bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return fmt.Sprint(l.total), len(l.failed) > 0
		})
		l.stop()
		t.Logf("%d of %d requests failed, the first %s", len(l.failed), l.total, l.failed[0])
	})
}

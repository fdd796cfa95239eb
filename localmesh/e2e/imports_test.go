package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// TestServicesOfOtherClusters reaches services that only another cluster has as an application does that knows of
// no proxy: by their names, at addresses of the own cluster.
func TestServicesOfOtherClusters(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, 180)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
workloads:
  - {name: far, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: near, namespace: demo, clusters: [eu-west], run: builtin/echo}
  - {name: web-near, namespace: demo, clusters: [eu-west], run: [%[1]q, %[2]s, web]}
`, self, workloadArg)))
	i := &imports{meshUnder: m, direct: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	for _, step := range []struct {
		name string
		f    func(*testing.T, *imports)
	}{
		{"a command knows the address of one when it starts", knownAtStart},
		{"one that is deployed in another cluster has a name and an address here", deployedElsewhere},
		{"get and describe say where it is from", shownAsImported},
		{"a control plane that is killed gives the same address again", addressAfterKill},
		{"one that is deleted has no name and its address is not given to another", addressHeldBack},
		{"one that comes back has its address and keeps it as an own service", addressCarriesOver},
	} {
		t.Run(step.name, func(t *testing.T) {
			own, under := *i, *m
			under.t = t
			own.meshUnder = &under
			step.f(t, &own)
			i.late = own.late
		})
		if t.Failed() {
			return
		}
	}
}

// imports is the mesh, with what the steps know of it.
type imports struct {
	*meshUnder
	// direct asks addresses themselves.
	direct *http.Client
	// late is the address of service late, as the shell of eu-west sees it.
	late netip.Addr
}

// resolver asks the DNS of the shell of eu-west.
func (i *imports) resolve(host string) (netip.Addr, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, i.address(0, 0, 1, 15053))
	}}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	found, err := r.LookupNetIP(ctx, "ip4", host+".")
	if err != nil {
		return netip.Addr{}, err
	}
	return found[0].Unmap(), nil
}

// resolves waits until a name of the mesh has an address.
func (i *imports) resolves(t *testing.T, host string) (at netip.Addr) {
	t.Helper()
	took := eventually(t, 10*time.Second, host+" has an address", func() (string, bool) {
		var err error
		at, err = i.resolve(host)
		return fmt.Sprint(at, err), err == nil
	})
	t.Logf("%s is %s after %v", host, at, took.Round(time.Millisecond))
	return at
}

// answers wants a port of an address to be answered by a cluster.
func (i *imports) answers(t *testing.T, at netip.Addr, port int, cluster string) {
	t.Helper()
	target := fmt.Sprintf("http://%s/", netip.AddrPortFrom(at, uint16(port)))
	eventually(t, 10*time.Second, target+" is answered by "+cluster, func() (string, bool) {
		a := get(i.direct, target)
		return a.String(), a.Status == 200 && a.Cluster == cluster && a.Caller == "spiffe://eu-west.isthmus.local/ns/default/sa/shell"
	})
}

func knownAtStart(t *testing.T, i *imports) {
	var env []string
	if a := near(t, i.meshUnder, "/env"); json.Unmarshal([]byte(a.text), &env) != nil {
		t.Fatal(a)
	}
	address := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "ISTHMUS_SERVICE_FAR_DEMO="); ok {
			address = v
		}
	}
	a := near(t, i.meshUnder, "/fetch?url="+url.QueryEscape("http://"+address+"/"))
	if a.Status != 200 || a.Cluster != "us-east" || a.Caller != "spiffe://eu-west.isthmus.local/ns/demo/sa/web-near" {
		t.Errorf("at %q: %s (caller %q)", address, a, a.Caller)
	}
}

// service is one with two ports, whose instances are those of a workload of the mesh file.
func service(name, app string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: demo}
spec:
  selector: {app: %[2]s}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: http-other, port: 8000, targetPort: 8080}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: %[1]s, namespace: demo}
`, name, app)
}

func (i *imports) deploy(t *testing.T, cluster, name, app string) {
	t.Helper()
	if out, code := i.apply(cluster, service(name, app)); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
}

func deployedElsewhere(t *testing.T, i *imports) {
	if _, err := i.resolve("late.demo.svc.clusterset.local"); !notFound(err) {
		t.Fatalf("before it is deployed: %v, want that there is no such host", err)
	}
	i.deploy(t, "us-east", "late", "far")
	i.late = i.resolves(t, "late.demo.svc.clusterset.local")
	if want := netip.MustParsePrefix(fmt.Sprintf("127.%d.0.0/24", i.base+1)); !want.Contains(i.late) {
		t.Errorf("late is %s, want an address of %s", i.late, want)
	}
	for _, host := range []string{"late.demo", "late.demo.svc.cluster.local"} {
		if got := i.resolves(t, host); got != i.late {
			t.Errorf("%s is %s, want %s", host, got, i.late)
		}
	}
	for _, port := range []int{80, 8000} {
		i.answers(t, i.late, port, "us-east")
	}
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

func shownAsImported(t *testing.T, i *imports) {
	out := i.run("get", "services", "-n", "demo", "--cluster", "eu-west")
	found := false
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		found = found || len(f) >= 5 && f[0] == "late" && f[1] == i.late.String() && f[2] == "80/TCP,8000/TCP" && f[3] == "us-east:1" && f[4] == "us-east"
	}
	if !found {
		t.Errorf("no row of late at %s from us-east in\n%s", i.late, out)
	}
	if out = i.run("describe", "service", "late", "-n", "demo", "--cluster", "eu-west"); !strings.Contains(out, "Imported:    from us-east\n") {
		t.Errorf("describe does not say where it is from:\n%s", out)
	}
	if out, code := i.try("delete", "service", "late", "-n", "demo", "--cluster", "eu-west"); code != 1 || !strings.Contains(out, "it is cluster us-east's; add --cluster us-east") {
		t.Errorf("delete where it is imported: exit %d: %s", code, out)
	}
}

func addressAfterKill(t *testing.T, i *imports) {
	i.run("drill", "kill", "control-plane@eu-west")
	i.answers(t, i.late, 80, "us-east")
	i.run("drill", "resume", "control-plane@eu-west")
	i.inSync(t, 20*time.Second)
	if got := i.resolves(t, "late.demo"); got != i.late {
		t.Errorf("late is %s after its control plane was killed, want %s", got, i.late)
	}
	if out := i.run("get", "services", "-n", "demo", "--cluster", "eu-west"); !strings.Contains(out, i.late.String()) {
		t.Errorf("no %s in\n%s", i.late, out)
	}
	i.answers(t, i.late, 80, "us-east")
}

func addressHeldBack(t *testing.T, i *imports) {
	for _, kind := range []string{"serviceexport", "service"} {
		i.run("delete", kind, "late", "-n", "demo", "--cluster", "us-east")
	}
	eventually(t, 10*time.Second, "late has no name any more", func() (string, bool) {
		at, err := i.resolve("late.demo.svc.clusterset.local")
		return fmt.Sprint(at, err), notFound(err)
	})
	eventually(t, 10*time.Second, "nothing listens at its address", func() (string, bool) {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(i.late, 80).String(), time.Second)
		if err == nil {
			c.Close()
			return "connected", false
		}
		return err.Error(), true
	})
	i.deploy(t, "us-east", "later", "far")
	if got := i.resolves(t, "later.demo"); got == i.late {
		t.Errorf("later was given %s, which late had a moment ago", got)
	}
	out, code := i.apply("eu-west", fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: greedy, namespace: demo}, spec: {clusterIP: %s, ports: [{port: 80}]}}", i.late))
	if code != 1 || !strings.Contains(out, i.late.String()+" is the address of service demo/late, which is gone") {
		t.Errorf("a service that asks for it by number: exit %d: %s", code, out)
	}
}

func addressCarriesOver(t *testing.T, i *imports) {
	i.deploy(t, "us-east", "late", "far")
	if got := i.resolves(t, "late.demo"); got != i.late {
		t.Errorf("late came back at %s, want %s", got, i.late)
	}
	i.answers(t, i.late, 80, "us-east")
	i.deploy(t, "eu-west", "late", "near")
	i.answers(t, i.late, 80, "eu-west") // the nearest first: it is an own service now
	if got := i.resolves(t, "late.demo"); got != i.late {
		t.Errorf("late is %s as an own service, want %s", got, i.late)
	}
	if out := i.run("get", "service", "late", "-n", "demo", "--cluster", "eu-west"); !strings.Contains(out, i.late.String()) || !strings.Contains(out, "eu-west") {
		t.Errorf("as an own service it is shown as\n%s", out)
	}
	for _, kind := range []string{"serviceexport", "service"} {
		i.run("delete", kind, "late", "-n", "demo", "--cluster", "eu-west")
	}
	i.answers(t, i.late, 80, "us-east")
}

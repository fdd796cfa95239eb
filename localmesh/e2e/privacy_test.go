package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

const pairMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
workloads:
  - {name: echo, namespace: demo, clusters: [us-east], run: builtin/echo}
`

const echo = "http://echo.demo.svc.clusterset.local"

// TestNoPlaintext sends markers in path, headers and body from one cluster to another, and
// looks for them where others could: in every byte that the link delivered, and in every
// packet of the mesh. They may be on two legs only: from the client to its own sidecar, and
// from the server's sidecar to its application.
//
// The link's tap needs no privilege. The packets do (CAP_NET_RAW), for a process cannot read what
// others send; under CI, whose user is root, that part must run.
func TestNoPlaintext(t *testing.T) {
	m := newMesh(t, 90)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	tap := m.tapLink(t, "eu-west--us-east")
	var packets *capture
	if os.Geteuid() == 0 || os.Getenv("CI") != "" {
		packets = newCapture(t, m)
	} else {
		t.Log("packets are not captured: that takes root; the link's tap is searched alone")
	}
	client := m.shell(0)
	eventually(t, 10*time.Second, "the link carries again", func() (string, bool) {
		a := get(client, echo+"/")
		return a.String(), a.Status == 200
	})
	markers := []string{"path-" + rand.Text(), "query-" + rand.Text(), "header-" + rand.Text(), "body-" + rand.Text()}
	const rounds = 20
	for range rounds {
		body := strings.Repeat(markers[3], 200)
		req, err := http.NewRequest(http.MethodPost, echo+"/"+markers[0]+"?q="+markers[1], strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("x-secret", markers[2])
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var a struct {
			Path      string            `json:"path"`
			Headers   map[string]string `json:"headers"`
			BodyBytes int               `json:"bodyBytes"`
		}
		err = json.NewDecoder(resp.Body).Decode(&a)
		resp.Body.Close()
		if err != nil || a.Path != "/"+markers[0]+"?q="+markers[1] || a.Headers["x-secret"] != markers[2] || a.BodyBytes != len(body) {
			t.Fatalf("the application did not get it all: %+v, %v", a, err)
		}
	}
	sent := int64(rounds * 200 * len(markers[3]))
	// The name of the service is in every ClientHello, in the clear: the search finds what is there.
	streams, seen := searchTap(t, tap, ".us-east.isthmus.local")
	if streams == 0 || seen < sent {
		t.Errorf("the tap holds %d bytes and %d ClientHellos, want at least %d and one: it sees too little", seen, streams, sent)
	}
	for _, marker := range markers {
		if streams, _ := searchTap(t, tap, marker); streams > 0 {
			t.Errorf("%d streams of the link carry %s in the clear", streams, marker)
		}
	}
	if packets != nil {
		packets.check(t, m, markers, sent)
	}
}

// tapLink has a link copy what it delivers into a file. The configuration that the
// supervisor wrote is changed, and the link crashed: it comes back with that.
func (m *meshUnder) tapLink(t *testing.T, name string) (path string) {
	t.Helper()
	config := filepath.Join(m.dir, "run", "link."+name+".json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := link.ReadConfig(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c.Tap = filepath.Join(t.TempDir(), "tap")
	if text, err = json.Marshal(c); err == nil {
		err = os.WriteFile(config, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.crash(t, "link", name)
	eventually(t, 5*time.Second, "the link records", func() (string, bool) {
		_, err := os.Stat(c.Tap)
		return fmt.Sprint(err), err == nil
	})
	return c.Tap
}

func searchTap(t *testing.T, path, marker string) (streams int, seen int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	streams, seen, err = link.SearchTap(f, []byte(marker))
	if err != nil {
		t.Fatal(err)
	}
	return streams, seen
}

// check looks for markers in every flow. sent is what the ports between proxies must have
// carried for the search to mean something.
func (c *capture) check(t *testing.T, m *meshUnder, markers []string, sent int64) {
	t.Helper()
	if lost, err := c.lost(); err != nil || lost > 0 {
		t.Errorf("the capture lost %d packets (%v): it proves nothing", lost, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		t.Fatal(c.err)
	}
	app, shell := netip.MustParseAddrPort(m.address(1, 1, 2, 8080)), netip.MustParseAddrPort(m.address(0, 0, 1, 15001))
	carried := map[uint16]int64{}
	clear := map[netip.AddrPort]map[string]bool{app: {}, shell: {}}
	for k, b := range c.flows {
		carried[k[0].Port()] += int64(b.Len())
		carried[k[1].Port()] += int64(b.Len())
		for _, marker := range markers {
			if !bytes.Contains(b.Bytes(), []byte(marker)) {
				continue
			}
			switch {
			case clear[k[0]] != nil:
				clear[k[0]][marker] = true
			case clear[k[1]] != nil:
				clear[k[1]][marker] = true
			default:
				t.Errorf("%v to %v carries %s in the clear", k[0], k[1], marker)
			}
		}
	}
	// What is in the clear on purpose is the proof that the search finds it.
	for leg, found := range clear {
		if len(found) != len(markers) {
			t.Errorf("on the plain leg to %v the capture found %d of %d markers: it sees too little", leg, len(found), len(markers))
		}
	}
	for _, port := range []uint16{15008, 15443} {
		if carried[port] < sent {
			t.Errorf("the capture saw %d bytes at port %d, want at least %d", carried[port], port, sent)
		}
	}
}

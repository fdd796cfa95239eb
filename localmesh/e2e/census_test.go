package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// follower is a sidecar that follows one replica.
func (m *replicated) follower(replica int, name string) *process { return m.followerOf(name, replica) }

// followerOf is one that follows any of some replicas, the first of them first.
func (m *replicated) followerOf(name string, replicas ...int) *process {
	m.Helper()
	identity := "spiffe://eu.isthmus.local/ns/shop/sa/" + name
	var token struct{ Token string }
	eventually(m.T, 60*time.Second, "a join token", func() (string, bool) {
		status, text, _ := m.call(replicas[0], http.MethodPost, "/v1/tokens", `{"identity":"`+identity+`"}`)
		return text, status == http.StatusCreated && json.Unmarshal([]byte(text), &token) == nil
	})
	var control []netip.AddrPort
	for _, i := range replicas {
		control = append(control, m.control[i])
	}
	config, err := json.Marshal(map[string]any{"id": "shop/" + name, "mode": "sidecar", "cluster": "eu", "trustDomain": "eu.isthmus.local", "serviceAccount": name,
		"controlPlanes": control, "join": token.Token, "outbound": loopback.AddrPort(m.T), "admin": loopback.AddrPort(m.T)})
	if err != nil {
		m.Fatal(err)
	}
	dir := m.TempDir()
	path := filepath.Join(dir, name+".json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		m.Fatal(err)
	}
	p := &process{name: name, args: []string{"proxy", "--config", path}, log: filepath.Join(dir, name+".log")}
	p.start(m.T)
	m.Cleanup(func() {
		p.kill()
		if m.Failed() {
			b, _ := os.ReadFile(p.log)
			m.Logf("%s: %s", p.name, b[max(0, len(b)-2000):])
		}
	})
	return p
}

// command runs isthmus against one replica.
func (m *replicated) command(replica int, args ...string) (string, int) {
	cmd := exec.Command(binary, append(args, "--api", "http://"+m.apis[replica].String(), "--token", m.token)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestEveryReplicaShowsAllProxies: three replicas of a control plane as processes, each followed by one proxy: whichever is asked lists all
// proxies, and all replicas with their versions. One that is killed is named, and hides only what followed it.
func TestEveryReplicaShowsAllProxies(t *testing.T) {
	m := newReplicated(t)
	for i := range m.apis {
		m.follower(i, fmt.Sprint("p-", i))
	}
	shown := func(out string) (n int) {
		for i := range m.apis {
			if strings.Contains(out, fmt.Sprint("shop/p-", i)) {
				n++
			}
		}
		return n
	}
	for i := range m.apis {
		eventually(t, 60*time.Second, fmt.Sprintf("replica %d shows all proxies", i), func() (string, bool) {
			out, _ := m.command(i, "proxy-status")
			return out, shown(out) == 3
		})
		eventually(t, 60*time.Second, fmt.Sprintf("replica %d counts them all, and knows all replicas", i), func() (string, bool) {
			out, code := m.command(i, "status")
			versions, _ := m.command(i, "version", "--mesh")
			return out + versions, code == 0 && strings.Contains(out, "3/3") && strings.Count(versions, "control-plane/127.") == 3
		})
	}
	m.plane[2].kill()
	eventually(t, 60*time.Second, "the one that was killed is named, and the others' proxies are shown", func() (string, bool) {
		out, _ := m.command(0, "status")
		list, _ := m.command(0, "proxy-status")
		return out + list, strings.Contains(out, "proxies that follow replica 127.") && strings.Contains(out, "are not listed: ask replica") && shown(list) == 2
	})
}

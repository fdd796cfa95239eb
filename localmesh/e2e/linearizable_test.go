package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/internal/members"
)

// A history of people's writes and reads of a few objects at three replicas of a control plane over three members of etcd, all of
// which are killed again and again, is checked for linearizability (Herlihy and Wing, 1990): each acknowledged write
// takes effect once, at some instant between its call and its answer, and each read sees the one before it.

// process is one that is killed and started again.
type process struct {
	name string
	args []string
	seal []byte // inherited as descriptor 4, nil for none
	log  string

	cmd   *exec.Cmd
	alive *os.File
}

func (p *process) start(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, p.args...)
	cmd.Env, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = append(os.Environ(), "ISTHMUS_PARENT_FD=3"), []*os.File{r}, log, log
	if p.seal != nil {
		sr, sw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer sr.Close()
		if _, err := sw.Write(p.seal); err != nil {
			t.Fatal(err)
		}
		sw.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, sr)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd, p.alive = cmd, w
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.alive.Close()
		p.cmd = nil
	}
}

// replicated is three control planes over three members.
type replicated struct {
	*testing.T
	token         string
	apis, control []netip.AddrPort
	stores, plane []*process
	client        *http.Client
}

func newReplicated(t *testing.T) *replicated {
	dir := t.TempDir()
	m := &replicated{T: t, token: "a-token-of-a-test", client: &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	plan := members.Plan{Dir: filepath.Join(dir, "etcd"), Token: "e2e"}
	for i := range 3 {
		plan.Members = append(plan.Members, members.Member{Name: fmt.Sprint("member-", i), Client: loopback.Home(t), Peer: loopback.Home(t)})
	}
	if err := plan.Write(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Members {
		m.stores = append(m.stores, &process{name: s.Name, args: []string{"store", "--config", plan.Config(s)}, log: filepath.Join(dir, s.Name+".log")})
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(m.token), 0o600); err != nil {
		t.Fatal(err)
	}
	seal := make([]byte, 32)
	seal[0] = 1
	for i := range 3 {
		name := fmt.Sprint("replica-", i)
		m.apis, m.control = append(m.apis, loopback.AddrPort(t)), append(m.control, loopback.AddrPort(t))
		config, err := json.Marshal(map[string]any{"cluster": "eu", "network": "eu", "stateDir": filepath.Join(dir, name), "sealFD": 4,
			"control": m.control[i], "federation": loopback.AddrPort(t), "api": m.apis[i], "tokenFile": filepath.Join(dir, "token")})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".json")
		if err := os.WriteFile(path, config, 0o600); err != nil {
			t.Fatal(err)
		}
		m.plane = append(m.plane, &process{name: name, seal: seal, log: filepath.Join(dir, name+".log"), args: []string{"control-plane", "--config", path,
			"--etcd-endpoints", strings.Join(plan.Endpoints(), ","), "--etcd-ca", plan.CA(), "--etcd-cert", plan.Certificate(), "--etcd-key", plan.Key()}})
	}
	for _, p := range append(append([]*process{}, m.stores...), m.plane...) {
		p.start(t)
		t.Cleanup(func() {
			p.kill()
			if t.Failed() {
				b, _ := os.ReadFile(p.log)
				t.Logf("%s: %s", p.name, b[max(0, len(b)-2000):])
			}
		})
	}
	return m
}

// call is one request to a replica; whole is false for an answer that may be old.
func (m *replicated) call(replica int, method, path, body string) (status int, text string, whole bool) {
	req, err := http.NewRequest(method, "http://"+m.apis[replica].String()+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error(), false
	}
	req.Header.Set("Authorization", "Bearer "+m.token)
	req.Header.Set("Content-Type", "application/yaml")
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err.Error(), false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err == nil && resp.Header.Get("Warning") == ""
}

func (m *replicated) write(replica, object, value int) bool {
	status, _, whole := m.call(replica, http.MethodPost, "/v1/apply",
		fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: register-%d, namespace: kept, annotations: {value: \"%d\"}}\n", object, value))
	return whole && status == http.StatusOK
}

// read is the value of an object, 0 for none.
func (m *replicated) read(replica, object int) (value int, ok bool) {
	status, text, whole := m.call(replica, http.MethodGet, fmt.Sprintf("/v1/objects/serviceaccounts/kept/register-%d", object), "")
	switch {
	case !whole:
		return 0, false
	case status == http.StatusNotFound:
		return 0, true
	case status != http.StatusOK:
		return 0, false
	}
	var o struct {
		Metadata struct {
			Annotations struct {
				Value int `json:"value,string"`
			} `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		m.Errorf("read an object: %v: %s", err, text)
	}
	return o.Metadata.Annotations.Value, true
}

// registerOp is a write of a value, or a read.
type registerOp struct {
	object, value int
	write         bool
}

// registers is the model: each object holds what was written last.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) (out [][]porcupine.Operation) {
		of := map[int][]porcupine.Operation{}
		for _, o := range history {
			n := o.Input.(registerOp).object
			of[n] = append(of[n], o)
		}
		for _, h := range of {
			out = append(out, h)
		}
		return out
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		in := input.(registerOp)
		if in.write {
			return true, in.value
		}
		return output.(int) == state.(int), state
	},
}

// history is what clients did; its methods are safe for concurrent use.
type history struct {
	mu     sync.Mutex
	began  time.Time
	ops    []porcupine.Operation
	writes int // acknowledged
	lost   int // without an answer: they may have happened, or happen yet
}

func (h *history) now() int64 { return time.Since(h.began).Nanoseconds() }

func (h *history) add(client int, in registerOp, out int, call int64, answered bool) {
	end := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !answered {
		if !in.write {
			return // a read without an answer says nothing
		}
		h.lost++
		end = unanswered
	} else if in.write {
		h.writes++
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

const (
	registerObjects = 12
	registerClients = 6
	registerTime    = 20 * time.Second
)

// TestAcknowledgedWritesAreLinearizable kills one control plane or member of etcd after another with SIGKILL while six clients
// write and read a dozen objects by way of all three replicas: the history is linearizable, so nothing acknowledged is lost
// or undone. Its controls are the same history with one acknowledged write forgotten, and with one read that is stale.
func TestAcknowledgedWritesAreLinearizable(t *testing.T) {
	m := newReplicated(t)
	for i := range m.apis {
		eventually(t, 60*time.Second, "a replica writes", func() (string, bool) {
			status, text, _ := m.call(i, http.MethodPost, "/v1/apply", "apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n")
			return text, status == http.StatusOK
		})
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	h := &history{began: time.Now()}
	ctx, stop := context.WithTimeout(t.Context(), registerTime)
	defer stop()
	var clients sync.WaitGroup
	for c := range registerClients {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			for n := 1; ctx.Err() == nil; n++ {
				in := registerOp{object: rng.IntN(registerObjects), write: rng.IntN(2) == 0}
				replica, call := rng.IntN(3), h.now()
				if in.write {
					in.value = n*registerClients + c
					h.add(c, in, 0, call, m.write(replica, in.object, in.value))
					continue
				}
				value, ok := m.read(replica, in.object)
				h.add(c, in, value, call, ok)
			}
		})
	}
	kills := m.killInTurn(ctx, rand.New(rand.NewPCG(seed, 99)))
	clients.Wait()
	// What was acknowledged last is read by everybody in the end.
	for i := range m.apis {
		for object := range registerObjects {
			eventually(t, 30*time.Second, "an object is read", func() (string, bool) {
				call := h.now()
				value, ok := m.read(i, object)
				if ok {
					h.add(registerClients+i, registerOp{object: object}, value, call, true)
				}
				return "", ok
			})
		}
	}
	h.dropUnseen()
	t.Logf("%d kills; %d writes acknowledged, %d without an answer, %d operations", kills, h.writes, h.lost, len(h.ops))
	if kills < 6 || h.writes < 100 {
		t.Errorf("%d kills and %d acknowledged writes prove little", kills, h.writes)
	}
	if got := porcupine.CheckOperationsTimeout(registers, h.ops, time.Minute); got != porcupine.Ok {
		t.Errorf("the history is not linearizable: %s", got)
	}
	h.controls(t)
}

// killInTurn kills one process at a time, of either kind in turn, and starts it again; one member of three may be down.
func (m *replicated) killInTurn(ctx context.Context, rng *rand.Rand) (kills int) {
	pause := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for pause(time.Second) {
		of := m.stores
		if kills%2 == 1 {
			of = m.plane
		}
		p := of[rng.IntN(len(of))]
		p.kill()
		kills++
		pause(300 * time.Millisecond)
		p.start(m.T)
	}
	return kills
}

// unanswered is the end of a write without an answer: it may yet happen.
const unanswered = int64(1) << 62

// dropUnseen takes out the writes without an answer of which nobody read anything. An order of the rest is one of all, without
// them, and the other way round: between such a write and the next of its object there is no read. Left in, each doubles what
// a checker has to try.
func (h *history) dropUnseen() {
	seen := map[registerOp]bool{}
	for _, o := range h.ops {
		if in := o.Input.(registerOp); !in.write {
			seen[registerOp{object: in.object, value: o.Output.(int), write: true}] = true
		}
	}
	h.ops = slices.DeleteFunc(h.ops, func(o porcupine.Operation) bool {
		in := o.Input.(registerOp)
		return in.write && o.Return == unanswered && !seen[in]
	})
}

// controls break the history where a store that forgets would.
func (h *history) controls(t *testing.T) {
	t.Helper()
	lastRead, lastWrite := -1, map[int]int{}
	for i, o := range h.ops {
		in := o.Input.(registerOp)
		if in.write && o.Return < unanswered {
			lastWrite[in.object] = in.value
		} else if !in.write && o.Output.(int) != 0 {
			lastRead = i
		}
	}
	if lastRead < 0 {
		t.Fatal("nothing was read")
	}
	stale := append([]porcupine.Operation{}, h.ops...)
	stale[lastRead].Output = -1 // a value that nobody wrote
	forgotten := append([]porcupine.Operation{}, h.ops...)
	object := h.ops[lastRead].Input.(registerOp).object
	for i, o := range forgotten { // the final reads see nothing of an object that was written
		if in := o.Input.(registerOp); !in.write && in.object == object && o.ClientId >= registerClients {
			forgotten[i].Output = 0
		}
	}
	for name, ops := range map[string][]porcupine.Operation{"a read of what nobody wrote": stale, "a write that was forgotten": forgotten} {
		if got := porcupine.CheckOperationsTimeout(registers, ops, time.Minute); got != porcupine.Illegal {
			t.Errorf("control, %s: %s, want Illegal", name, got)
		}
	}
}

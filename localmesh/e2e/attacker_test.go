package e2e

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
)

// attackerArg makes this program the attackers of TestAttacks: it reads an order from its standard input, then how long to
// attack, again and again, and answers each by a toll. Apart from the test they share neither the honest client's
// scheduler nor its collector, and can be had to take no processor time that anybody else wants.
const attackerArg = "attackers-of-a-test"

// order says whom to attack how: an index of attacks, who to be, if by TLS, and whether everybody else comes first. That is
// for measurements; on a machine that is full the attacks would not take place.
type order struct {
	Attack  int
	Yield   bool
	Address string
	SNI     string
	Chain   [][]byte
	Key     []byte
}

// toll is what became of the attackers' connections, and the processor time that they took.
type toll struct {
	Made, Refused, Ended int
	CPU                  time.Duration
}

// attacker is the program.
func attacker() {
	runtime.GOMAXPROCS(1)
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var o order
	if err := in.Decode(&o); err != nil {
		return
	}
	if o.Yield {
		yieldToAll()
	}
	dial := func() (net.Conn, error) { return net.DialTimeout("tcp", o.Address, 5*time.Second) }
	if o.SNI != "" {
		key, err := trust.ParsePrivateKey(o.Key)
		if err != nil {
			return
		}
		cfg := &tls.Config{ServerName: o.SNI, NextProtos: []string{interProxy}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
			Certificates: []tls.Certificate{{Certificate: o.Chain, PrivateKey: key}}}
		dial = func() (net.Conn, error) {
			return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", o.Address, cfg)
		}
	}
	for {
		var d time.Duration
		if in.Decode(&d) != nil {
			return
		}
		before := ownTime()
		sum := attackFor(d, attacks[o.Attack], dial)
		sum.CPU = ownTime() - before
		if out.Encode(sum) != nil {
			return
		}
	}
}

// attackFor attacks for so long. One who was thrown out comes back, but not faster than anybody could be let in.
func attackFor(d time.Duration, a attack, dial func() (net.Conn, error)) toll {
	end := time.Now().Add(d)
	var mu sync.Mutex
	var sum toll
	var attackers sync.WaitGroup
	for range a.conns {
		attackers.Go(func() {
			for time.Now().Before(end) {
				conn, err := dial()
				if err == nil {
					_ = conn.SetDeadline(end)
					a.run(conn)
					conn.Close()
				}
				mu.Lock()
				switch {
				case err != nil:
					sum.Refused++
				case time.Now().Before(end):
					sum.Ended++
					fallthrough
				default:
					sum.Made++
				}
				mu.Unlock()
				<-time.After(min(500*time.Millisecond, max(0, time.Until(end))))
			}
		})
	}
	attackers.Wait()
	return sum
}

// ownTime is the processor time that this process has taken.
func ownTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hired are attackers at work for a test.
type hired struct {
	out *json.Encoder
	in  *json.Decoder
}

// hire starts attackers, who are dismissed with the test.
func hire(t *testing.T, o order) *hired {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, attackerArg)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	var out io.ReadCloser
	if err == nil {
		out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("start attackers: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	h := &hired{json.NewEncoder(in), json.NewDecoder(out)}
	if err := h.out.Encode(o); err != nil {
		t.Fatalf("give attackers their order: %v", err)
	}
	return h
}

// attacked has the attackers work for so long, and adds up their toll.
func (c *cost) attacked(t *testing.T, h *hired, d time.Duration) {
	var sum toll
	err := h.out.Encode(d)
	if err == nil {
		err = h.in.Decode(&sum)
	}
	if err != nil {
		t.Errorf("the attackers are gone: %v", err)
		return
	}
	c.Made, c.Refused, c.Ended = c.Made+sum.Made, c.Refused+sum.Refused, c.Ended+sum.Ended
	c.attacker += sum.CPU
}

package http2

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// credit is a peer's own account of what our side may send.
type credit struct {
	conn, initial int
	stream        map[uint32]int
	left          map[uint32]int // octets of the body still to come; absent once the stream ended
}

func (k *credit) canFlow() bool {
	for id := range k.left {
		if k.left[id] == 0 || k.stream[id] > 0 && k.conn > 0 {
			return true
		}
	}
	return len(k.left) == 0
}

// What we send never exceeds a window, whatever the peer does to the windows, and never
// stalls while they are open.
func TestSendingKeepsToTheWindows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := &credit{conn: defaultWindow, initial: rapid.IntRange(0, 100_000).Draw(rt, "initial"), stream: map[uint32]int{}, left: map[uint32]int{}}
		sizes := rapid.SliceOfN(rapid.IntRange(0, 150_000), 1, 8).Draw(rt, "sizes")
		p, _ := serverPeer(t, Config{SendBuffer: 20 << 10}, func(x message.Exchange) {
			n, _ := strconv.Atoi(string(x.Request().Path[1:]))
			x.Respond(&message.Head{Status: 200, Length: message.LengthUnknown}, false)
			x.Write(make([]byte, n))
			x.Finish(nil)
		})
		defer p.nc.Close()
		p.hello(true, xhttp2.Setting{ID: settingInitialWindowSize, Val: uint32(k.initial)})
		p.until("SETTINGS ACK")
		for i := range sizes {
			id := uint32(2*i + 1)
			k.stream[id], k.left[id] = k.initial, sizes[i]
			p.headers(id, true, with(get[:3], fmt.Sprintf(":path: /%d", sizes[i]))...)
		}
		for len(k.left) > 0 {
			switch ids := keys(k.left); rapid.IntRange(0, 5).Draw(rt, "act") {
			case 0:
				n := rapid.IntRange(1, 50_000).Draw(rt, "conn update")
				k.conn += n
				p.fr.WriteWindowUpdate(0, uint32(n))
			case 1, 2:
				id := rapid.SampledFrom(ids).Draw(rt, "stream")
				n := rapid.IntRange(1, 50_000).Draw(rt, "stream update")
				k.stream[id] += n
				p.fr.WriteWindowUpdate(id, uint32(n))
			case 3:
				n := rapid.IntRange(0, 100_000).Draw(rt, "initial again")
				p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: uint32(n)})
				shift := func() {
					for id := range k.stream {
						k.stream[id] += n - k.initial
					}
					k.initial = n
				}
				if n > k.initial {
					shift()
				}
				for k.step(rt, p) != "SETTINGS ACK" {
				}
				if n < k.initial {
					shift()
				}
			default:
				if k.canFlow() {
					k.step(rt, p)
				}
			}
		}
	})
}

// step reads one frame and enters it into the account.
func (k *credit) step(rt *rapid.T, p *peer) string {
	f, err := p.fr.ReadFrame()
	if err != nil {
		rt.Fatalf("stalled or closed: %v; account %+v", err, *k)
	}
	id := f.Header().StreamID
	switch f := f.(type) {
	case *xhttp2.DataFrame:
		n := len(f.Data())
		k.conn -= n
		k.stream[id] -= n
		k.left[id] -= n
		if n > 0 && (k.conn < 0 || k.stream[id] < 0) {
			rt.Fatalf("DATA of %d octets on stream %d above a window: %+v", n, id, *k)
		}
		if f.StreamEnded() {
			if k.left[id] != 0 {
				rt.Fatalf("stream %d ended with %d octets missing", id, k.left[id])
			}
			delete(k.left, id)
		}
	case *xhttp2.HeadersFrame:
		if f.StreamEnded() {
			delete(k.left, id)
		}
	case *xhttp2.RSTStreamFrame, *xhttp2.GoAwayFrame:
		rt.Fatalf("%v", f)
	case *xhttp2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ACK"
		}
	}
	return ""
}

func keys(m map[uint32]int) (ids []uint32) {
	for id := uint32(1); len(ids) < len(m); id += 2 {
		if _, ok := m[id]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// What we grant is enough for every stream that is read to end, beside some that
// are not, and never more than the buffer's bound.
func TestReceivingNeverStallsAStreamThatIsRead(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 300_000), 1, 6).Draw(rt, "sizes")
		stuck := rapid.IntRange(0, 3).Draw(rt, "streams nobody reads")
		pad := rapid.IntRange(0, 255).Draw(rt, "padding")
		bound := (stuck+1)*defaultWindow + rapid.IntRange(0, 100_000).Draw(rt, "spare")
		budget := &countingBudget{grant: rapid.Bool().Draw(rt, "budget grants")}
		hang := make(chan struct{})
		release := sync.OnceFunc(func() { close(hang) })
		defer release()
		p, done := serverPeer(t, Config{ConnBuffer: bound, Budget: budget, ControlBurst: 1 << 20}, func(x message.Exchange) {
			if x.Request().Has("x-hang") {
				<-hang
				return
			}
			n, _ := io.Copy(io.Discard, x)
			h := message.Head{Status: 200, Length: 0}
			h.Add("x-n", string(rune('0'+n%10)))
			x.Respond(&h, true)
		})
		defer p.nc.Close()
		p.hello(true)
		window := map[uint32]int{0: defaultWindow}
		left := map[uint32]int{}
		for i := range stuck {
			id := uint32(2*i + 1)
			p.headers(id, false, with(post, "x-hang: yes")...)
			window[id], left[id] = defaultWindow, 1<<30
		}
		open := len(sizes)
		for i, n := range sizes {
			id := uint32(2*(stuck+i) + 1)
			p.headers(id, false, post...)
			window[id], left[id] = defaultWindow, n
		}
		for open > 0 {
			moved := false
			for _, id := range keys(left) {
				n := min(left[id], window[id]-pad-1, window[0]-pad-1, 16000)
				if left[id] == 0 {
					p.data(id, true, "")
					delete(left, id)
					moved = true
					continue
				}
				if n <= 0 {
					continue
				}
				p.fr.WriteDataPadded(id, false, make([]byte, n), make([]byte, pad))
				cost := n + pad + 1 // the octet that tells the padding's length too
				left[id] -= n
				window[id] -= cost
				window[0] -= cost
				moved = true
			}
			for first := true; first && !moved || len(left) == stuck && open > 0; first = false {
				f, err := p.fr.ReadFrame()
				if err != nil {
					rt.Fatalf("stalled: %v; left %v, windows %v", err, left, window)
				}
				switch f := f.(type) {
				case *xhttp2.WindowUpdateFrame:
					window[f.StreamID] += int(f.Increment)
				case *xhttp2.PingFrame:
					if !f.IsAck() {
						p.fr.WritePing(true, f.Data)
					}
				case *xhttp2.HeadersFrame:
					open--
				case *xhttp2.RSTStreamFrame, *xhttp2.GoAwayFrame:
					rt.Fatalf("%v", f)
				}
			}
		}
		p.nc.Close()
		release()
		select {
		case <-done:
		case <-time.After(time.Minute):
			rt.Fatal("ServeConn did not return")
		}
		if n := budget.out.Load(); n != 0 {
			rt.Fatalf("%d octets of the budget were not given back", n)
		}
	})
}

type countingBudget struct {
	grant bool
	out   atomic.Int64
	most  atomic.Int64
}

func (b *countingBudget) Take(n int) bool {
	if b.grant {
		b.most.Store(max(b.most.Load(), b.out.Add(int64(n))))
	}
	return b.grant
}

func (b *countingBudget) Give(n int) { b.out.Add(int64(-n)) }

// Windows grow when they were what limited a round trip, out of the budget, which gets all back.
func TestWindowsGrow(t *testing.T) {
	for name, grant := range map[string]bool{"granted": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			budget := &countingBudget{grant: grant}
			p, done := serverPeer(t, Config{Budget: budget, MaxWindow: 1 << 20}, func(x message.Exchange) {
				io.Copy(io.Discard, x)
				x.Respond(&message.Head{Status: 200, Length: 0}, true)
			})
			p.hello(true)
			p.headers(1, false, post...)
			conn, stream, most := defaultWindow, defaultWindow, 0
			var pinged *[8]byte
			for range 400 {
				n := min(conn, stream, 16384)
				if n > 0 { // a long path: PING is answered only when the windows are empty
					p.data(1, false, strings.Repeat("x", n))
					conn, stream = conn-n, stream-n
					continue
				}
				if pinged != nil {
					p.fr.WritePing(true, *pinged)
					pinged = nil
				}
				f, err := p.fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch f := f.(type) {
				case *xhttp2.WindowUpdateFrame:
					if f.StreamID == 0 {
						conn += int(f.Increment)
					} else {
						stream += int(f.Increment)
						most = max(most, stream)
					}
				case *xhttp2.PingFrame:
					pinged = &f.Data
				}
			}
			if grew := most > defaultWindow; grew != grant {
				t.Errorf("the stream's window reached %d octets", most)
			}
			if got := budget.most.Load() > 0; got != grant {
				t.Errorf("the budget gave %d octets", budget.most.Load())
			}
			p.data(1, true, "")
			p.fr.WriteRSTStream(1, 8)
			p.nc.Close()
			<-done
			if n := budget.out.Load(); n != 0 {
				t.Errorf("%d octets of the budget were not given back", n)
			}
		})
	}
}

func TestBDPGrowsOnlyWhenTheWindowIsTheLimit(t *testing.T) {
	var b bdp
	window := defaultWindow
	for i, tc := range []struct{ arrived, want int }{
		{10_000, 65_535}, {32_000, 131_070}, {131_070, 262_140}, {1_000, 262_140}, {262_140, 400_000}, {400_000, 400_000},
	} {
		for !b.start() {
		}
		b.bytes += tc.arrived
		if window = b.end(window, 400_000); window != tc.want {
			t.Errorf("sample %d: window %d; want %d", i, window, tc.want)
		}
	}
	if b.start(); b.start() {
		t.Error("two samples at once")
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var q queue
		var want, got bytes.Buffer
		for range rapid.IntRange(0, 30).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "push") {
				p := []byte(strings.Repeat(string(rune('a'+want.Len()%26)), rapid.IntRange(0, 20_000).Draw(rt, "n")))
				want.Write(p)
				q.push(p)
			} else {
				p := make([]byte, rapid.IntRange(0, 20_000).Draw(rt, "n"))
				got.Write(p[:q.pop(p)])
			}
			if q.n != want.Len()-got.Len() {
				rt.Fatalf("%d queued; want %d", q.n, want.Len()-got.Len())
			}
		}
		rest := make([]byte, q.n)
		got.Write(rest[:q.pop(rest)])
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			rt.Fatal("octets differ")
		}
		q.push([]byte("x"))
		q.drop()
		if q.n != 0 || q.first != nil {
			rt.Fatal("not dropped")
		}
	})
}

// Open hands out slots in order, and every slot comes back.
func TestSlotsAreFair(t *testing.T) {
	c, s := tcpPair(t)
	cc := pair(t, Config{MaxConcurrentStreams: 3}, c, s, echo)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 5 {
				if _, _, _, err := do(cc, request("POST", "/"), []byte("x"), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := cc.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

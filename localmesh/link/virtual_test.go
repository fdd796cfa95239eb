package link

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstByteWaitsForTheHandshake(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client := w.call(AtoB)
		client.say([]byte("request"))
		server := <-w.dialled
		w.wantAt("SYN", 40*ms)
		w.wantHeard(server, []byte("request"))
		w.wantAt("request", 120*ms)
		server.say([]byte("answer"))
		w.wantHeard(client, []byte("answer"))
		w.wantAt("answer", 160*ms)
		client.say([]byte("more"))
		w.wantHeard(server, []byte("more"))
		w.wantAt("second request", 200*ms)
	})
}

func TestServerThatSpeaksFirstIsHeardAfterTwoRTTs(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client := w.call(BtoA)
		(<-w.dialled).say([]byte("220 hello"))
		w.wantHeard(client, []byte("220 hello"))
		w.wantAt("greeting", 160*ms)
	})
}

func TestStreamsAreWholeOverABadLink(t *testing.T) {
	shape := Shape{RTT: 30 * ms, Jitter: 30 * ms, Loss: 0.05, Bandwidth: 20_000_000}
	inWorld(t, shape, func(w *world) {
		var wg sync.WaitGroup
		for i := range 6 {
			client := w.call(Direction(i % 2))
			server := <-w.dialled
			for j, ends := range [][2]*memory{{client, server}, {server, client}} {
				text := noise(300_000, uint64(2*i+j))
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
					for rest := text; len(rest) > 0; {
						n := min(len(rest), 1+r.IntN(1<<r.IntN(17)))
						ends[0].say(rest[:n])
						rest = rest[n:]
						<-time.After(time.Duration(r.IntN(int(3 * ms))))
					}
					ends[0].sayEnd()
				})
				wg.Go(func() {
					w.wantHeard(ends[1], text)
					if _, err := ends[1].hear(1); err != io.EOF {
						w.Errorf("after the last byte: %v, want EOF", err)
					}
				})
			}
		}
		wg.Wait()
		s := w.relay.stats()
		if s.AtoB.Lost == 0 || s.BtoA.Lost == 0 {
			t.Errorf("lost %d and %d segments: the test proves too little", s.AtoB.Lost, s.BtoA.Lost)
		}
		if s.AtoB.Bytes != 1_800_000 || s.BtoA.Bytes != 1_800_000 || s.AtoB.Opened != 3 || s.BtoA.Opened != 3 {
			t.Errorf("counted %+v and %+v", s.AtoB, s.BtoA)
		}
	})
}

func TestHalfCloseCrossesAlone(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		start := w.relay.now()
		client.say([]byte("last words"))
		client.sayEnd()
		w.wantHeard(server, []byte("last words"))
		if _, err := server.hear(1); err != io.EOF {
			t.Fatalf("server hears %v, want EOF", err)
		}
		w.wantAt("FIN", start+40*ms)
		w.sleep(time.Hour)
		server.say([]byte("still here"))
		w.wantHeard(client, []byte("still here"))
		if n := w.relay.stats().AtoB.Active; n != 1 {
			t.Fatalf("%d connections active, want 1", n)
		}
		server.sayEnd()
		if _, err := client.hear(1); err != io.EOF {
			t.Fatalf("client hears %v, want EOF", err)
		}
		synctest.Wait()
		if s := w.relay.stats().AtoB; s.Active != 0 || s.Closed != 1 {
			t.Fatalf("after both FINs: %+v", s)
		}
	})
}

func TestResetCrossesBehindTheBytesBeforeIt(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		start := w.relay.now()
		client.say([]byte("last words"))
		synctest.Wait() // the relay has read them
		client.hangUp()
		w.wantHeard(server, []byte("last words"))
		if _, err := server.hear(1); err != errReset {
			t.Fatalf("server hears %v, want a reset", err)
		}
		w.wantAt("RST", start+40*ms)
	})
}

func TestWriteToAPeerThatIsGoneResetsTheOtherEnd(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		server.sayEnd() // its reader has ended, so only a write finds out
		if _, err := client.hear(1); err != io.EOF {
			t.Fatal(err)
		}
		server.out.set(func() { server.out.reset = true })
		start := w.relay.now()
		client.say([]byte("into the void"))
		if _, err := client.hear(1); err != io.EOF { // the FIN still stands before the reset
			t.Fatal(err)
		}
		w.sleep(79 * ms)
		if w.relay.stats().AtoB.Active != 1 {
			t.Error("the client knew before the RST had come back")
		}
		w.sleep(1 * ms)
		if w.relay.stats().AtoB.Active != 0 {
			t.Error("the client was not reset")
		}
		w.wantAt("RST", start+80*ms)
	})
}

func TestBothEndsGoneAtOnceEndsTheConnection(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		client.say([]byte("x"))
		server.say([]byte("y"))
		synctest.Wait()
		client.hangUp()
		server.hangUp()
		w.sleep(time.Second)
		if s := w.relay.stats().AtoB; s.Active != 0 {
			t.Errorf("still active: %+v", s)
		}
	})
}

func TestCutOneWayHoldsItsBytesAndHealDeliversThemWhole(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: 100_000_000}, func(w *world) {
		client, server := w.connect(AtoB)
		text := noise(200_000, 1)
		client.say(text[:1000])
		w.sleep(20 * ms) // in flight when the cut falls on it
		w.do(`{"op":"cut","direction":"a-to-b"}`)
		for i := 1000; i < len(text); i += 1000 {
			client.say(text[i : i+1000])
			<-time.After(ms)
		}
		server.say([]byte("the other way is open"))
		w.wantHeard(client, []byte("the other way is open"))
		w.wantSilence(server, time.Minute)
		if s := w.relay.stats(); s.AtoB.State != "cut" || s.BtoA.State != "open" {
			t.Errorf("states %q, %q", s.AtoB.State, s.BtoA.State)
		}
		healed := w.relay.now()
		w.do(`{"op":"heal"}`)
		w.wantHeard(server, text)
		if took := w.relay.now() - healed; took < 40*ms || took > 80*ms {
			t.Errorf("all is there %v after the heal, want half an RTT and 16ms at the bottleneck", took)
		}
	})
}

func TestCutOneWayStopsTheOtherAfterAWindow(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: 1_000_000}, func(w *world) {
		client, server := w.connect(AtoB)
		w.do(`{"op":"cut","direction":"a-to-b"}`)
		text := noise(1_000_000, 1)
		server.say(text)
		w.wantHeard(client, text[:windowMinBytes])
		w.wantSilence(client, time.Minute)
		w.do(`{"op":"heal"}`)
		w.wantHeard(client, text[windowMinBytes:])
	})
}

func TestCutBothWaysHangsNewConnectionsUntilHealed(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		w.do(`{"op":"cut"}`)
		for _, d := range []Direction{AtoB, BtoA} {
			client := w.call(d)
			client.say([]byte("request"))
			w.wantSilence(client, 10*time.Second)
		}
		if len(w.dialled) != 0 {
			t.Fatal("a SYN crossed the cut")
		}
		healed := w.relay.now()
		w.do(`{"op":"heal"}`)
		for range 2 {
			w.wantHeard(<-w.dialled, []byte("request"))
			w.wantAt("request", healed+120*ms)
		}
	})
}

func TestCutOfTheWayBackHangsTheHandshake(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		w.do(`{"op":"cut","direction":"b-to-a"}`)
		client := w.call(AtoB)
		client.say([]byte("request"))
		server := <-w.dialled
		w.wantSilence(server, time.Minute)
		healed := w.relay.now()
		w.do(`{"op":"heal","direction":"b-to-a"}`)
		w.wantHeard(server, []byte("request"))
		w.wantAt("request", healed+80*ms)
	})
}

func TestCutAgainBeforeWhatWasHealedArrived(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		text := noise(5000, 1)
		client.say(text)
		for range 5 {
			w.do(`{"op":"cut"}`)
			w.sleep(time.Second)
			w.do(`{"op":"heal"}`)
			w.wantSilence(server, 39*ms)
		}
		w.wantHeard(server, text)
	})
}

func TestAFinishedCallerIsNotHeardAfterALongHandshake(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		w.do(`{"op":"cut"}`)
		late := w.call(AtoB)
		late.say([]byte("abandoned"))
		late.sayEnd()
		w.sleep(5 * time.Second)
		w.do(`{"op":"heal"}`)
		w.sleep(time.Second)
		if len(w.dialled) != 0 {
			t.Error("the abandoned request's connection was made")
		}
		if s := w.relay.stats(); s.AtoB.Active != 0 || s.Forwards[0].Failed != 1 {
			t.Errorf("counted %+v", s.Forwards[0])
		}
		prompt := w.call(AtoB)
		prompt.say([]byte("all I have"))
		prompt.sayEnd()
		w.wantHeard(<-w.dialled, []byte("all I have"))
	})
}

func TestHandshakeAndRetransmissionGiveUpAsTCPDoes(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		old, server := w.connect(AtoB)
		idle, _ := w.connect(AtoB)
		w.do(`{"op":"cut"}`)
		start := w.relay.now()
		fresh := w.call(AtoB)
		if _, err := fresh.hear(1); err != errReset {
			t.Errorf("the hanging connection hears %v", err)
		}
		w.wantAt("end of the handshake", start+handshakeMax)
		old.say([]byte("x"))
		start = w.relay.now()
		if _, err := server.hear(1); err != errReset {
			t.Errorf("the waiting connection hears %v", err)
		}
		w.wantAt("end of retransmission", start+retransmitMax)
		w.wantSilence(idle, 24*time.Hour) // with nothing to send, TCP never learns
	})
}

func TestStallHoldsAndReleasesAtOnce(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		w.do(`{"op":"pause"}`)
		client.say([]byte("a"))
		waiting := w.call(AtoB)
		waiting.say([]byte("b"))
		w.wantSilence(server, time.Minute)
		if len(w.dialled) != 0 {
			t.Error("a SYN crossed the stalled link")
		}
		healed := w.relay.now()
		w.do(`{"op":"heal"}`)
		w.wantHeard(server, []byte("a"))
		w.wantAt("held byte", healed)
		w.wantHeard(<-w.dialled, []byte("b"))
		w.wantAt("new connection's byte", healed+80*ms)
	})
}

func TestTargetThatRefusesResetsTheCallerAfterAnRTT(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		w.dialErr = errors.New("connection refused")
		client := w.call(AtoB)
		if _, err := client.hear(1); err != errReset {
			t.Errorf("caller hears %v", err)
		}
		w.wantAt("refusal", 80*ms)
		synctest.Wait()
		if s := w.relay.stats().Forwards[0]; s.Failed != 1 || s.Active != 0 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestBandwidthIsReachedAndShared(t *testing.T) {
	const bandwidth, size = 100_000_000, 5 << 20
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: bandwidth}, func(w *world) {
		ideal := time.Duration(size * 8 / float64(bandwidth) * float64(time.Second))
		text := noise(size, 1)
		client, server := w.connect(AtoB)
		start := w.relay.now()
		client.say(text)
		w.wantHeard(server, text)
		if took := w.relay.now() - start; took < ideal || took > ideal+ideal/20+40*ms {
			t.Errorf("one connection needs %v for %d bytes, ideal %v", took, size, ideal)
		}
		other, otherServer := w.connect(AtoB)
		start = w.relay.now()
		client.say(text)
		other.say(text)
		var wg sync.WaitGroup
		wg.Go(func() { w.wantHeard(otherServer, text) })
		w.wantHeard(server, text)
		half := w.relay.now() - start
		wg.Wait()
		took := w.relay.now() - start
		if took < 2*ideal || took > 2*ideal+ideal/10+40*ms || half < took*2/3 {
			t.Errorf("two connections need %v and %v, ideal %v together", half, took, 2*ideal)
		}
	})
}

func TestBulkDoesNotDrownAPing(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: 100_000_000}, func(w *world) {
		ping, echo := w.connect(AtoB)
		var bulk []*memory
		for range 10 { // windows of 2 MB each: 1.7 s of the bottleneck together
			client, _ := w.connect(AtoB)
			bulk = append(bulk, client)
		}
		for _, client := range bulk {
			client.say(noise(4<<20, 1))
		}
		w.sleep(time.Second)
		start := w.relay.now()
		ping.say([]byte("ping"))
		w.wantHeard(echo, []byte("ping"))
		if took := w.relay.now() - start; took < 40*ms+10*ms || took > 40*ms+3*backlogMax {
			t.Errorf("a ping beside bulk takes %v one way, want 40ms and the bottleneck's queue", took)
		}
	})
}

func TestStuckReaderStopsTheWriterWithinAWindow(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: 100_000_000}, func(w *world) {
		w.peerMax = 1000
		client, server := w.connect(AtoB)
		text := noise(8<<20, 1)
		client.say(text)
		w.sleep(time.Minute)
		window := int(w.relay.cfg.Shape.Window())
		taken := len(text) - client.unheard()
		if taken < window/2 || taken > window+w.peerMax+deliveryMax {
			t.Errorf("the relay took %d bytes of a stuck stream, want about its window, %d", taken, window)
		}
		if held := int(w.relay.stats().Held); held > window {
			t.Errorf("it holds %d bytes, more than the window, %d", held, window)
		}
		w.wantHeard(server, text)
	})
}

func TestTinyWritesAreBoundedInPieces(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms, Bandwidth: 1_000_000}, func(w *world) {
		client, _ := w.connect(AtoB)
		w.do(`{"op":"cut"}`)
		for range 1000 {
			client.say([]byte("x"))
			synctest.Wait()
		}
		if taken, want := 1000-client.unheard(), windowMinBytes/pieceCostMin; taken > want {
			t.Errorf("the relay took %d pieces of one byte, want at most %d", taken, want)
		}
	})
}

func TestMemoryMaxShrinksEveryWindow(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		w.relay.cfg.MemoryMax = 1 << 20
		w.do(`{"op":"cut"}`)
		w.do(`{"op":"heal"}`)
		var clients []*memory
		for range 20 {
			client, _ := w.connect(AtoB)
			clients = append(clients, client)
		}
		w.do(`{"op":"cut"}`)
		for _, c := range clients {
			c.say(noise(4<<20, 1))
		}
		w.sleep(time.Second)
		bound := w.relay.cfg.MemoryMax + int64(len(clients))*(windowMinBytes+blockBytes)
		if held := w.relay.stats().Held; held > bound || held < 1<<20 {
			t.Errorf("%d bytes held, want 1 MiB to %d", held, bound)
		}
	})
}

func TestReshapeAppliesToWhatIsInFlight(t *testing.T) {
	inWorld(t, Shape{RTT: 80 * ms}, func(w *world) {
		client, server := w.connect(AtoB)
		w.do(`{"op":"slow","rtt":"20s","bandwidth":8e3}`)
		text := noise(10_000, 1)
		client.say(text)
		w.wantSilence(server, 5*time.Second)
		changed := w.relay.now()
		w.do(`{"op":"restore"}`)
		w.wantHeard(server, text)
		w.wantAt("bytes of the slow link", changed+40*ms)
		if got := w.relay.stats().Shape; got != w.relay.cfg.Shape {
			t.Errorf("restored to %+v", got)
		}
	})
}

func TestConnectionsMaxRefusesOneMore(t *testing.T) {
	inWorld(t, Shape{}, func(w *world) {
		w.relay.cfg.ConnectionsMax = 1
		w.connect(AtoB)
		if _, err := w.call(BtoA).hear(1); err != errReset {
			t.Errorf("one too many hears %v", err)
		}
		if s := w.relay.stats(); s.Forwards[1].Refused != 1 || s.BtoA.Opened != 0 {
			t.Errorf("counted %+v", s.Forwards[1])
		}
	})
}

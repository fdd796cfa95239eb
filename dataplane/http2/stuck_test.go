package http2

import (
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestAClientThatDoesNotDrainMayNotAskForMuchMore opens streams with a window that is smaller than the answers, whose
// ends wait. It is refused more once the heads of those have some size, and served again when it takes what it
// asked for; a client of ordinary requests is not refused, as slow as it may be. The control is a server
// without the bound.
func TestAClientThatDoesNotDrainMayNotAskForMuchMore(t *testing.T) {
	const streams = 240
	for _, tt := range []struct {
		name     string
		fill     int // octets of a field of each head
		cfg      Config
		min, max int // of streams that are accepted
	}{
		{"large heads", 8000, Config{}, stuckMax, 120},
		{"control: large heads without the bound", 8000, Config{OpenHeadBytes: -1}, streams, streams},
		{"ordinary heads", 800, Config{}, streams, streams},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.ControlBurst = 1000
			p, _ := serverPeer(t, tt.cfg, func(x message.Exchange) {
				if x.Respond(&message.Head{Status: 200, Length: freshOctets + 3}, false) == nil {
					if _, err := x.Write(make([]byte, freshOctets+3)); err == nil {
						_ = x.Finish(nil)
					}
				}
			})
			p.hello(true, xhttp2.Setting{ID: settingInitialWindowSize, Val: freshOctets})
			p.fr.WriteWindowUpdate(0, 1<<30)
			accepted := 0
			ask := func(i uint32) (answer string) {
				p.headers(2*i+1, true, with(get, "x-fill: "+strings.Repeat("z", tt.fill))...)
				head, refusal := fmt.Sprintf("HEADERS %d 200", 2*i+1), fmt.Sprintf("RST_STREAM %d REFUSED_STREAM", 2*i+1)
				for {
					switch l := p.next(); {
					case strings.HasPrefix(l, head), l == refusal, l == "EOF", l == "TIMEOUT":
						return l
					}
				}
			}
			for i := range uint32(streams) {
				switch l := ask(i); {
				case strings.HasPrefix(l, "HEADERS"):
					accepted++
				case !strings.HasPrefix(l, "RST_STREAM"):
					t.Fatalf("request %d: %s", i, l)
				}
			}
			if accepted < tt.min || accepted > tt.max {
				t.Errorf("%d of %d streams were accepted, want %d to %d", accepted, streams, tt.min, tt.max)
			}
			t.Logf("%d of %d streams were accepted", accepted, streams)
			p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: freshOctets + 1000})
			for n := 0; n < accepted; {
				switch l := p.next(); {
				case strings.HasPrefix(l, "DATA") && strings.HasSuffix(l, "END"):
					n++
				case l == "EOF", l == "TIMEOUT":
					t.Fatalf("%s after %d of %d answers", l, n, accepted)
				}
			}
			if l := ask(streams); !strings.HasPrefix(l, "HEADERS") {
				t.Errorf("a request of a client that has drained: %s", l)
			}
		})
	}
}

// TestHeadsInProgressAreBounded has handlers that do not answer yet.
func TestHeadsInProgressAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name     string
		bound    int
		accepted int
	}{{"bound", 0, 34}, {"control: no bound", -1, 50}} { // 34 heads of some 60,000 octets are 2 MiB
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{})
			p, _ := serverPeer(t, Config{OpenHeadBytes: tt.bound}, func(x message.Exchange) {
				<-hang
				_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
			})
			t.Cleanup(func() { close(hang) })
			p.hello(true)
			const streams = 50
			for i := range uint32(streams) {
				// What Huffman's code would lengthen is sent as it is.
				lines := with(get)
				for j := range 15 {
					lines = append(lines, fmt.Sprintf("x-%d: %s", j, strings.Repeat("\\", 4000)))
				}
				p.inPieces(2*i+1, p.block(lines...))
			}
			p.fr.WritePing(false, [8]byte{7: 1})
			lines, _ := p.until("PING ACK")
			refused := 0
			for _, l := range lines {
				if strings.HasSuffix(l, "REFUSED_STREAM") {
					refused++
				}
			}
			if streams-refused != tt.accepted {
				t.Errorf("%d streams were accepted, want %d: %q", streams-refused, tt.accepted, lines)
			}
		})
	}
}

// inPieces sends a field section in frames of 16,000 octets.
func (p *peer) inPieces(id uint32, block []byte) {
	n := min(len(block), 16000)
	p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block[:n], EndStream: true, EndHeaders: n == len(block)})
	for block = block[n:]; len(block) > 0; block = block[n:] {
		n = min(len(block), 16000)
		p.fr.WriteContinuation(id, n == len(block), block[:n])
	}
}

package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func TestSilenceGrowsWithTheRoundTrip(t *testing.T) {
	tests := []struct {
		samples         []time.Duration
		answer, silence time.Duration // at most
	}{
		{[]time.Duration{100 * time.Microsecond}, 101 * time.Millisecond, 301 * time.Millisecond},
		{[]time.Duration{80 * time.Millisecond, 80 * time.Millisecond, 80 * time.Millisecond, 80 * time.Millisecond, 80 * time.Millisecond}, 180 * time.Millisecond, 380 * time.Millisecond},
		{[]time.Duration{250 * time.Millisecond}, 751 * time.Millisecond, 1751 * time.Millisecond},
	}
	for _, tt := range tests {
		var e estimate
		for _, s := range tt.samples {
			e.add(s)
		}
		rtt := tt.samples[0]
		if e.answer() > tt.answer || e.answer() < rtt+quietFloor {
			t.Errorf("%v: an answer may take %s, want %s at most", tt.samples, e.answer(), tt.answer)
		}
		if e.silence() > tt.silence || e.silence() < rtt+silentFloor {
			t.Errorf("%v: silence is %s, want %s at most", tt.samples, e.silence(), tt.silence)
		}
	}
}

func TestWhatIsOnTheWayPutsOffSilence(t *testing.T) {
	var w wire
	for written, want := range map[int64]time.Duration{0: 0, 16 << 10: 15625 * time.Microsecond, 1 << 20: time.Second, 1 << 30: queueMax} {
		w.unheard.Store(written)
		if got := w.draining(); got != want {
			t.Errorf("%d bytes on the way: %s, want %s", written, got, want)
		}
	}
}

// remote is how crypto/tls reports an alert of the peer, produced by crypto/tls itself.
func remote(t *testing.T, alert byte) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() {
		buf := make([]byte, 4096)
		_, _ = b.Read(buf)
		_, _ = b.Write([]byte{21, 3, 3, 0, 2, 2, alert})
	}()
	err := tls.Client(a, &tls.Config{ServerName: "x", InsecureSkipVerify: true}).Handshake()
	if err == nil {
		t.Fatal("a handshake with an alert succeeds")
	}
	return err
}

func TestReasons(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want mesh.Reason
	}{
		{"a gateway does not know the name", remote(t, 112), mesh.ReasonUnreachable},
		{"a gateway cannot reach the endpoint", remote(t, 80), mesh.ReasonUnreachable},
		{"the server refuses our certificate", remote(t, 42), mesh.ReasonTLS},
		{"the server wants a certificate", remote(t, 116), mesh.ReasonTLS},
		{"the server speaks another protocol", remote(t, 120), mesh.ReasonTLS},
		{"we refuse the server", fmt.Errorf("dial: %w", &trust.Error{Fault: trust.FaultIdentity}), mesh.ReasonTLS},
		{"we have no certificate", &trust.Error{Fault: trust.FaultOwnCertificate}, mesh.ReasonOwnFault},
		{"the client showed no certificate", errors.New("tls: client didn't provide a certificate"), mesh.ReasonTLS},
		{"not TLS", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, mesh.ReasonTLS},
		{"the context ran out", context.DeadlineExceeded, mesh.ReasonConnectTimeout},
		{"the socket's deadline passed", &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, mesh.ReasonConnectTimeout},
		{"the connection ended", io.EOF, mesh.ReasonUnreachable},
		{"we stop", errStopping, mesh.ReasonDraining},
		{"one gateway is dead, the other knows nothing", errors.Join(io.EOF, remote(t, 112)), mesh.ReasonUnreachable},
	}
	for _, tt := range tests {
		if got := reasonOf(tt.err); got != tt.want {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got, tt.want, tt.err)
		}
	}
}

func TestAddressesThatFailedAreTriedLast(t *testing.T) {
	now := time.Now()
	a, b, c := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2"), netip.MustParseAddrPort("127.0.0.1:3")
	d := NewDialer(DialerConfig{Now: func() time.Time { return now }})
	defer d.stop()
	d.avoid[a] = now.Add(avoidFor)
	d.avoid[c] = now.Add(-time.Second) // long ago
	got := d.order(&Want{Target: Target{Addr: a}, Alternates: []netip.AddrPort{b, c}})
	if want := []netip.AddrPort{b, c, a}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

package dns_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var catalog = netip.MustParseAddr("127.11.4.10")

func resolve(host string) (netip.Addr, dns.Answer) {
	switch host {
	case "catalog.shop.svc.clusterset.local":
		return catalog, dns.Found
	case "headless.shop.svc.clusterset.local":
		return netip.Addr{}, dns.NoAddress
	case "nobody.shop.svc.clusterset.local":
		return netip.Addr{}, dns.Absent
	case "early.shop.svc.clusterset.local":
		return netip.Addr{}, dns.Unknown
	}
	return netip.Addr{}, dns.Foreign
}

func question(t testing.TB, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the answer %x does not parse: %v", b, err)
	}
	return m
}

func TestAnswersSayWhatIsKnown(t *testing.T) {
	for _, c := range []struct {
		name  string
		typ   dnsmessage.Type
		code  dnsmessage.RCode
		found bool
	}{
		{"catalog.shop.svc.clusterset.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, true},
		{"catalog.shop.svc.clusterset.local.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, false},
		{"catalog.shop.svc.clusterset.local.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, false},
		{"headless.shop.svc.clusterset.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, false},
		{"nobody.shop.svc.clusterset.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, false},
		{"nobody.shop.svc.clusterset.local.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, false},
		{"early.shop.svc.clusterset.local.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, false},
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeRefused, false},
	} {
		m := read(t, dns.New(dns.Config{Resolve: resolve}).Answer(nil, question(t, c.name, c.typ)))
		if m.RCode != c.code || m.ID != 77 || !m.Response || len(m.Questions) != 1 {
			t.Errorf("%s %v: %+v, want %v", c.name, c.typ, m.Header, c.code)
		}
		if c.found != (len(m.Answers) == 1) {
			t.Errorf("%s %v: %d answers, want found %v", c.name, c.typ, len(m.Answers), c.found)
		}
		if c.found {
			a, ok := m.Answers[0].Body.(*dnsmessage.AResource)
			if !ok || a.A != catalog.As4() || m.Answers[0].Header.TTL != 5 {
				t.Errorf("%s: %+v, want %v for 5 s", c.name, m.Answers[0], catalog)
			}
		}
	}
}

func TestWhatIsNoQuestionIsNotAnswered(t *testing.T) {
	s := dns.New(dns.Config{Resolve: resolve})
	answer := question(t, "example.com.", dnsmessage.TypeA)
	answer[2] |= 0x80 // QR
	for _, b := range [][]byte{nil, {1}, make([]byte, 11), answer} {
		if got := s.Answer(nil, b); got != nil {
			t.Errorf("%x was answered with %x", b, got)
		}
	}
}

func TestBothTransports(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s, ended := dns.New(dns.Config{Resolve: resolve}), make(chan error, 2)
	go func() { ended <- s.ServeUDP(ctx, udp) }()
	go func() { ended <- s.ServeTCP(ctx, tcp) }()
	for network, addr := range map[string]string{"udp": udp.LocalAddr().String(), "tcp": tcp.Addr().String()} {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		got, err := r.LookupNetIP(ctx, "ip4", "catalog.shop.svc.clusterset.local.")
		if err != nil || len(got) != 1 || got[0].Unmap() != catalog {
			t.Errorf("over %s: %v, %v; want %v", network, got, err, catalog)
		}
		_, err = r.LookupNetIP(ctx, "ip4", "nobody.shop.svc.clusterset.local.")
		var d *net.DNSError
		if !errors.As(err, &d) || !d.IsNotFound {
			t.Errorf("over %s: %v, want not found", network, err)
		}
		cancel()
	}
	idle, err := net.Dial("tcp", tcp.Addr().String()) // holds a connection open over the end
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	stop()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
}

// FuzzAnswer holds that any bytes get no answer or one that parses, has the question's
// ID, and is no larger than UDP carries.
func FuzzAnswer(f *testing.F) {
	f.Add(question(f, "catalog.shop.svc.clusterset.local.", dnsmessage.TypeA))
	f.Add(question(f, "example.com.", dnsmessage.TypeAAAA))
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1})
	s := dns.New(dns.Config{Resolve: resolve})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := s.Answer(nil, b)
		if got == nil {
			return
		}
		m := read(t, got)
		if !m.Response || got[0] != b[0] || got[1] != b[1] || len(got) > 512 {
			t.Fatalf("%x was answered with %x", b, got)
		}
	})
}

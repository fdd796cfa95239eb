package dns_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// hosts tells of one host, nearest first for clients of 10.1.0.0/16 and for others.
func hosts(host string, client netip.Addr) ([]netip.Addr, dns.Answer) {
	if host != "shop.example" {
		return nil, dns.Foreign
	}
	out := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("2001:db8::1")}
	if netip.MustParsePrefix("10.1.0.0/16").Contains(client) {
		slices.Reverse(out)
	}
	return out, dns.Found
}

func withSubnet(t testing.TB, name string, typ dnsmessage.Type, data []byte) []byte {
	t.Helper()
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(4096, dnsmessage.RCodeSuccess, false); err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 8, Data: data}}}}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func addresses(m dnsmessage.Message) string {
	out := ""
	for _, a := range m.Answers {
		if a.Header.TTL > 5 {
			return "kept for too long"
		}
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			out += netip.AddrFrom4(b.A).String() + " "
		case *dnsmessage.AAAAResource:
			out += netip.AddrFrom16(b.AAAA).String() + " "
		}
	}
	return out
}

func TestHostsAreAnsweredByNearness(t *testing.T) {
	s := dns.New(dns.Config{Hosts: hosts})
	near, far := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.2.0.1")
	plain := question(t, "shop.example.", dnsmessage.TypeA)
	for _, c := range []struct {
		name string
		q    []byte
		from netip.Addr
		want string
	}{
		{"by who asks", plain, near, "127.0.0.2 127.0.0.1 "}, {"from elsewhere", plain, far, "127.0.0.1 127.0.0.2 "},
		{"IPv6", question(t, "shop.example.", dnsmessage.TypeAAAA), far, "2001:db8::1 "},
		{"for whom is asked", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 24, 0, 10, 1, 2}), far, "127.0.0.2 127.0.0.1 "},
		{"for whom is asked, from there", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 16, 0, 10, 2}), near, "127.0.0.1 127.0.0.2 "},
		{"octets beyond the length", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 8, 0, 10, 1}), far, "127.0.0.1 127.0.0.2 "},
		{"bits beyond the length", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 15, 0, 10, 1}), far, "127.0.0.1 127.0.0.2 "},
		{"no family", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 7, 16, 0, 10, 1}), far, "127.0.0.1 127.0.0.2 "},
		{"cut short", withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 16}), far, "127.0.0.1 127.0.0.2 "},
	} {
		m := read(t, s.AnswerTo(nil, c.q, c.from))
		if got := addresses(m); got != c.want || !m.Authoritative {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	m := read(t, s.AnswerTo(nil, withSubnet(t, "shop.example.", dnsmessage.TypeA, []byte{0, 1, 24, 0, 10, 1, 2}), far))
	opt, ok := m.Additionals[0].Body.(*dnsmessage.OPTResource)
	if !ok || len(opt.Options) != 1 || !slices.Equal(opt.Options[0].Data, []byte{0, 1, 24, 24, 10, 1, 2}) {
		t.Errorf("%+v: want the network for which the answer is", m.Additionals)
	}
	if m := read(t, s.AnswerTo(nil, question(t, "other.example.", dnsmessage.TypeA), near)); m.RCode != dnsmessage.RCodeRefused || len(m.Answers) > 0 {
		t.Errorf("a host of nobody: %+v", m)
	}
}

// FuzzHosts holds that any bytes get no answer or one that parses and fits.
func FuzzHosts(f *testing.F) {
	f.Add(withSubnet(f, "shop.example.", dnsmessage.TypeALL, []byte{0, 1, 24, 0, 10, 1, 2}))
	f.Add(withSubnet(f, "shop.example.", dnsmessage.TypeAAAA, []byte{0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, 0}))
	s := dns.New(dns.Config{Hosts: hosts})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := s.AnswerTo(nil, b, netip.Addr{}); got != nil {
			if m := read(t, got); !m.Response || len(got) > 512 {
				t.Fatalf("%x was answered with %x", b, got)
			}
		}
	})
}

package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// answers writes the addresses that are of the type asked for.
func answers(b *dnsmessage.Builder, q *dnsmessage.Question, addrs []netip.Addr) error {
	var errs []error
	n, h := 0, dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	for _, a := range addrs {
		a = a.Unmap()
		typ := dnsmessage.TypeAAAA
		if a.Is4() {
			typ = dnsmessage.TypeA
		}
		if !a.IsValid() || q.Type != typ && q.Type != dnsmessage.TypeALL || n == addressesMax {
			continue
		}
		n++
		if a.Is4() {
			errs = append(errs, b.AResource(h, dnsmessage.AResource{A: a.As4()}))
		} else {
			errs = append(errs, b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	return errors.Join(errs...)
}

// edns is what a question said by an OPT record (RFC 6891).
type edns struct {
	// client is the network for which is asked (RFC 7871); invalid if the question did not say.
	client netip.Prefix
}

// clientSubnet is the option of RFC 7871 §6.
const clientSubnet = 8

// readEDNS reads the OPT record of a question whose one question has been read; nil if there is none that can be read.
func readEDNS(p *dnsmessage.Parser) *edns {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return nil
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return nil
		}
		if h.Type != dnsmessage.TypeOPT {
			if p.SkipAdditional() != nil {
				return nil
			}
			continue
		}
		opt, err := p.OPTResource()
		if err != nil {
			return nil
		}
		out := &edns{}
		for _, o := range opt.Options {
			if o.Code == clientSubnet {
				out.client = subnet(o.Data)
			}
		}
		return out
	}
}

// subnet reads FAMILY, SOURCE PREFIX-LENGTH, SCOPE PREFIX-LENGTH and as many octets of ADDRESS as the length has; invalid where that
// is not what it holds.
func subnet(b []byte) netip.Prefix {
	if len(b) < 4 {
		return netip.Prefix{}
	}
	bits := int(b[2])
	var whole [16]byte
	if len(b)-4 != (bits+7)/8 || len(b)-4 > len(whole) {
		return netip.Prefix{}
	}
	copy(whole[:], b[4:])
	a := netip.AddrFrom16(whole)
	switch binary.BigEndian.Uint16(b) {
	case 1:
		a = netip.AddrFrom4([4]byte(whole[:4]))
	case 2:
	default:
		return netip.Prefix{}
	}
	p, err := a.Prefix(bits)
	if err != nil || p.Addr() != a { // octets beyond the length are zero (§6)
		return netip.Prefix{}
	}
	return p
}

// append writes our own OPT record. The scope is the network that was asked for: for another the answer may differ (§7.2.1).
func (e *edns) append(b *dnsmessage.Builder) error {
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(payload, dnsmessage.RCodeSuccess, false); err != nil {
		return err
	}
	var opt dnsmessage.OPTResource
	if e.client.IsValid() {
		family, bits := uint16(2), byte(e.client.Bits())
		octets := e.client.Addr().AsSlice()
		if e.client.Addr().Is4() {
			family = 1
		}
		data := append(binary.BigEndian.AppendUint16(nil, family), bits, bits)
		opt.Options = []dnsmessage.Option{{Code: clientSubnet, Data: append(data, octets[:(int(bits)+7)/8]...)}}
	}
	return b.OPTResource(h, opt)
}

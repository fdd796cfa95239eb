package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Script is the rules for "nft -f": one transaction that replaces what is there. Redirection decides on the
// first packet of a connection; the guards refuse what was there before the rules, or passed them in
// another way.
func (r *Rules) Script() string {
	s := &script{}
	s.line(0, "add table inet %s", Table)
	s.line(0, "delete table inet %s", Table)
	s.line(0, "table inet %s {", Table)
	if r.Outbound != 0 {
		r.outbound(s)
	}
	if r.Inbound != 0 {
		r.inbound(s)
	}
	s.line(0, "}")
	return s.String()
}

// undo is the script that takes all rules away, also if there are none.
func undo() string {
	return fmt.Sprintf("add table inet %s\ndelete table inet %s\n", Table, Table)
}

type script struct{ strings.Builder }

func (s *script) line(depth int, format string, args ...any) {
	s.WriteString(strings.Repeat("\t", depth))
	fmt.Fprintf(s, format, args...)
	s.WriteByte('\n')
}

func (s *script) chain(name, hook string, rules ...string) {
	s.line(1, "chain %s {", name)
	s.line(2, "type %s; policy accept;", hook)
	for _, r := range rules {
		if r != "" {
			s.line(2, "%s", r)
		}
	}
	s.line(1, "}")
}

func (r *Rules) outbound(s *script) {
	var v4, v6 []netip.Prefix
	for _, p := range r.ExcludeOutboundCIDRs {
		if p.Addr().Is4() {
			v4 = append(v4, p.Masked())
		} else {
			v6 = append(v6, p.Masked())
		}
	}
	left := []string{
		"meta l4proto != tcp accept",
		// The workload's own addresses, loopback among them.
		`oifname "lo" accept`,
		networks("ip", v4), networks("ip6", v6), ports(r.ExcludeOutboundPorts),
	}
	s.chain("outbound", "nat hook output priority -100", slices.Concat(left, []string{
		fmt.Sprintf("meta skuid %d accept", r.UID),
		fmt.Sprintf("meta l4proto tcp redirect to :%d", r.Outbound)})...)
	// A packet of the kernel's own, such as the last of a connection that is closed, has no user, and so no
	// comparison with one holds.
	s.chain("outbound_guard", "filter hook output priority 0", slices.Concat(left, []string{
		"ct direction reply accept", redirected(r.Outbound),
		fmt.Sprintf("meta l4proto tcp meta skuid != %d reject with tcp reset", r.UID)})...)
}

func (r *Rules) inbound(s *script) {
	left := []string{
		"meta l4proto != tcp accept",
		`iifname "lo" accept`,
		ports(slices.Concat(r.Own, r.ExcludeInboundPorts)),
	}
	s.chain("inbound", "nat hook prerouting priority -100", slices.Concat(left, []string{
		"fib daddr type != local accept", // forwarded: another's
		fmt.Sprintf("meta l4proto tcp redirect to :%d", r.Inbound)})...)
	s.chain("inbound_guard", "filter hook input priority 0", slices.Concat(left, []string{
		"ct direction reply accept", redirected(r.Inbound), "meta l4proto tcp reject with tcp reset"})...)
}

// redirected is the rule for what goes to port because a chain of ours says so.
func redirected(port uint16) string {
	return fmt.Sprintf("ct status dnat tcp dport %d accept", port)
}

// networks is the rule that leaves networks alone, empty for none.
func networks(family string, ps []netip.Prefix) string {
	if len(ps) == 0 {
		return ""
	}
	slices.SortFunc(ps, func(a, b netip.Prefix) int { return a.Compare(b) })
	// A set of intervals must not overlap: what another holds is said by it.
	var texts []string
	for i, p := range ps {
		if !slices.ContainsFunc(ps[:i], func(q netip.Prefix) bool { return q.Overlaps(p) }) {
			texts = append(texts, p.String())
		}
	}
	return fmt.Sprintf("%s daddr { %s } accept", family, strings.Join(texts, ", "))
}

// ports is the rule that leaves ports alone, empty for none.
func ports(ps []uint16) string {
	if len(ps) == 0 {
		return ""
	}
	ps = slices.Compact(slices.Sorted(slices.Values(ps)))
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = fmt.Sprint(p)
	}
	return fmt.Sprintf("tcp dport { %s } accept", strings.Join(texts, ", "))
}

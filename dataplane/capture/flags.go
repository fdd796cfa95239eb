package capture

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Command is "capture", as an init container or a unit file runs it before the proxy and the workload.
type Command struct {
	Rules
	// Undo takes the rules away instead; DryRun prints what would be done.
	Undo, DryRun bool
}

// Bind adds the command's flags to f.
func (c *Command) Bind(f *flag.FlagSet) {
	f.BoolVar(&c.Undo, "undo", false, "take the rules away")
	f.BoolVar(&c.DryRun, "dry-run", false, "print the rules, for nft -f, and change nothing")
	c.bind(f)
}

// Run does what the flags say.
func (c *Command) Run(ctx context.Context, out io.Writer) error {
	script := undo()
	if !c.Undo {
		if err := c.Validate(); err != nil {
			return err
		}
		script = c.Script()
	}
	if c.DryRun {
		_, err := io.WriteString(out, script)
		return err
	}
	return apply(ctx, script)
}

// bind adds the flags that change r to f.
func (r *Rules) bind(f *flag.FlagSet) {
	f.Func("proxy-uid", "user that the proxy runs as, whose connections are never taken (default 1337)", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 32)
		r.UID = uint32(n)
		return err
	})
	port := func(name, usage string, p *uint16) {
		f.Func(name, usage, func(s string) error {
			n, err := strconv.ParseUint(s, 10, 16)
			*p = uint16(n)
			return err
		})
	}
	port("outbound-port", "port of the proxy that takes the workload's connections; 0 takes none (default 15001)", &r.Outbound)
	port("inbound-port", "port of the proxy that takes connections to the workload; 0 takes none (default 15006)", &r.Inbound)
	f.Func("own-ports", "ports of the proxy that others connect to (default 15008,15020)", list(&r.Own, parsePort))
	f.Func("exclude-outbound-ports", "destination ports that are left alone", list(&r.ExcludeOutboundPorts, parsePort))
	f.Func("exclude-outbound-cidrs", "destination networks that are left alone, as 10.0.0.0/8,fd00::/8", list(&r.ExcludeOutboundCIDRs, netip.ParsePrefix))
	f.Func("exclude-inbound-ports", "ports of the workload that are left alone", list(&r.ExcludeInboundPorts, parsePort))
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port: write a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// list parses a list whose items stand between commas; it replaces what was there.
func list[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		*to = nil
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			v, err := parse(item)
			if err != nil {
				return err
			}
			*to = append(*to, v)
		}
		return nil
	}
}

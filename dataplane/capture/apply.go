package capture

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// apply puts a script of rules in force in this network namespace, in one transaction: all of it or
// nothing. It needs CAP_NET_ADMIN and the program nft of the package nftables: an own writer of netlink
// messages would be code that nobody can read the rules from (ADR 20).
func apply(ctx context.Context, script string) error {
	c := exec.CommandContext(ctx, "nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	out, err := c.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("change the rules of nftables: the program nft is not here (install the package nftables): %w", err)
	case err != nil:
		return fmt.Errorf("change the rules of nftables (it takes root or CAP_NET_ADMIN): %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

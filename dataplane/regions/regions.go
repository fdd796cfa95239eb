// Package regions tells the region of a client by its address, and which ingress gateways are nearest to it. Its one idea is
// that an operator knows where his clients' networks are, and writes it down as a table: a prefix and a region a line.
//
// It asks no service and knows no country. Read Table first, then Nearest.
package regions

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Table finds the region of an address. It is immutable; nil knows no address.
type Table struct {
	prefixes map[netip.Prefix]mesh.Region
	// lengths of prefixes that there are, longest first, for IPv4 and IPv6.
	lengths [2][]int
}

const (
	// PrefixesMax bounds a table.
	PrefixesMax = 1 << 20
	// lineMax bounds a line of a file, in bytes.
	lineMax = 512
)

// Parse reads a table: "PREFIX,REGION" a line; empty lines and what begins with # count for nothing. What is written twice, and
// unequally, is a fault: nobody could tell which is meant.
func Parse(r io.Reader) (*Table, error) {
	t := &Table{prefixes: map[netip.Prefix]mesh.Region{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, lineMax), lineMax)
	names := map[string]mesh.Region{} // one copy of each
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		left, right, ok := strings.Cut(line, ",")
		p, err := netip.ParsePrefix(strings.TrimSpace(left))
		region := strings.TrimSpace(right)
		if !ok || err != nil || region == "" || len(region) > 63 || strings.Contains(region, ",") {
			return nil, fmt.Errorf("line %d: %q: want PREFIX,REGION such as 192.0.2.0/24,eu-west-1", n, line)
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("line %d: %s: write the prefix of IPv4", n, p)
		}
		p = p.Masked()
		if names[region] == "" {
			names[region] = mesh.Region(region)
		}
		if other, twice := t.prefixes[p]; twice && other != names[region] {
			return nil, fmt.Errorf("line %d: %s is in %s and in %s", n, p, other, region)
		}
		if t.prefixes[p] = names[region]; len(t.prefixes) > PrefixesMax {
			return nil, fmt.Errorf("line %d: more than %d prefixes", n, PrefixesMax)
		}
		f := family(p.Addr())
		if !slices.Contains(t.lengths[f], p.Bits()) {
			t.lengths[f] = append(t.lengths[f], p.Bits())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	for f := range t.lengths {
		slices.SortFunc(t.lengths[f], func(a, b int) int { return cmp.Compare(b, a) })
	}
	return t, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Of is the region of the longest prefix that has the address; "" is none.
func (t *Table) Of(a netip.Addr) mesh.Region {
	if t == nil || !a.IsValid() {
		return ""
	}
	a = a.Unmap().WithZone("")
	for _, bits := range t.lengths[family(a)] {
		p, _ := a.Prefix(bits) // of a length that the family has
		if r, ok := t.prefixes[p]; ok {
			return r
		}
	}
	return ""
}

// Nearest lists the addresses of the ingress gateways at which a client may come in, the nearest first: those of clusters in its
// region, then own, whose name is own and which answers, then others by the time to there. Clusters that cannot be reached are left
// out; with withdrawn the own cluster is too, unless nothing else is left.
func Nearest(clusters map[mesh.ClusterName]*ir.Cluster, own mesh.ClusterName, region mesh.Region, withdrawn bool) []netip.Addr {
	var all []*ir.Cluster
	for _, c := range clusters {
		if len(c.Ingresses) > 0 && (c.Name == own && !withdrawn || c.Name != own && c.Reach.Usable()) {
			all = append(all, c)
		}
	}
	if c := clusters[own]; len(all) == 0 && c != nil {
		all = append(all, c)
	}
	rank := func(c *ir.Cluster) int {
		switch {
		case region != "" && c.Region == region:
			return 0
		case c.Name == own:
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b *ir.Cluster) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.RTT, b.RTT), cmp.Compare(a.Name, b.Name))
	})
	var out []netip.Addr
	for _, c := range all {
		out = append(out, c.Ingresses...)
	}
	return out
}

// Serving are the clusters of which none of the listeners is unserved, as they say themselves.
func Serving(clusters map[mesh.ClusterName]*ir.Cluster, listeners []string) map[mesh.ClusterName]*ir.Cluster {
	lacks := func(c *ir.Cluster) bool {
		return c != nil && slices.ContainsFunc(c.Unserved, func(l string) bool { return slices.Contains(listeners, l) })
	}
	out := clusters
	for n, c := range clusters {
		if lacks(c) {
			if len(out) == len(clusters) {
				out = maps.Clone(clusters)
			}
			delete(out, n)
		}
	}
	return out
}

// reloadEvery is how often a file is looked at.
const reloadEvery = 5 * time.Second

// File is a table in a file, read again when it changes.
type File struct {
	Path string
	Log  *slog.Logger

	table atomic.Pointer[Table]
	seen  os.FileInfo
}

// Table is the one in force.
func (f *File) Table() *Table { return f.table.Load() }

// Load reads the file.
func (f *File) Load() error {
	r, err := os.Open(f.Path)
	if err != nil {
		return fmt.Errorf("read the regions of clients: %w", err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return fmt.Errorf("read the regions of clients: %w", err)
	}
	f.seen = info
	t, err := Parse(r)
	if err != nil {
		return fmt.Errorf("read the regions of clients: %s: %w", f.Path, err)
	}
	f.table.Store(t)
	return nil
}

// Run reads the file again when it has changed, until ctx ends. One that cannot be read leaves the table in force.
func (f *File) Run(ctx context.Context) error {
	if f.Path == "" {
		return nil
	}
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		info, err := os.Stat(f.Path)
		if errors.Is(err, os.ErrNotExist) || err == nil && f.seen != nil && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
			continue
		}
		if err := f.Load(); err != nil {
			f.Log.Warn("the regions of clients stay as they were", "error", err)
			continue
		}
		f.Log.Info("the regions of clients were read again", "prefixes", len(f.Table().prefixes))
	}
}

package localmesh

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// crossings lists the TCP connections of this machine, as /proc/net/tcp tells them, that join
// two clusters of a mesh directly. There must be none: what crosses enters a link at an
// address of the caller's own cluster and leaves it at one of the callee's.
func crossings(table string, l Layout, clusters int) ([]string, error) {
	var out []string
	inMesh := func(a netip.AddrPort) bool {
		b := a.Addr().As4()
		return b[0] == 127 && int(b[1]) > int(l) && int(b[1]) <= int(l)+clusters
	}
	for i, line := range strings.Split(strings.TrimSpace(table), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 3 {
			continue
		}
		local, err := procAddr(f[1])
		if err != nil {
			return nil, err
		}
		remote, err := procAddr(f[2])
		if err != nil {
			return nil, err
		}
		if inMesh(local) && inMesh(remote) && local.Addr().As4()[1] != remote.Addr().As4()[1] {
			out = append(out, local.String()+" with "+remote.String())
		}
	}
	return out, nil
}

// procAddr reads "0200007F:1F90": the address as the machine's 32-bit number, the port.
func procAddr(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	a, err := hex.DecodeString(host)
	if err != nil || len(a) != 4 {
		return netip.AddrPort{}, fmt.Errorf("socket table: address %q", text)
	}
	p, err := hex.DecodeString(port)
	if err != nil || len(p) != 2 {
		return netip.AddrPort{}, fmt.Errorf("socket table: port %q", text)
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], binary.BigEndian.Uint32(a))
	return netip.AddrPortFrom(netip.AddrFrom4(b), binary.BigEndian.Uint16(p)), nil
}

func TestAConnectionBetweenTwoClustersIsFoundInTheSocketTable(t *testing.T) {
	base := Layout(testBase(t))
	ln, err := net.Listen("tcp", netip.AddrPortFrom(base.Addr(1, 9, 9), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, c := range []struct {
		from    netip.Addr
		crosses bool
	}{{base.Addr(1, 8, 1), false}, {netip.MustParseAddr("127.0.0.1"), false}, {base.Addr(3, 8, 1), false}, {base.Addr(2, 8, 1), true}} {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 0))}
		conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Skipf("no socket table here: %v", err)
		}
		found, err := crossings(string(table), base, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(found, "\n"), conn.LocalAddr().String()+" with "+ln.Addr().String()); got != c.crosses {
			t.Errorf("from %s: found %v, want %v: %v", c.from, got, c.crosses, found)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

package e2e

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// capture keeps the TCP payload of every packet of a mesh of two clusters, by the port of its
// server: that end of the connection which is not ephemeral.
type capture struct {
	fd   int
	done sync.WaitGroup

	mu    sync.Mutex
	flows map[[2]netip.AddrPort]*bytes.Buffer // by source and destination
	err   error
}

func newCapture(t *testing.T, m *meshUnder) *capture {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatalf("capture packets of the loopback interface: %v", err)
		}
	}
	lo, err := net.InterfaceByName("lo")
	must(err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	c := &capture{fd: fd, flows: map[[2]netip.AddrPort]*bytes.Buffer{}}
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	// Only TCP of the mesh's two networks: others of this machine must not fill the buffer.
	// The packet begins with the header of IPv4: protocol at 9, source at 12, destination at 16.
	one, two := 127<<8|uint32(m.base+1), 127<<8|uint32(m.base+2)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 7},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: one, Jt: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: two, Jt: 3},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: one, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: two, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	must(unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
	must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8, Ifindex: lo.Index}))
	stop := make(chan struct{})
	c.done.Go(func() { c.run(stop) })
	t.Cleanup(func() {
		close(stop)
		c.done.Wait()
		_ = unix.Close(fd)
	})
	return c
}

func (c *capture) run(stop <-chan struct{}) {
	buf := make([]byte, 1<<18)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		// The loopback interface shows each packet twice, on its way out and in.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			c.packet(buf[:n])
		}
		c.mu.Unlock()
	}
}

// packet appends the payload of a packet, IPv4 and TCP, to its flow.
func (c *capture) packet(p []byte) {
	ip := int(p[0]&15) * 4
	if len(p) < ip+20 {
		return
	}
	tcp := p[ip:]
	payload := tcp[int(tcp[12]>>4)*4:]
	if len(payload) == 0 {
		return
	}
	src, _ := netip.AddrFromSlice(p[12:16])
	dst, _ := netip.AddrFromSlice(p[16:20])
	k := [2]netip.AddrPort{netip.AddrPortFrom(src, port(tcp)), netip.AddrPortFrom(dst, port(tcp[2:]))}
	if c.flows[k] == nil {
		c.flows[k] = &bytes.Buffer{}
	}
	c.flows[k].Write(payload)
}

// lost is how many packets the kernel had no room for.
func (c *capture) lost() (uint32, error) {
	s, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, err
	}
	return s.Drops, nil
}

// port reads one in network order.
func port(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

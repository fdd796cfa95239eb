package link

import (
	"encoding/binary"
	"syscall"
)

// bindAddressNoPort is IP_BIND_ADDRESS_NO_PORT of ip(7), which package syscall does not name.
const bindAddressNoPort = 24

// bindWithoutPort makes binding the source address leave the port to connect, which may then share it between targets
// and take one in TIME_WAIT. Without it a source is out of ports after 28,000 connections a minute. Where the kernel
// does not know the option, binding works as before.
func bindWithoutPort(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1) // of IPv6 sockets as well
	})
}

// States of tcp(7)'s TCP_INFO, from include/net/tcp_states.h.
const (
	tcpClose     = 7
	tcpCloseWait = 8
)

// closed implements stream: a socket's state is the first byte of its TCP_INFO.
func (s *tcpStream) closed() (fin, rst bool) {
	err := s.raw.Control(func(fd uintptr) {
		info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil {
			return
		}
		state := firstByte(uint32(info))
		fin, rst = state == tcpCloseWait, state == tcpClose
	})
	return fin, rst || err != nil
}

// firstByte returns the byte of v at the lowest address.
func firstByte(v uint32) byte {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return b[0]
}

package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"
)

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h and IP6T_SO_ORIGINAL_DST of
// linux/netfilter_ipv6/ip6_tables.h, which package syscall lacks.
const soOriginalDst = 80

// Original is the destination that a redirected connection was made for, or ErrNoOriginal.
func Original(c net.Conn) (netip.AddrPort, error) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, ErrNoOriginal
	}
	local := t.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	raw, err := t.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	}
	var to netip.AddrPort
	var asked error
	err = raw.Control(func(fd uintptr) { to, asked = original(fd, local.Addr().Is4()) })
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	case asked == syscall.ENOENT, asked == nil && to == local: // not tracked, or tracked and not changed
		return netip.AddrPort{}, ErrNoOriginal
	case asked != nil:
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", asked)
	}
	return to, nil
}

func original(fd uintptr, is4 bool) (netip.AddrPort, error) {
	level := uintptr(syscall.SOL_IPV6)
	if is4 {
		level = syscall.SOL_IP
	}
	var b [syscall.SizeofSockaddrInet6]byte // sockaddr_in or sockaddr_in6, family first
	n := uint32(len(b))
	if _, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, level, soOriginalDst, uintptr(unsafe.Pointer(&b)), uintptr(unsafe.Pointer(&n)), 0); e != 0 {
		return netip.AddrPort{}, e
	}
	port := binary.BigEndian.Uint16(b[2:4])
	if is4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port), nil
}

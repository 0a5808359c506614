//go:build amd64 || arm64 || riscv64

package relay

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"
)

// Calls on sockets that do not block. The runtime is not told of them: it would
// take a call of more than 20 µs, such as a connect or a write on one machine, for
// one that waits, and start another thread for what it thinks is held up.

func sysRead(fd int, b []byte) (int, syscall.Errno) {
	if len(b) == 0 {
		return 0, syscall.EINVAL
	}
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return numbered(n, e)
}

func sysWrite(fd int, b []byte) (int, syscall.Errno) {
	if len(b) == 0 {
		return 0, syscall.EINVAL
	}
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return numbered(n, e)
}

func sysClose(fd int) error {
	_, _, e := syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno(e)
}

func sysShutdown(fd int) error {
	_, _, e := syscall.RawSyscall(syscall.SYS_SHUTDOWN, uintptr(fd), syscall.SHUT_WR, 0)
	return errno(e)
}

func sysSet(fd, level, option, value int) error {
	v := int32(value)
	_, _, e := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return errno(e)
}

func sysConnect4(fd int, to *syscall.RawSockaddrInet4) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	return e
}

func sysConnect6(fd int, to *syscall.RawSockaddrInet6) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	return e
}

// sysConnected reports whether a socket has a peer.
func sysConnected(fd int) bool {
	var from syscall.RawSockaddrAny
	size := uint32(unsafe.Sizeof(from))
	_, _, e := syscall.RawSyscall(syscall.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
	return e == 0
}

// sysAccept accepts a connection, whose socket does not block either.
func sysAccept(fd int, from *syscall.RawSockaddrAny) (int, syscall.Errno) {
	size := uint32(unsafe.Sizeof(*from))
	n, _, e := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
	return numbered(n, e)
}

func sysSocket(family int) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(family), syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	return numbered(n, e)
}

// networkOrder is a port as socket addresses have it.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func addrPort(a *syscall.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case syscall.AF_INET:
		a := (*syscall.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), networkOrder(a.Port))
	case syscall.AF_INET6:
		a := (*syscall.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), networkOrder(a.Port))
	}
	return netip.AddrPort{}
}

func numbered(n uintptr, e syscall.Errno) (int, syscall.Errno) {
	if e != 0 {
		return -1, e
	}
	return int(n), 0
}

// errno is nil for none, which an Errno in an error is not.
func errno(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

//go:build unix

package wsbouncer

import (
	"net"
	"syscall"
)

// writeNow writes what the socket has room for and never waits. 0 where that
// is nothing, or the connection is no plain socket.
func writeNow(conn net.Conn, p []byte) int {
	s, ok := conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	err = raw.Write(func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), p) //nolint:gosec // a descriptor is an int
		return true
	})
	if err != nil {
		return 0
	}
	return max(0, n)
}

//go:build unix && !(linux && (amd64 || arm64 || riscv64))

package relay

import (
	"errors"
	"syscall"
)

func sysRead(fd int, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(fd, b)
	return n, number(err)
}

func sysWrite(fd int, b []byte) (int, syscall.Errno) {
	n, err := syscall.Write(fd, b)
	return n, number(err)
}

func number(err error) (e syscall.Errno) {
	if err != nil && !errors.As(err, &e) {
		e = syscall.EIO
	}
	return e
}

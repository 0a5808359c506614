//go:build unix

package app

import (
	"errors"
	"os"
	"syscall"
)

// descriptorLimit is how many file descriptors the process may have, 0 where
// nobody tells.
func descriptorLimit() uint64 {
	var most syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most) != nil {
		return 0
	}
	return uint64(most.Cur) //nolint:unconvert // signed on some systems
}

// tryLock locks f for this process alone, or says errDataInUse.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errDataInUse
	}
	return err
}

//go:build unix

package adminapi

import "syscall"

// descriptorLimit is how many file descriptors the process may have, 0 where
// nobody tells.
func descriptorLimit() uint64 {
	var most syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &most) != nil {
		return 0
	}
	return uint64(most.Cur) //nolint:unconvert // signed on some systems
}

//go:build !unix

package app

import (
	"errors"
	"os"
)

// descriptorLimit: this system has no such limit.
func descriptorLimit() uint64 { return 0 }

// tryLock: two servers on one data folder would destroy it, so where it cannot
// be locked there is none.
func tryLock(*os.File) error { return errors.ErrUnsupported }

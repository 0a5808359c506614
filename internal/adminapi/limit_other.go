//go:build !unix

package adminapi

// descriptorLimit: this system has no such limit.
func descriptorLimit() uint64 { return 0 }

//go:build !unix

package wsbouncer

import "net"

// writeNow is for systems where a socket can be asked without waiting.
func writeNow(net.Conn, []byte) int { return 0 }

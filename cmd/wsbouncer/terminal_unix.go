//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// ignoreTerminal: in the background (&) a terminal ends the input; it must not
// stop the connection.
func ignoreTerminal() { signal.Ignore(syscall.SIGTTIN) }

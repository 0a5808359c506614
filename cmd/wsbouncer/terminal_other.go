//go:build !unix

package main

// ignoreTerminal: this system stops no program for reading its terminal.
func ignoreTerminal() {}

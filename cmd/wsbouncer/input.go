package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxSecretBytes bounds a secret read from a prompt, standard input or a file.
const maxSecretBytes = 64 << 10

// secret reads a secret from standard input when asked to, else from a prompt
// that does not show it. It never comes from an argument: those are seen by
// every user of the machine.
func (s *streams) secret(prompt string, fromStdin bool) (string, error) {
	if fromStdin {
		return firstLine(s.in)
	}
	f, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usageError("there is no terminal to ask for the " + prompt + ": give it on standard input with --" + prompt + "-stdin")
	}
	fmt.Fprintf(s.err, "%s: ", prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(s.err)
	if err != nil {
		return "", fmt.Errorf("reading the %s: %w", prompt, err)
	}
	return string(b), nil
}

func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxSecretBytes)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("standard input is empty")
	}
	return line, nil
}

// argument is a value that may be given as - for standard input.
func (s *streams) argument(v string) (string, error) {
	if v == "-" {
		return firstLine(s.in)
	}
	return v, nil
}

//go:build linux

// Command bench measures the real binary from outside, beside HAProxy and
// nginx in the same run: it starts each as a child process on a core of its
// own, plays clients and an echo upstream on another core, and prints what each
// thing cost the measured process.
//
//	make bench                                              all of it
//	go run ./bench -quick -only handshake -peers haproxy    while tuning
//
// CPU is the process's own CPU clock (user and system, all threads), memory its
// Pss: what the kernel holds for sockets is in neither. Rounds are alternated
// between the servers and the medians shown. Figures depend on the machine: look
// at the ratios. A peer that is not installed is left out.
//
// It fails when something could not be measured or a server lets a bad token
// in, never because a figure is large.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type bench struct {
	cores       cores
	binary      string
	dir         string
	keep        bool
	peers       map[string]string // name: path
	descriptors uint64
	rounds      int
	idle        int
	each        int // handshakes a round
	messages    int // small ones a round
	quick       bool
	l           *loop
	up          *upstream // behind everything that is measured
	beside      *upstream // the same, for connections that must not wait for the others' load
	keys        *issuers
	report      report
}

// rows are what can be measured, in the order it is done. Those that share
// their servers come first; the others start their own, each in its turn.
var rows = []struct {
	name   string
	shared func(*bench, context.Context, []*target) error
	alone  func(*bench, context.Context) error
}{
	{name: "handshake", shared: (*bench).handshakeRow},
	{name: "messages", shared: (*bench).messagesRow},
	{name: "bytes", shared: (*bench).bytesRow},
	{name: "roundtrip", shared: (*bench).roundTripRow},
	{name: "idle", alone: (*bench).idleRow},
	{name: "storm", alone: (*bench).stormRow},
	{name: "revoke", alone: (*bench).revokeRow},
	{name: "expiry", alone: (*bench).expiryRow},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	b := &bench{peers: map[string]string{}}
	only := flag.String("only", strings.Join(names, ","), "what to measure, separated by commas")
	peers := flag.String("peers", "haproxy,nginx", "what to compare with, separated by commas; empty: nothing")
	asJSON := flag.String("json", "", "a file to write all rounds' values to")
	shown := flag.String("show", "", "measure nothing, and print the table of a file that -json wrote")
	flag.StringVar(&b.binary, "binary", "bin/wsbouncer", "the gateway to measure")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of the figures that are compared")
	flag.IntVar(&b.idle, "idle", 9000, "connections of the rows that need many (two descriptors each)")
	flag.IntVar(&b.each, "handshakes", 1500, "handshakes a round")
	flag.IntVar(&b.messages, "messages", 60000, "small messages a round")
	flag.BoolVar(&b.quick, "quick", false, "fewer rounds and connections: for a first look")
	flag.BoolVar(&b.keep, "keep", false, "keep the servers' configurations and say where they are")
	flag.Parse()
	if *shown != "" {
		return show(*shown, os.Stdout)
	}
	want := strings.Split(*only, ",")
	for _, w := range want {
		if !slices.Contains(names, w) {
			return fmt.Errorf("-only knows %s, not %q", strings.Join(names, ", "), w)
		}
	}
	if b.quick {
		b.rounds, b.idle, b.each, b.messages = min(b.rounds, 3), min(b.idle, 2000), min(b.each, 500), min(b.messages, 20_000)
	}
	if b.cores, err = pin(); err != nil {
		return err
	}
	if b.descriptors, err = raiseDescriptors(); err != nil {
		return err
	}
	if b.idle = max(b.idle, 9); uint64(2*b.idle+1000) > b.descriptors {
		return fmt.Errorf("%d connections need more than the %d descriptors that a process may have (ulimit -Hn)", b.idle, b.descriptors)
	}
	if b.dir, err = os.MkdirTemp("", "wsbouncer-bench-"); err != nil {
		return err
	}
	if b.keep {
		fmt.Fprintln(os.Stderr, "configurations and keys are in", b.dir)
	} else {
		defer os.RemoveAll(b.dir)
	}
	if err := os.Chmod(b.dir, 0o711); err != nil { //nolint:gosec // nginx's worker is another user
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if b.l, err = newLoop(); err != nil {
		return err
	}
	for _, u := range []**upstream{&b.up, &b.beside} {
		if *u, err = newUpstream(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, (*u).close()) }()
	}
	if b.keys, err = newIssuers(b.dir); err != nil {
		return err
	}
	b.report.begin(b, *peers)
	missed := b.all(ctx, want)
	b.report.end()
	if *asJSON != "" {
		missed = errors.Join(missed, b.report.json(*asJSON))
	}
	return errors.Join(missed, b.report.table(os.Stdout))
}

// all measures what is wanted. What fails is left out of the report, said, and
// returned at the end.
func (b *bench) all(ctx context.Context, want []string) (missed error) {
	var targets []*target
	end := func() {
		for _, t := range targets {
			missed = errors.Join(missed, t.end())
		}
		targets = nil
	}
	defer end()
	fail := func(name string, err error) {
		err = fmt.Errorf("%s: %w", name, err)
		missed = errors.Join(missed, err)
		b.report.note("NOT MEASURED: %v", err)
		fmt.Fprintln(os.Stderr, "NOT MEASURED:", err)
	}
	for _, r := range rows {
		if !slices.Contains(want, r.name) || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		var err error
		if r.shared == nil {
			end()
			err = r.alone(b, ctx)
		} else {
			if targets == nil {
				for _, s := range b.servers() {
					t, err := s.start(ctx)
					if err != nil {
						fail(s.name, err)
						continue
					}
					targets = append(targets, t)
				}
			}
			if len(targets) == 0 {
				continue
			}
			if err = r.shared(b, ctx, targets); err != nil {
				end() // whatever is left of it goes with the servers
			}
		}
		if err != nil {
			fail(r.name, err)
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: measured in %.0f s\n", r.name, time.Since(began).Seconds())
	}
	return errors.Join(missed, ctx.Err())
}

//go:build linux

// Command bench measures the real binary from outside, beside HAProxy and
// nginx in the same run: it starts each as a child process on a core of its
// own, plays clients and an echo upstream on another core, and prints what each
// thing cost the measured process.
//
//	make bench                                              all of it
//	go run ./bench -quick -only handshake -peers haproxy    while tuning
//
// CPU is the process's own CPU clock (user and system), memory its Pss: what
// the kernel holds for sockets is in neither. Rounds are alternated between the
// servers and the medians shown. Figures depend on the machine: look at the
// ratios. A peer that is not installed is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

type bench struct {
	cores       cores
	binary      string
	dir         string
	peers       map[string]string // name: path
	descriptors uint64
	rounds      int
	idle        int
	quick       bool
	l           *loop
	up          *upstream
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
	asJSON := flag.Bool("json", false, "print JSON")
	flag.StringVar(&b.binary, "binary", "bin/wsbouncer", "the gateway to measure")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of the figures that are compared")
	flag.IntVar(&b.idle, "idle", 9000, "idle connections (two descriptors each)")
	flag.BoolVar(&b.quick, "quick", false, "fewer rounds and connections: for a first look")
	flag.Parse()
	want := strings.Split(*only, ",")
	for _, w := range want {
		if !slices.Contains(names, w) {
			return fmt.Errorf("-only knows %s, not %q", strings.Join(names, ", "), w)
		}
	}
	if b.quick {
		b.rounds, b.idle = min(b.rounds, 3), min(b.idle, 2000)
	}
	if b.cores, err = pin(); err != nil {
		return err
	}
	if b.descriptors, err = raiseDescriptors(); err != nil {
		return err
	}
	b.report.machine(b, *peers)
	if b.dir, err = os.MkdirTemp("", "wsbouncer-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o711); err != nil { //nolint:gosec // nginx's worker is another user
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if b.l, err = newLoop(); err != nil {
		return err
	}
	if b.up, err = newUpstream(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.up.close()) }()
	if b.keys, err = newIssuers(b.dir); err != nil {
		return err
	}
	if err := b.all(ctx, want); err != nil {
		return err
	}
	if *asJSON {
		return b.report.json(os.Stdout)
	}
	return b.report.table(os.Stdout)
}

func (b *bench) all(ctx context.Context, want []string) (err error) {
	targets, err := b.start(ctx)
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.end())
		}
	}()
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := b.verify(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for _, r := range rows {
		if !slices.Contains(want, r.name) {
			continue
		}
		began := time.Now()
		if r.shared != nil {
			err = r.shared(b, ctx, targets)
		} else {
			for _, t := range targets {
				err = errors.Join(err, t.end())
			}
			targets = nil
			if err == nil {
				err = r.alone(b, ctx)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: measured in %.0f s\n", r.name, time.Since(began).Seconds())
	}
	return nil
}

// start starts one of each.
func (b *bench) start(ctx context.Context) (targets []*target, err error) {
	gw, err := b.startGateway(ctx, variant{})
	if err != nil {
		return nil, err
	}
	targets = append(targets, gw)
	for _, peer := range []struct {
		name  string
		start func(context.Context) (*target, error)
	}{{"haproxy", b.startHAProxy}, {"nginx", b.startNginx}} {
		if b.peers[peer.name] == "" {
			continue
		}
		t, err := peer.start(ctx)
		if err != nil {
			return targets, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// machine says what is measured with what, and finds the peers.
func (r *report) machine(b *bench, peers string) {
	r.note("machine: %s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if b.cores.pinned {
		r.note("measured servers on core %d (the gateway therefore with GOMAXPROCS 1, the others with one worker), clients and upstream on core %d", b.cores.target, b.cores.load)
	} else {
		r.note("one core only: nothing is pinned, and clients and upstream take the measured servers' time")
	}
	for _, name := range strings.FieldsFunc(peers, func(c rune) bool { return c == ',' }) {
		path, err := exec.LookPath(name)
		if err != nil {
			path, err = exec.LookPath("/usr/sbin/" + name)
		}
		if err != nil {
			r.note("%s is not installed and left out", name)
			continue
		}
		b.peers[name] = path
		out, _ := exec.Command(path, "-v").CombinedOutput()
		first, _, _ := strings.Cut(string(out), "\n")
		r.note("%s: %s", name, strings.TrimSpace(first))
	}
	r.note("logs as in production: the gateway's lines on stderr, HAProxy's httplog to a socket, both read and thrown away; nginx's access log to a file. Limits are raised so that the load is not refused")
}

// verify makes sure that the comparison is one: each server takes a good token
// and echoes, and refuses one with another signature.
func (b *bench) verify(ctx context.Context, t *target) error {
	for _, alg := range algorithms {
		addr, ok := t.at(alg)
		if !ok {
			continue
		}
		good, err := b.keys.token(alg, "user", time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		b.up.known.Store("Bearer "+good, true)
		said := []byte("said and said again")
		var heard []byte
		_, err = b.one(ctx, addr, request(addr, t.path, good), func(c *client) { c.send(frame.Append(nil, frame.Text, said, true)) },
			func(c *client, p []byte) {
				heard = append(heard, p...)
				if len(heard) >= 2+len(said) {
					c.data = nil
					c.leave()
				}
			})
		if err != nil {
			return fmt.Errorf("%s, a good token: %w", alg, err)
		}
		if string(heard) != string(frame.Append(nil, frame.Text, said, false)) {
			return fmt.Errorf("%s: the echo is % x", alg, heard)
		}
		for what, token := range map[string]string{"another signature": spoilt(good), "no token": ""} {
			opened, err := b.one(ctx, addr, request(addr, t.path, token), (*client).leave, nil)
			if opened || !errors.Is(err, errRefused) {
				return fmt.Errorf("%s, %s: not refused (%w)", alg, what, err)
			}
		}
	}
	return nil
}

// one opens one connection and waits for its end.
func (b *bench) one(ctx context.Context, addr string, head []byte, opened func(*client), data func(*client, []byte)) (wasOpen bool, err error) {
	ended := false
	c := &client{data: data, opened: func(c *client) { wasOpen = true; opened(c) }, closed: func(_ *client, e error) { ended, err = true, e }}
	if err := c.dial(b.l, addr, head); err != nil {
		return false, err
	}
	if late := b.l.run(ctx, time.Now().Add(5*time.Second), func() bool { return ended }); late != nil {
		return wasOpen, late
	}
	return wasOpen, err
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const (
	inFlight   = 16  // handshakes at once
	seenBefore = 100 // tokens that come again
)

// handshakeGoals are what is to be reached, as shares of HAProxy's cost, which
// checks every signature anew.
var handshakeGoals = map[string]float64{
	"RS256, seen before": 0.85, "ES256, seen before": 0.70,
	"HS256, new": 1.2, "RS256, new": 1.2, "ES256, new": 1.2,
}

// handshakeRow: what a short connection costs from its first byte to its last:
// TCP twice, the handshake, one message and its echo, a closing handshake and
// four closes.
func (b *bench) handshakeRow(ctx context.Context, targets []*target) error {
	for _, alg := range algorithms {
		for round := range b.rounds {
			again, err := b.fresh(alg, seenBefore)
			if err != nil {
				return err
			}
			fresh, err := b.fresh(alg, b.each)
			if err != nil {
				return err
			}
			for _, kind := range []struct {
				name   string
				tokens []string
			}{{"seen before", again}, {"new", fresh}} {
				f := b.report.figure("1,000 handshakes, "+alg+", tokens "+kind.name, "CPU s")
				f.OfPeer = handshakeGoals[alg+", "+kind.name]
				for _, t := range alternate(targets, round) {
					addr, ok := t.checked[alg]
					if !ok {
						continue
					}
					heads := make([][]byte, len(kind.tokens))
					for i, token := range kind.tokens {
						heads[i] = request(addr, echoPath, token)
					}
					if kind.name == "seen before" { // now they are
						if err := b.handshakes(ctx, addr, heads, len(heads)); err != nil {
							return fmt.Errorf("%s: %w", t.name, err)
						}
					}
					cpu, err := b.cost(ctx, t, func() error { return b.handshakes(ctx, addr, heads, b.each) })
					if err != nil {
						return fmt.Errorf("%s: %w", t.name, err)
					}
					f.add(t.name, cpu.Seconds()*1000/float64(b.each))
				}
			}
			b.up.known.Clear()
		}
	}
	return nil
}

// fresh are tokens that nobody has seen.
func (b *bench) fresh(alg string, n int) ([]string, error) {
	tokens := make([]string, n)
	for i := range tokens {
		var err error
		if tokens[i], err = b.token(alg, everybody(i), time.Now().Add(time.Hour)); err != nil {
			return nil, err
		}
	}
	return tokens, nil
}

// alternate begins each round with another one.
func alternate(targets []*target, round int) []*target {
	i := round % len(targets)
	return slices.Concat(targets[i:], targets[:i])
}

// cost is the CPU time that the target spends on it.
func (b *bench) cost(ctx context.Context, t *target, do func() error) (time.Duration, error) {
	before := t.cpu()
	if err := do(); err != nil {
		return 0, err
	}
	// What follows belongs to it: goroutines that end, logs that are written.
	if err := b.l.run(ctx, time.Now().Add(20*time.Millisecond), nil); err != nil {
		return 0, err
	}
	return t.cpu() - before, nil
}

// handshakes opens n connections, says one thing on each, and closes them.
func (b *bench) handshakes(ctx context.Context, addr string, heads [][]byte, n int) error {
	begun, ended := 0, 0
	var failed error
	var next func()
	next = func() {
		if begun == n || failed != nil {
			return
		}
		goodbyes := 0
		c := &client{
			opened: func(c *client) { c.send(paced) },
			data: func(c *client, p []byte) {
				if c.came < len(paced)-4 {
					if c.came += len(p); c.came == len(paced)-4 {
						c.leave()
					}
					return
				}
				if p[0] == 0x80|byte(frame.Close) {
					goodbyes++
				}
			},
			closed: func(_ *client, err error) {
				ended++
				if err == nil && goodbyes != 1 {
					err = fmt.Errorf("%d close frames", goodbyes)
				}
				if err != nil && failed == nil {
					failed = err
				}
				next()
			},
		}
		head := heads[begun%len(heads)]
		begun++
		if err := c.dial(b.l, addr, head); err != nil {
			failed = err
		}
	}
	for range inFlight {
		next()
	}
	err := b.l.run(ctx, time.Now().Add(2*time.Minute), func() bool { return ended == n || failed != nil })
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	return b.up.idle(ctx, b.l, 10*time.Second)
}

// talkers opens connections that will send.
func (b *bench) talkers(ctx context.Context, t *target, n int, stamp bool) ([]*client, error) {
	token, err := b.token("HS256", "user", time.Now().Add(time.Hour))
	if err != nil {
		return nil, err
	}
	return crowd(ctx, b.l, t.addr, n, inFlight, func(int) (*client, []byte, error) {
		return &client{stamp: stamp}, request(t.addr, echoPath, token), nil
	})
}

// echoes sends so many messages, one in flight on each connection.
func (b *bench) echoes(ctx context.Context, clients []*client, size, total int) error {
	message := frame.Append(nil, frame.Binary, make([]byte, size), true)
	answer := len(message) - 4
	begun, ended := 0, 0
	var failed error
	send := func(c *client) {
		if begun < total {
			begun++
			c.send(message)
		}
	}
	for _, c := range clients {
		c.came = 0
		c.closed = func(_ *client, err error) { failed = fmt.Errorf("a connection ended: %w", errors.Join(err)) }
		c.data = func(c *client, p []byte) {
			if c.came += len(p); c.came < answer {
				return
			}
			c.came = 0
			ended++
			send(c)
		}
	}
	for _, c := range clients {
		send(c)
	}
	err := b.l.run(ctx, time.Now().Add(2*time.Minute), func() bool { return ended == total || failed != nil })
	for _, c := range clients {
		c.closed = nil
	}
	return errors.Join(failed, err)
}

// relayed measures echoes through each target in turn, per so many units of
// which each echo is so many.
func (b *bench) relayed(ctx context.Context, targets []*target, f *figure, conns, size, total int, per float64) error {
	for round := range b.rounds {
		for _, t := range alternate(targets, round) {
			clients, err := b.talkers(ctx, t, conns, false)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			if err := b.echoes(ctx, clients, size, conns); err != nil { // so that every buffer is there
				return fmt.Errorf("%s: %w", t.name, err)
			}
			cpu, err := b.cost(ctx, t, func() error { return b.echoes(ctx, clients, size, total) })
			if err == nil {
				err = dismiss(ctx, b.l, b.up, clients)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			f.add(t.name, cpu.Seconds()*per)
		}
	}
	return nil
}

// messagesRow: small messages. A message is one that was relayed, so an echo
// is two.
func (b *bench) messagesRow(ctx context.Context, targets []*target) error {
	for _, conns := range []int{100, 1000} {
		f := b.report.figure(fmt.Sprintf("a million messages of 128 B, %s connections", thousands(conns)), "CPU s")
		f.OfPeer = 1
		if err := b.relayed(ctx, targets, f, conns, 128, b.messages, 1e6/float64(2*b.messages)); err != nil {
			return err
		}
	}
	return nil
}

// bytesRow: large messages. A GiB is one that was relayed, in either direction.
func (b *bench) bytesRow(ctx context.Context, targets []*target) error {
	volume := 512 << 20
	if b.quick {
		volume = 128 << 20
	}
	for _, size := range []int{64 << 10, 1 << 20} {
		f := b.report.figure(fmt.Sprintf("a GiB in messages of %s, 8 connections", map[bool]string{true: "1 MiB", false: "64 KiB"}[size == 1<<20]), "CPU s")
		f.OfPeer = 0.7
		if err := b.relayed(ctx, targets, f, 8, size, volume/size/2, float64(1<<30)/float64(volume)); err != nil {
			return err
		}
	}
	return nil
}

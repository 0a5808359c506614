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

// trip is one echo: when it was sent, and how long it took.
type trip struct {
	at   time.Time
	took time.Duration
}

// pacer sends on its connections at fixed times, evenly over the interval, one
// in flight on each. The answer's time is the kernel's, so that what delays
// this program's reading is not in it.
type pacer struct {
	clients []*client
	due     []time.Time
	waiting []bool
	every   time.Duration
	trips   []trip
	lost    error
}

func newPacer(clients []*client, every time.Duration) *pacer {
	p := &pacer{clients: clients, every: every, due: make([]time.Time, len(clients)), waiting: make([]bool, len(clients))}
	for i, c := range clients {
		p.due[i] = time.Now().Add(every * time.Duration(i) / time.Duration(len(clients)))
		c.came = 0
		c.closed = func(_ *client, err error) {
			p.lost = errors.Join(p.lost, fmt.Errorf("a connection that sends was ended: %w", errors.Join(err)))
		}
		c.data = func(c *client, b []byte) {
			if c.came += len(b); c.came < len(paced)-4 {
				return
			}
			c.came = 0
			p.waiting[i] = false
			p.trips = append(p.trips, trip{c.sent, max(0, c.at.Sub(c.sent))})
		}
	}
	return p
}

var paced = frame.Append(nil, frame.Binary, make([]byte, 128), true)

// tick sends what is due. What is not answered yet is left out.
func (p *pacer) tick() {
	now := time.Now()
	for i, c := range p.clients {
		if now.Before(p.due[i]) {
			continue
		}
		p.due[i] = p.due[i].Add(p.every)
		if !p.waiting[i] && c.state == isOpen {
			p.waiting[i] = true
			c.sent = time.Now().Round(0) // wall time, as the kernel's
			c.send(paced)
		}
	}
}

// between is what the trips of a time took, sorted.
func (p *pacer) between(from, to time.Time) []time.Duration {
	var took []time.Duration
	for _, t := range p.trips {
		if !t.at.Before(from) && t.at.Before(to) {
			took = append(took, t.took)
		}
	}
	slices.Sort(took)
	return took
}

// quantile is the q-th of sorted durations, in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	return milliseconds(d[min(len(d)-1, int(q*float64(len(d))))])
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// roundTripRow: how long an echo takes on 100 connections that send now and
// then, 2,000 messages a second together; also without anything between.
func (b *bench) roundTripRow(ctx context.Context, targets []*target) error {
	targets = append(slices.Clip(targets), &target{name: "direct", addr: b.up.addr})
	lasts := 2 * time.Second
	if b.quick {
		lasts = time.Second
	}
	for round := range b.rounds {
		for _, t := range alternate(targets, round) {
			took, err := b.roundTrips(ctx, t, lasts)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			b.report.figure("round trip at 2,000/s on 100 connections, p50", "ms").add(t.name, quantile(took, .5))
			b.report.figure("round trip at 2,000/s on 100 connections, p99", "ms").add(t.name, quantile(took, .99))
		}
	}
	return nil
}

func (b *bench) roundTrips(ctx context.Context, t *target, lasts time.Duration) ([]time.Duration, error) {
	clients, err := b.talkers(ctx, t, 100, true)
	if err != nil {
		return nil, err
	}
	p := newPacer(clients, 50*time.Millisecond)
	b.l.tick = p.tick
	begun := time.Now()
	err = errors.Join(b.l.run(ctx, begun.Add(lasts), nil), p.lost)
	b.l.tick = nil
	for _, c := range clients {
		c.closed = nil
	}
	return p.between(begun.Add(200*time.Millisecond), begun.Add(lasts)), errors.Join(err, dismiss(ctx, b.l, b.up, clients))
}

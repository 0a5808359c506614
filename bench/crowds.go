//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

// stormRow: every client loses its connection, and all come back at once with
// the tokens they had.
func (b *bench) stormRow(ctx context.Context) error {
	for _, server := range b.servers() {
		if err := b.storm(ctx, server); err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
	}
	return nil
}

func (b *bench) storm(ctx context.Context, server server) (err error) {
	t, err := server.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second)) }()
	addr := t.checked["ES256"]
	heads := make([][]byte, b.idle)
	for i := range heads {
		token, err := b.token("ES256", everybody(i), time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		heads[i] = request(addr, echoPath, token)
	}
	clients, err := crowd(ctx, b.l, addr, b.idle, inFlight, func(i int) (*client, []byte, error) {
		return &client{data: controls}, heads[i], nil
	})
	if err != nil {
		return err
	}
	for range min(b.rounds, 3) {
		if err := b.comeBack(ctx, t, addr, heads, clients); err != nil {
			return err
		}
	}
	for _, c := range clients {
		c.closed = nil
		c.cut()
	}
	return nil
}

// comeBack cuts the clients off and lets them come back.
func (b *bench) comeBack(ctx context.Context, t *target, addr string, heads [][]byte, clients []*client) error {
	begun := time.Now()
	for _, c := range clients {
		c.closed = nil
		c.cut()
	}
	if err := b.up.idle(ctx, b.l, 20*time.Second); err != nil {
		return err
	}
	n := thousands(b.idle)
	b.report.figure(n+" clients cut off at once: the upstream knows", "s").add(t.name, time.Since(begun).Seconds())
	cpu, dropped := t.cpu(), listenOverflows()
	begun = time.Now()
	back, failures := 0, 0
	for i := range clients {
		clients[i] = &client{data: controls, opened: func(*client) { back++ }, closed: func(*client, error) { failures++ }}
		if err := clients[i].dial(b.l, addr, heads[i]); err != nil {
			return err
		}
		if i%64 == 63 {
			if err := b.l.step(0); err != nil {
				return err
			}
		}
	}
	if err := b.l.run(ctx, time.Now().Add(time.Minute), func() bool { return back+failures >= b.idle }); err != nil {
		return fmt.Errorf("%d are back: %w", back, err)
	}
	b.report.figure(n+" clients come back at once: all are", "s").add(t.name, time.Since(begun).Seconds())
	b.report.figure(n+" clients come back at once: cost", "CPU s").add(t.name, (t.cpu() - cpu).Seconds())
	b.report.figure(n+" clients come back at once: turned away by the full queue, to try again", "times").add(t.name, listenOverflows()-dropped)
	b.report.figure(n+" clients come back at once: lost", "clients").add(t.name, float64(failures))
	return nil
}

// listenOverflows is how often the kernel has dropped what a client sent,
// because more had come than were accepted: TCP then tries again after a second.
func listenOverflows() float64 {
	text, _ := os.ReadFile("/proc/net/netstat")
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, "ListenOverflows"); i > 0 && i < len(fields) {
			n, _ := strconv.ParseFloat(fields[i], 64)
			return n
		}
		names = fields
	}
	return 0
}

// revokeRow: one subject's connections are revoked among others', and each
// close frame's arrival is timed against the answer of the revoking call.
func (b *bench) revokeRow(ctx context.Context) (err error) {
	t, err := b.gateway(variant{}).start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second)) }()
	n := b.idle / 9
	clients, err := b.silent(ctx, t, b.idle, time.Now().Add(time.Hour), func(i int) string {
		if i < n {
			return "revoked"
		}
		return everybody(i)
	})
	if err != nil {
		return err
	}
	if err := b.l.run(ctx, time.Now().Add(time.Second), nil); err != nil {
		return err
	}
	ended := 0
	for _, c := range clients[:n] {
		c.closed = func(*client, error) { ended++ }
	}
	type answer struct {
		asked, answered time.Time
		closed          int
		err             error
	}
	answers := make(chan answer, 1)
	go func() {
		a := answer{asked: time.Now()}
		res, err := adminapi.NewUnixClient(t.admin).Revoke(ctx, adminapi.RevokeRequest{Kind: "subject", Issuer: issuerName("ES256"), Value: "revoked"})
		a.answered, a.closed, a.err = time.Now(), res.Closed, err
		answers <- a
	}()
	if err := b.l.run(ctx, time.Now().Add(10*time.Second), func() bool { return ended == n }); err != nil {
		return fmt.Errorf("%d of %d ended: %w", ended, n, err)
	}
	a := <-answers
	if a.err != nil {
		return a.err
	}
	if a.closed != n {
		return fmt.Errorf("the call says that it closed %d", a.closed)
	}
	var late, sinceAsked []time.Duration
	for _, c := range clients[:n] {
		if c.code != 3000 {
			return fmt.Errorf("close code %d", c.code)
		}
		late = append(late, max(0, c.told.Sub(a.answered.Round(0))))
		sinceAsked = append(sinceAsked, c.told.Sub(a.asked.Round(0)))
	}
	for _, c := range clients[n:] {
		if c.state != isOpen {
			return errors.New("somebody else's connection was ended")
		}
		c.cut()
	}
	slices.Sort(late)
	slices.Sort(sinceAsked)
	of := fmt.Sprintf("%s of %s connections revoked: ", thousands(n), thousands(b.idle))
	b.report.figure(of+"the call takes", "ms").add(t.name, milliseconds(a.answered.Sub(a.asked)))
	b.report.late(of+"close frames after its answer", t.name, late, .99, 10)
	b.report.late(of+"close frames after it was asked", t.name, sinceAsked, 0, 0)
	return nil
}

// expiryRow: all tokens end in the same second, while other connections send.
// These have a loop and an upstream of their own, so that they wait for the
// gateway and not for the load of the others.
func (b *bench) expiryRow(ctx context.Context) (err error) {
	t, err := b.gateway(variant{}).start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second), b.beside.idle(ctx, b.l, 20*time.Second))
	}()
	side, err := newLoop()
	if err != nil {
		return err
	}
	defer side.close()
	token, err := b.token("HS256", "sender", time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	senders := func(addr, path string, n int) ([]*client, error) {
		return crowd(ctx, side, addr, n, inFlight, func(int) (*client, []byte, error) {
			return &client{stamp: true}, request(addr, path, token), nil
		})
	}
	sending, err := senders(t.addr, besidePath, 100)
	if err != nil {
		return err
	}
	// The load's own delay: the same round trips without a gateway.
	direct, err := senders(b.beside.addr, besidePath, 20)
	if err != nil {
		return err
	}
	n := b.idle
	lead := time.Duration(n/450+8) * time.Second // for opening them
	if b.quick {
		lead = time.Duration(n/1000+5) * time.Second
	}
	exp := time.Now().Add(lead).Truncate(time.Second)
	due := func(i int) time.Time {
		return exp.Add(time.Second * time.Duration(i) / time.Duration(n)).Truncate(time.Millisecond)
	}
	clients, err := b.expiring(ctx, t, n, due, everybody)
	if err != nil {
		return err
	}
	from := exp.Add(-3 * time.Second)
	if time.Now().After(from) {
		return errors.New("this machine opens the connections too slowly: take fewer (-idle)")
	}
	ended := 0
	var last time.Time
	for _, c := range clients {
		c.closed = func(*client, error) { ended++; last = time.Now() }
	}
	through, own := newPacer(sending, 50*time.Millisecond), newPacer(direct, 50*time.Millisecond)
	side.tick = func() { through.tick(); own.tick() }
	sideCtx, stop := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() {
		sent <- side.run(sideCtx, time.Now().Add(time.Minute), func() bool { return sideCtx.Err() != nil })
	}()
	err = b.l.run(ctx, exp.Add(10*time.Second), func() bool { return ended == n })
	if err != nil {
		err = fmt.Errorf("%d of %d ended: %w", ended, n, err)
	}
	time.Sleep(300 * time.Millisecond) // the last echoes
	stop()
	if err := errors.Join(err, <-sent, through.lost, own.lost); err != nil {
		return err
	}
	var late []time.Duration
	for i, c := range clients {
		if c.code != 3000 {
			return fmt.Errorf("close code %d", c.code)
		}
		late = append(late, c.told.Sub(due(i)))
	}
	slices.Sort(late)
	if late[0] < 0 {
		return fmt.Errorf("a connection was ended %s before its time", -late[0])
	}
	of := thousands(n) + " tokens expire within a second: "
	b.report.late(of+"close frames after the deadline", t.name, late, 1, 250)
	b.report.figure(of+"the last connection has closed", "ms").add(t.name, milliseconds(last.Sub(exp)))
	const others = "others' round trip, p99, "
	for _, p := range []struct {
		name string
		*pacer
	}{{t.name, through}, {"direct", own}} {
		before, meanwhile := p.between(from.Add(500*time.Millisecond), exp.Add(-100*time.Millisecond)), p.between(exp, last)
		if len(before) == 0 || len(meanwhile) == 0 {
			return errors.New("nobody's round trip was measured meanwhile")
		}
		b.report.figure(of+others+"before", "ms").add(p.name, quantile(before, .99))
		f := b.report.figure(of+others+"meanwhile", "ms")
		if f.add(p.name, quantile(meanwhile, .99)); p.name == t.name {
			f.AtMost = 2 * quantile(before, .99)
		}
	}
	for _, c := range slices.Concat(sending, direct) {
		c.closed = nil
		c.cut()
	}
	return nil
}

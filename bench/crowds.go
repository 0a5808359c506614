//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

// stormRow: every client loses its connection, and all come back at once with
// the tokens they had.
func (b *bench) stormRow(ctx context.Context) error {
	for _, start := range []func(context.Context) (*target, error){
		func(ctx context.Context) (*target, error) { return b.startGateway(ctx, variant{}) }, b.startHAProxy,
	} {
		if len(b.report.figure(b.stormName(), "s").Measured) > 0 && b.peers["haproxy"] == "" {
			break
		}
		if err := b.storm(ctx, start); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) stormName() string {
	return fmt.Sprintf("%d clients come back at once: all are", b.idle)
}

func (b *bench) storm(ctx context.Context, start func(context.Context) (*target, error)) (err error) {
	t, err := start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end()) }()
	addr, _ := t.at("ES256")
	heads := make([][]byte, b.idle)
	for i := range heads {
		token, err := b.keys.token("ES256", everybody(i), time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		heads[i] = request(addr, t.path, token)
	}
	clients, err := crowd(ctx, b.l, addr, b.idle, inFlight, func(i int) (*client, []byte, error) {
		return &client{data: controls}, heads[i], nil
	})
	if err != nil {
		return err
	}
	begun := time.Now()
	for _, c := range clients {
		c.cut()
	}
	if err := b.up.idle(ctx, b.l, 20*time.Second); err != nil {
		return err
	}
	b.report.figure(fmt.Sprintf("%d clients lost: all are let go", b.idle), "s").add(t.name, time.Since(begun).Seconds())
	cpu := t.cpu()
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
	b.report.figure(b.stormName(), "s").add(t.name, time.Since(begun).Seconds())
	b.report.figure("  it cost", "CPU s").add(t.name, (t.cpu() - cpu).Seconds())
	b.report.figure("  were not let in", "clients").add(t.name, float64(failures))
	for _, c := range clients {
		c.closed = nil
		c.cut()
	}
	return b.up.idle(ctx, b.l, 20*time.Second)
}

// revokeRow: one subject's connections are revoked among others', and each
// close frame's arrival is timed against the answer of the revoking call.
func (b *bench) revokeRow(ctx context.Context) (err error) {
	t, err := b.startGateway(ctx, variant{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end()) }()
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
	var late []time.Duration
	for _, c := range clients[:n] {
		if c.code != 3000 {
			return fmt.Errorf("close code %d", c.code)
		}
		late = append(late, max(0, c.told.Sub(a.answered.Round(0))))
	}
	for _, c := range clients[n:] {
		if c.state != isOpen {
			return errors.New("somebody else's connection was ended")
		}
		c.cut()
	}
	slices.Sort(late)
	of := fmt.Sprintf("%d of %d connections revoked: ", n, b.idle)
	b.report.figure(of+"the call takes", "ms").add("gateway", milliseconds(a.answered.Sub(a.asked)))
	f := b.report.figure(of+"close frames after its answer, p99", "ms")
	f.AtMost = 10
	f.add("gateway", quantile(late, .99))
	b.report.figure("  the last", "ms").add("gateway", quantile(late, 1))
	return b.up.idle(ctx, b.l, 20*time.Second)
}

// expiryRow: all tokens end in the same second, while other connections send.
func (b *bench) expiryRow(ctx context.Context) (err error) {
	t, err := b.startGateway(ctx, variant{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second)) }()
	n := b.idle
	exp := time.Now().Add(time.Duration(n/450+8) * time.Second).Truncate(time.Second)
	sending, err := b.talkers(ctx, t, 100, true)
	if err != nil {
		return err
	}
	// The load's own delay: the same round trips without a gateway.
	direct, err := b.talkers(ctx, &target{addr: b.up.addr}, 20, true)
	if err != nil {
		return err
	}
	clients, err := b.silent(ctx, t, n, exp, everybody)
	if err != nil {
		return err
	}
	from := exp.Add(-4 * time.Second)
	if time.Now().After(from) {
		return errors.New("this machine opens the connections too slowly: take fewer (-idle)")
	}
	ended := 0
	var last time.Time
	for _, c := range clients {
		c.closed = func(*client, error) { ended++; last = time.Now() }
	}
	gw, own := newPacer(sending, 50*time.Millisecond), newPacer(direct, 50*time.Millisecond)
	b.l.tick = func() { gw.tick(); own.tick() }
	defer func() { b.l.tick = nil }()
	if err := b.l.run(ctx, exp.Add(10*time.Second), func() bool { return ended == n }); err != nil {
		return fmt.Errorf("%d of %d ended: %w", ended, n, err)
	}
	if err := b.l.run(ctx, time.Now().Add(300*time.Millisecond), nil); err != nil { // the last echoes
		return err
	}
	if err := errors.Join(gw.lost, own.lost); err != nil {
		return err
	}
	var late []time.Duration
	for _, c := range clients {
		if c.code != 3000 {
			return fmt.Errorf("close code %d", c.code)
		}
		late = append(late, c.told.Sub(exp))
	}
	slices.Sort(late)
	of := fmt.Sprintf("%d tokens end at once: close frames, ", n)
	b.report.figure(of+"first", "ms").add("gateway", quantile(late, 0))
	b.report.figure(of+"median", "ms").add("gateway", quantile(late, .5))
	f := b.report.figure(of+"last", "ms")
	f.AtMost = 250
	f.add("gateway", quantile(late, 1))
	if late[0] < 0 {
		return fmt.Errorf("a connection was ended %s before its time", -late[0])
	}
	b.report.figure("  last connection closed", "ms").add("gateway", milliseconds(last.Sub(exp)))
	before, during := gw.between(from.Add(500*time.Millisecond), exp.Add(-100*time.Millisecond)), gw.between(exp, last)
	b.report.figure("  100 others' round trip before, p99", "ms").add("gateway", quantile(before, .99))
	f = b.report.figure("  100 others' round trip meanwhile, p99", "ms")
	f.AtMost = 2 * quantile(before, .99)
	f.add("gateway", quantile(during, .99))
	b.report.figure("  without a gateway (the load's own) meanwhile, p99", "ms").add("direct", quantile(own.between(exp, last), .99))
	for _, c := range slices.Concat(sending, direct) {
		c.closed = nil
		c.cut()
	}
	return nil
}

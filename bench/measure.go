package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const parallel = 16

// handshakes: the gateway's CPU for 1 000 of them, with tokens never seen
// before and with tokens that come back, beside what clients and upstream
// spend on a direct connection.
func handshakes(ctx context.Context, o options, e *echo, g *gateway) error {
	one := func(addr, path string, token func(i int) string) (gatewayCPU, ownTime time.Duration, err error) {
		before, own := g.cpu(), ownCPU()
		for done := 0; done < o.handshakes && err == nil; done += 500 {
			var conns []net.Conn
			conns, err = open(ctx, 500, parallel, func(i int) (net.Conn, error) { return dial(addr, path, token(done+i)) })
			closeAll(conns)
		}
		return g.cpu() - before, ownCPU() - own, err
	}
	tokens := make([]string, o.handshakes+500)
	for i := range tokens {
		var err error
		if tokens[i], err = g.token("user", i, time.Now().Add(10*time.Minute)); err != nil {
			return err
		}
	}
	_, direct, err := one(e.addr(), "/", func(int) string { return "" })
	if err != nil {
		return err
	}
	fresh, _, err := one(g.addr, "/echo", func(i int) string { return tokens[i] })
	if err != nil {
		return err
	}
	again, _, err := one(g.addr, "/echo", func(int) string { return tokens[0] })
	if err != nil {
		return err
	}
	per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(o.handshakes) }
	fmt.Printf("handshakes, CPU s per 1 000: gateway, new tokens (HS256) %.3f; gateway, tokens seen before %.3f; direct, client and upstream together %.3f (ratio %.2f)\n",
		per(fresh), per(again), per(direct), per(fresh)/per(direct))
	return nil
}

// messages: CPU for a million echoed messages of 128 bytes.
func messages(ctx context.Context, o options, e *echo, g *gateway) error {
	tok, err := g.token("user", 1, time.Now().Add(10*time.Minute))
	if err != nil {
		return err
	}
	one := func(addr, path, token string) (gatewayCPU, own time.Duration, err error) {
		conns, err := open(ctx, o.active, parallel, func(int) (net.Conn, error) { return dial(addr, path, token) })
		if err != nil {
			return 0, 0, err
		}
		defer closeAll(conns)
		before, ownBefore := g.cpu(), ownCPU()
		err = pingPong(conns, o.messages/o.active)
		return g.cpu() - before, ownCPU() - ownBefore, err
	}
	_, direct, err := one(e.addr(), "/", "")
	if err != nil {
		return err
	}
	through, _, err := one(g.addr, "/echo", tok)
	if err != nil {
		return err
	}
	per := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(2*(o.messages/o.active)*o.active) }
	fmt.Printf("messages of 128 B on %d connections, CPU s per million: gateway %.2f; direct, client and upstream together %.2f (ratio %.2f)\n",
		o.active, per(through), per(direct), per(through)/per(direct))
	return nil
}

// pingPong sends n messages on each connection, each after the last one's echo.
func pingPong(conns []net.Conn, n int) error {
	errs := make(chan error, len(conns))
	for _, c := range conns {
		go func() {
			out := frame.Append(nil, frame.Text, make([]byte, 128), true)
			in := make([]byte, 2+2+128)
			for range n {
				if _, err := c.Write(out); err != nil {
					errs <- err
					return
				}
				if _, err := io.ReadFull(c, in); err != nil { // 126-form: 4 bytes of header
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var first error
	for range conns {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// idle: memory of connections on which nothing happens; then one subject's are
// revoked, and each close frame's arrival is timed against the answer of the
// revoking call.
func idle(ctx context.Context, o options, e *echo, g *gateway) error {
	before := g.resident()
	exp := time.Now().Add(10 * time.Minute)
	conns, err := open(ctx, o.idle, parallel, func(i int) (net.Conn, error) {
		subject := fmt.Sprintf("user%d", i)
		if i < o.revoked {
			subject = "revoked"
		}
		tok, err := g.token(subject, i, exp)
		if err != nil {
			return nil, err
		}
		return dial(g.addr, "/echo", tok)
	})
	if err != nil {
		return err
	}
	defer closeAll(conns)
	settled := g.resident()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); { // the collector returns the handshakes' memory
		time.Sleep(2 * time.Second)
		if now := g.resident(); now > settled-settled/100 && now < settled+settled/100 {
			break
		} else {
			settled = now
		}
	}
	after := g.resident()
	fmt.Printf("idle: %d connections, %.1f KB resident each (%.0f MB; %.0f MB without any)\n",
		o.idle, float64(after-before)/float64(o.idle)/1024, float64(after)/(1<<20), float64(before)/(1<<20))
	cpu := g.cpu()
	start := time.Now()
	time.Sleep(5 * time.Second)
	fmt.Printf("idle: %.1f ms of CPU a second\n", float64((g.cpu()-cpu).Milliseconds())/time.Since(start).Seconds())
	return revoke(ctx, o, g, conns)
}

func revoke(ctx context.Context, o options, g *gateway, conns []net.Conn) error {
	type arrival struct {
		at   time.Time
		code uint16
		err  error
	}
	arrivals := make([]arrival, o.revoked)
	var wg sync.WaitGroup
	for i := range o.revoked {
		wg.Go(func() { a := &arrivals[i]; a.at, a.code, a.err = readClose(conns[i]) })
	}
	time.Sleep(time.Second) // every reader waits in its read
	client := adminapi.NewUnixClient(g.admin)
	asked := time.Now()
	res, err := client.Revoke(ctx, adminapi.RevokeRequest{Kind: "subject", Issuer: issuer, Value: "revoked"})
	answered := time.Now()
	if err != nil {
		return err
	}
	wg.Wait()
	var late []time.Duration
	for _, a := range arrivals {
		if a.err != nil || a.code != 3000 {
			return fmt.Errorf("not closed as revoked: code %d, error %w", a.code, a.err)
		}
		late = append(late, max(0, a.at.Sub(answered)))
	}
	fmt.Printf("revoke: %d of %d connections, the call took %.1f ms (%d closed); close frames after its answer: %s\n",
		o.revoked, o.idle, float64(answered.Sub(asked).Microseconds())/1000, res.Closed, spread(late))
	return nil
}

// expiry: all connections' tokens end in the same second.
func expiry(ctx context.Context, o options, _ *echo, g *gateway) error {
	n := min(o.idle, 2000)
	exp := time.Now().Add(time.Duration(n/400+5) * time.Second).Truncate(time.Second)
	conns, err := open(ctx, n, parallel, func(i int) (net.Conn, error) {
		tok, err := g.token("user", i, exp)
		if err != nil {
			return nil, err
		}
		return dial(g.addr, "/echo", tok)
	})
	if err != nil {
		return err
	}
	defer closeAll(conns)
	late := make([]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			at, code, err := readClose(c)
			if err == nil && code != 3000 {
				err = fmt.Errorf("code %d", code)
			}
			late[i], errs[i] = at.Sub(exp), err
		})
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	fmt.Printf("expiry: %d connections with one deadline; close frames after it: %s\n", n, spread(late))
	return nil
}

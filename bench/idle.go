//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// silent opens n connections that only answer what they are sent, each with a
// token of its own.
func (b *bench) silent(ctx context.Context, t *target, n int, exp time.Time, subject func(i int) string) ([]*client, error) {
	addr, path := t.addr, "/echo"
	if a, ok := t.at("ES256"); ok {
		addr = a
	}
	return crowd(ctx, b.l, addr, n, inFlight, func(i int) (*client, []byte, error) {
		token, err := b.keys.token("ES256", subject(i), exp)
		return &client{stamp: true, data: controls}, request(addr, path, token), err
	})
}

func everybody(i int) string { return fmt.Sprintf("user%d", i) }

// warm lets a server do once what it does once: load its code, fill its pools.
func (b *bench) warm(ctx context.Context, t *target) error {
	clients, err := b.silent(ctx, t, 200, time.Now().Add(time.Hour), everybody)
	if err != nil {
		return err
	}
	return dismiss(ctx, b.l, b.up, clients)
}

// idleRow: memory and CPU of connections on which nothing happens.
func (b *bench) idleRow(ctx context.Context) error {
	type way struct {
		name   string
		v      variant
		figure string
		atMost float64
		server string
		start  func(context.Context) (*target, error)
	}
	each := fmt.Sprintf("of %d idle connections", b.idle)
	var ways []way
	for _, relay := range []struct {
		name   string
		atMost float64
	}{{"epoll", 2}, {"goroutine", 12}} {
		v := variant{relay: relay.name}
		if b.accepts(ctx, v) {
			ways = append(ways, way{name: relay.name, v: v, figure: "memory for each " + each + ", " + relay.name + " relay", atMost: relay.atMost, server: "gateway"})
		}
	}
	if len(ways) == 0 {
		ways = append(ways, way{name: "goroutine", figure: "memory for each " + each + ", goroutine relay", atMost: 12, server: "gateway"})
	}
	for name, start := range map[string]func(context.Context) (*target, error){"haproxy": b.startHAProxy, "nginx": b.startNginx} {
		if b.peers[name] != "" {
			ways = append(ways, way{name: name, figure: ways[0].figure, server: name, start: start})
		}
	}
	for i, w := range ways {
		f := b.report.figure(w.figure, "KB")
		if w.start == nil {
			f.AtMost = w.atMost
			w.start = func(ctx context.Context) (*target, error) { return b.startGateway(ctx, w.v) }
		}
		// CPU is compared for the first of the gateway's, which it takes by itself.
		err := b.idleOne(ctx, w.start, f, w.server, i == 0 || w.server != "gateway")
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	f := b.report.figure("memory for each "+each+", TLS", "KB")
	f.AtMost = 40
	return b.idleTLS(ctx, f)
}

func (b *bench) idleOne(ctx context.Context, start func(context.Context) (*target, error), f *figure, server string, cpu bool) (err error) {
	t, err := start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end()) }()
	if err := b.warm(ctx, t); err != nil {
		return err
	}
	before, err := t.settledMemory(ctx, b.l, 10*time.Second)
	if err != nil {
		return err
	}
	clients, err := b.silent(ctx, t, b.idle, time.Now().Add(time.Hour), everybody)
	if err != nil {
		return err
	}
	after, err := t.settledMemory(ctx, b.l, 20*time.Second)
	if err != nil {
		return err
	}
	f.add(server, float64(after-before)/float64(b.idle)/1000)
	if cpu {
		used, begun := t.cpu(), time.Now()
		if err := b.l.run(ctx, begun.Add(12*time.Second), nil); err != nil {
			return err
		}
		f := b.report.figure(fmt.Sprintf("CPU with %d idle connections", b.idle), "ms/s")
		f.AtMost = 1
		f.add(server, milliseconds(t.cpu()-used)/time.Since(begun).Seconds())
	}
	for _, c := range clients {
		if c.state != isOpen {
			return errors.New("an idle connection was ended")
		}
		c.cut()
	}
	return b.up.idle(ctx, b.l, 15*time.Second)
}

// idleTLS: the clients are crypto/tls's, a goroutine each while they connect.
func (b *bench) idleTLS(ctx context.Context, f *figure) (err error) {
	t, err := b.startGateway(ctx, variant{tls: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.end()) }()
	pem, err := os.ReadFile(filepath.Join(t.dir, "cert.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	open := func(n int) error {
		token, err := b.keys.token("HS256", "user", time.Now().Add(time.Hour))
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var failed error
		var wg sync.WaitGroup
		for w := range inFlight {
			wg.Go(func() {
				for range n/inFlight + min(1, max(0, n%inFlight-w)) {
					c, err := dialTLS(ctx, t.addr, &tls.Config{RootCAs: roots}, token)
					mu.Lock()
					conns = append(conns, c)
					failed = errors.Join(failed, err)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return failed
	}
	if err := open(200); err != nil {
		return err
	}
	before, err := t.settledMemory(ctx, b.l, 10*time.Second)
	if err != nil {
		return err
	}
	if err := open(b.idle); err != nil {
		return err
	}
	after, err := t.settledMemory(ctx, b.l, 20*time.Second)
	if err != nil {
		return err
	}
	f.add("gateway", float64(after-before)/float64(b.idle)/1000)
	return nil
}

func dialTLS(ctx context.Context, addr string, conf *tls.Config, token string) (net.Conn, error) {
	d := tls.Dialer{Config: conf}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return c, err
	}
	if _, err := c.Write(request(addr, "/echo", token)); err != nil {
		return c, err
	}
	var head [2048]byte
	for n := 0; ; {
		m, err := c.Read(head[n:])
		if n += m; strings.Contains(string(head[:n]), "\r\n\r\n") {
			if !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101 ") {
				return c, fmt.Errorf("%w: %s", errRefused, head[:n])
			}
			return c, nil
		}
		if err == nil && n == len(head) {
			err = io.ErrShortBuffer
		}
		if err != nil {
			return c, err
		}
	}
}

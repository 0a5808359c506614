//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// silent opens n connections that only answer what they are sent, each with a
// token of its own.
func (b *bench) silent(ctx context.Context, t *target, n int, exp time.Time, subject func(i int) string) ([]*client, error) {
	return b.expiring(ctx, t, n, func(int) time.Time { return exp.Truncate(time.Second) }, subject)
}

// expiring is silent with tokens that expire each in its own millisecond.
func (b *bench) expiring(ctx context.Context, t *target, n int, exp func(i int) time.Time, subject func(i int) string) ([]*client, error) {
	addr := t.checked["ES256"]
	return crowd(ctx, b.l, addr, n, inFlight, func(i int) (*client, []byte, error) {
		token, err := b.keys.expiring("ES256", subject(i), numericDate(exp(i)))
		b.up.known.Store("Bearer "+token, true)
		return &client{stamp: true, data: controls}, request(addr, echoPath, token), err
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

// idleRow: memory and CPU of connections on which nothing happens. The
// gateway's CPU is that of the relay it takes by itself.
func (b *bench) idleRow(ctx context.Context) error {
	n := thousands(b.idle) + " idle connections"
	epoll, goroutine := "memory for each of "+n+", epoll relay", "memory for each of "+n+", goroutine relay"
	for i, server := range b.servers() {
		if i == 0 {
			server = b.gateway(variant{relay: "epoll"})
		}
		memory, cpu, err := b.idleOne(ctx, server)
		if err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
		f := b.report.figure(epoll, "KB")
		f.AtMost = 2
		f.add(server.name, memory)
		f = b.report.figure("CPU with "+n, "ms/s")
		f.AtMost = 1
		f.add(server.name, cpu)
	}
	memory, _, err := b.idleOne(ctx, b.gateway(variant{relay: "goroutine"}))
	if err != nil {
		return fmt.Errorf("goroutine relay: %w", err)
	}
	f := b.report.figure(goroutine, "KB")
	f.AtMost = 12
	f.add("wsbouncer", memory)
	if memory, err = b.idleTLS(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	f = b.report.figure("memory for each of "+n+", TLS", "KB")
	f.AtMost = 40
	f.add("wsbouncer", memory)
	return nil
}

// idleOne is KB for each connection, and ms/s for all.
func (b *bench) idleOne(ctx context.Context, server server) (memory, cpu float64, err error) {
	t, err := server.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second)) }()
	if err := b.warm(ctx, t); err != nil {
		return 0, 0, err
	}
	before, err := b.settledMemory(ctx, &t.process)
	if err != nil {
		return 0, 0, err
	}
	clients, err := b.silent(ctx, t, b.idle, time.Now().Add(time.Hour), everybody)
	if err != nil {
		return 0, 0, err
	}
	after, err := b.settledMemory(ctx, &t.process)
	if err != nil {
		return 0, 0, err
	}
	lasts := 12 * time.Second
	if b.quick {
		lasts = 3 * time.Second
	}
	used, begun := t.cpu(), time.Now()
	if err := b.l.run(ctx, begun.Add(lasts), nil); err != nil {
		return 0, 0, err
	}
	cpu = milliseconds(t.cpu()-used) / time.Since(begun).Seconds()
	for _, c := range clients {
		if c.state != isOpen {
			return 0, 0, errors.New("an idle connection was ended")
		}
		c.cut()
	}
	return kb(after-before, b.idle), cpu, nil
}

func kb(bytes int64, each int) float64 { return float64(bytes) / float64(each) / 1000 }

// idleTLS: the clients are crypto/tls's, a goroutine each while they connect.
func (b *bench) idleTLS(ctx context.Context) (memory float64, err error) {
	t, err := b.gateway(variant{tls: true}).start(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.end(), b.up.idle(ctx, b.l, 20*time.Second)) }()
	pem, err := os.ReadFile(filepath.Join(t.dir, "cert.pem"))
	if err != nil {
		return 0, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	good, err := b.token("ES256", "user", time.Now().Add(time.Hour))
	if err != nil {
		return 0, err
	}
	conf := &tls.Config{RootCAs: roots}
	bad, err := b.badTokens("ES256", good)
	if err != nil {
		return 0, err
	}
	for what, token := range bad {
		c, err := dialTLS(ctx, t.addr, conf, token)
		if c != nil {
			c.Close()
		}
		if !errors.Is(err, errRefused) {
			return 0, fmt.Errorf("%s: not refused: %w", what, errors.Join(err))
		}
	}
	open := func(n int) error {
		var begun atomic.Int64
		var mu sync.Mutex
		var failed error
		var wg sync.WaitGroup
		for range inFlight {
			wg.Go(func() {
				for int(begun.Add(1)) <= n {
					token, err := b.token("ES256", "user", time.Now().Add(time.Hour))
					var c net.Conn
					if err == nil {
						c, err = dialTLS(ctx, t.addr, conf, token)
					}
					mu.Lock()
					if c != nil {
						conns = append(conns, c)
					}
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
		return 0, err
	}
	before, err := b.settledMemory(ctx, &t.process)
	if err != nil {
		return 0, err
	}
	if err := open(b.idle); err != nil {
		return 0, err
	}
	after, err := b.settledMemory(ctx, &t.process)
	if err != nil {
		return 0, err
	}
	return kb(after-before, b.idle), nil
}

func dialTLS(ctx context.Context, addr string, conf *tls.Config, token string) (net.Conn, error) {
	d := tls.Dialer{Config: conf}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(request(addr, echoPath, token)); err != nil {
		return c, err
	}
	var head [2048]byte
	for n := 0; ; {
		m, err := c.Read(head[n:])
		if n += m; bytes.Contains(head[:n], []byte("\r\n\r\n")) {
			if !bytes.HasPrefix(head[:n], []byte("HTTP/1.1 101 ")) {
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

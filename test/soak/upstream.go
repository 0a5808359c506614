//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// What the upstream says when it closes.
const (
	ownCode = 4001
	ownText = "the upstream's own"
)

// upstream is the server behind the gateway. It knows nothing of tokens, checks
// that every message came whole and in order, and sends it back.
type upstream struct {
	addr  string
	found *findings
	seed  uint64
	n     atomic.Uint64
	conns sync.WaitGroup
	// known gives the client of an id, to tell it that the upstream fails it.
	known func(id uint64) *client

	mu     sync.Mutex
	l      net.Listener
	live   map[*upConn]struct{}
	outage []span
}

// span is a time during which it was not there; to is zero while it lasts.
type span struct{ from, to time.Time }

// upConn is one connection; its goroutine is the only one that writes.
type upConn struct {
	net.Conn
	client atomic.Uint64 // whose, after its first message
}

func newUpstream(found *findings, seed uint64) (*upstream, error) {
	u := &upstream{addr: "127.0.0.1:0", found: found, seed: seed, live: map[*upConn]struct{}{}}
	if err := u.listen(); err != nil {
		return nil, err
	}
	u.addr = u.l.Addr().String()
	return u, nil
}

func (u *upstream) listen() error {
	l, err := net.Listen("tcp", u.addr)
	if err != nil {
		return err
	}
	u.mu.Lock()
	u.l = l
	u.mu.Unlock()
	u.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.conns.Go(func() { u.serve(&upConn{Conn: c}) })
		}
	})
	return nil
}

func (u *upstream) close() {
	u.l.Close()
	u.fail(math.MaxInt)
	u.conns.Wait()
}

// restart is away for a moment, and cuts every connection.
func (u *upstream) restart(ctx context.Context, away time.Duration) error {
	u.mu.Lock()
	u.outage = append(u.outage, span{from: time.Now()})
	u.l.Close()
	u.mu.Unlock()
	u.fail(math.MaxInt)
	_ = pause(ctx, away)
	err := u.listen()
	u.fail(math.MaxInt) // who came while it closed
	u.mu.Lock()
	u.outage[len(u.outage)-1].to = time.Now()
	u.mu.Unlock()
	u.found.count("upstream restarts")
	return err
}

// aside is how long the gateway may believe that an upstream is still gone.
const aside = 4 * time.Second

// out reports whether the upstream was away between from and to, or had been
// so until shortly before.
func (u *upstream) out(from, to time.Time, shortly time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.outage, func(s span) bool {
		return to.After(s.from) && (s.to.IsZero() || from.Before(s.to.Add(shortly)))
	})
}

// fail resets some of the connections, as a crashing server does.
func (u *upstream) fail(most int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.live {
		if most--; most < 0 {
			return
		}
		if cl := u.known(c.client.Load()); cl != nil {
			cl.upstreamFails.Store(true)
		} else if most < math.MaxInt/2 {
			continue // nobody would know why
		}
		reset(c.Conn)
	}
}

// reset ends a TCP connection with RST.
func reset(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func (u *upstream) serve(c *upConn) {
	defer c.Close()
	r := rand.New(rand.NewPCG(u.seed, u.n.Add(1)))
	br := bufio.NewReaderSize(c, 2048)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	for _, name := range []string{"Authorization", "Cookie", "Sec-Websocket-Protocol"} {
		if v := req.Header.Get(name); v != "" && v != appProtocol && v != appCookie {
			u.found.fault("the upstream got %s: %s", name, v)
		}
	}
	if req.URL.RawQuery != "" && req.URL.RawQuery != "room=1" {
		u.found.fault("the upstream got the query %q", req.URL.RawQuery)
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	if p := req.Header.Get("Sec-WebSocket-Protocol"); p != "" {
		head += "Sec-WebSocket-Protocol: " + p + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		return
	}
	u.mu.Lock()
	u.live[c] = struct{}{}
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		delete(u.live, c)
		u.mu.Unlock()
	}()
	if err := u.echo(c, br, r); err != nil {
		u.found.fault("at the upstream, connection of %s, client %d: %v", req.URL.Path, c.client.Load(), err)
	}
}

// echo works until the connection ends; the error is a finding.
func (u *upstream) echo(c *upConn, br *bufio.Reader, r *rand.Rand) error {
	in := reader{br: br}
	var last uint64
	for {
		op, b, err := in.next()
		if err != nil {
			return illegal(err)
		}
		switch op {
		case frame.Ping:
			_, err = c.Write(frame.AppendPong(nil, b, false))
		case frame.Pong:
		case frame.Close:
			_, _ = c.Write(frame.Append(nil, frame.Close, b, false))
			return nil
		default:
			m, perr := parseMsg(op, b)
			if perr != nil {
				return fmt.Errorf("a message of %d bytes is not what was sent: %w", len(b), perr)
			}
			if m.forbidden {
				why := ""
				if cl := u.known(m.client); cl != nil {
					why = cl.why()
				}
				return fmt.Errorf("message %d of a connection that had ended came through: %s", m.number, why)
			}
			id := c.client.Swap(m.client)
			if id != 0 && id != m.client || m.number != last+1 {
				return fmt.Errorf("message %d of client %d after message %d of client %d", m.number, m.client, last, id)
			}
			last = m.number
			err = u.answer(c, op, b, m, r)
		}
		if err != nil {
			return illegal(err)
		}
	}
}

// illegal drops an error that only means that the connection ended.
func illegal(err error) error {
	if errors.Is(err, errIllegal) {
		return err
	}
	return nil
}

func (u *upstream) answer(c *upConn, op frame.Opcode, b []byte, m msg, r *rand.Rand) error {
	parts := 1
	if r.IntN(8) == 0 {
		parts = 2 + r.IntN(3)
	}
	for i, f := range fragments(op, b, false, parts, r) {
		if i > 0 && r.IntN(2) == 0 {
			f = append(frame.AppendPing(nil, []byte("between"), false), f...)
		}
		if _, err := c.Write(f); err != nil {
			return err
		}
	}
	u.found.count("messages echoed")
	switch m.command {
	case cmdBurst:
		big := frame.Append(nil, frame.Binary, []byte(strings.Repeat("burst", 13_000)), false)
		for range 60 { // 4 MB: more than the sockets on the way take
			if _, err := c.Write(big); err != nil {
				return err
			}
		}
	case cmdReset:
		reset(c.Conn)
		return net.ErrClosed
	case cmdGone:
		return net.ErrClosed
	case cmdClose:
		_, _ = c.Write(frame.AppendClose(nil, ownCode, ownText, false))
		// The peer's close frame, or the end.
		in := reader{br: bufio.NewReader(c)}
		for {
			if op, _, err := in.next(); err != nil || op == frame.Close {
				return net.ErrClosed
			}
		}
	}
	return nil
}

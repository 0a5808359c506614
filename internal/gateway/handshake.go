package gateway

import (
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 §4.2.2 demands it; nothing secret depends on it
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// handshake is one admission on its way to a relay.
type handshake struct {
	g      *Gateway
	rt     *route
	r      *http.Request
	a      *wsbouncer.Admission
	limits wsbouncer.Limits
	c      *conn
	// socket is the client's where a loop has it, else nil.
	socket *relay.Socket
	// answered: the client has its 101, so that nothing can be negotiated
	// between it and the upstream any more.
	answered bool
}

// conn is what the library ends: before the relay runs, the handshake; then
// the relay.
type conn struct {
	mu     sync.Mutex
	cancel context.CancelFunc // of the handshake
	relay  *relay.Conn
	ended  *wsbouncer.Reason // nil: not
}

// End implements wsbouncer.Ender.
func (c *conn) End(why wsbouncer.Reason) {
	c.mu.Lock()
	c.ended = &why
	started, cancel := c.relay, c.cancel
	c.mu.Unlock()
	if started != nil {
		started.End(why)
		return
	}
	cancel()
}

// Carried is what the library asks for while the connection lives; its own
// fields are set at the end.
func (c *conn) Carried() (clientBytes, upstreamBytes, clientMessages, upstreamMessages int64) {
	c.mu.Lock()
	r := c.relay
	c.mu.Unlock()
	if r == nil {
		return 0, 0, 0, 0
	}
	s := r.Stats()
	return s.ClientBytes, s.UpstreamBytes, s.ClientMessages, s.UpstreamMessages
}

// start starts the relay. An end that came before is the relay's from its
// beginning: whoever asked for it was told that nothing is forwarded any more.
func (c *conn) start(cfg relay.Config) *relay.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		cfg.Ended = *c.ended
	}
	c.relay, c.cancel = relay.Start(cfg), nil
	return c.relay
}

// admitted dials the upstream and answers the client. The error is what the
// client is refused with; nil once it was answered.
func (h *handshake) admitted(ctx context.Context, w http.ResponseWriter) error {
	live, err := h.g.o.Bouncer.Track(h.a, h.c)
	if err != nil {
		return err
	}
	up, err := h.g.dial(ctx, h, live, h.a.Protocols)
	if err != nil {
		err = live.Refused(whyNot(live, err))
		live.Release(reason.UpstreamGone)
		return err
	}
	if err := live.Open(); err != nil {
		up.close()
		live.Release(reason.UpstreamGone)
		return err
	}
	client, early, err := take(w)
	if err != nil {
		up.close()
		live.Release(reason.ClientGone)
		return err
	}
	if early { // bytes before our 101: nobody may have asked for what they say
		h.g.report.handshake(h.rt, "the client sent bytes before the answer", nil)
		_ = client.Close()
		up.close()
		live.Release(reason.ProtocolError)
		return nil
	}
	protocol := up.protocol
	if protocol == "" && h.a.Bearer {
		protocol = "bearer"
	}
	_ = client.SetDeadline(time.Now().Add(h.limits.WriteTimeout))
	if _, err := client.Write(switching(h.r, protocol, up.extensions, live.ID())); err != nil {
		_ = client.Close()
		up.close()
		live.Release(reason.ClientGone)
		return nil //nolint:nilerr // nobody is there to be answered
	}
	h.relay(live, client, nil, up)
	return nil
}

// whyNot prefers the end that the library gave the connection meanwhile over
// the failure it caused.
func whyNot(live *wsbouncer.Live, err error) error {
	if _, ended := live.Ended(); ended {
		if again := live.Open(); again != nil {
			return again
		}
	}
	return err
}

// relay starts the relay. From here on nothing of the handler is kept.
func (h *handshake) relay(live *wsbouncer.Live, client relay.Stream, fromClient []byte, up *dialled) {
	_ = client.SetDeadline(time.Time{})
	_ = up.conn.SetDeadline(time.Time{})
	cfg := relay.Config{
		Client: client, Upstream: up.conn, FromClient: fromClient, FromUpstream: up.early,
		Limits:      h.rt.limits(h.g.o.Bouncer),
		Compression: up.extensions != "", CheckUTF8: h.rt.UTF8Check, Wheel: h.g.wheel, Loops: h.g.o.Loops,
	}
	server := up.server
	inBand := newRefresher(h, live)
	if inBand != nil {
		cfg.InBand = inBand.message
	}
	if h.rt.Permissions != nil {
		cfg.Inspect = newInspector(h, live).inspect
	}
	cfg.OnEnd = func(end reason.End, s relay.Stats) {
		if inBand != nil {
			inBand.stop()
		}
		server.active.Add(-1)
		live.ClientBytes.Store(s.ClientBytes)
		live.UpstreamBytes.Store(s.UpstreamBytes)
		live.ClientMessages.Store(s.ClientMessages)
		live.UpstreamMessages.Store(s.UpstreamMessages)
		live.Release(end)
	}
	r := h.c.start(cfg)
	if inBand != nil {
		inBand.start(r)
	}
}

// onLoop is a ResponseWriter whose client is a socket of the relay's loops.
type onLoop interface {
	Socket() *relay.Socket
	Take() (s *relay.Socket, early bool, err error)
}

// socketOf is w's socket, nil where it has none.
func socketOf(w http.ResponseWriter) *relay.Socket {
	if w, ok := w.(onLoop); ok {
		return w.Socket()
	}
	return nil
}

// take takes the client from whoever accepted it. early: it has sent something
// already.
func take(w http.ResponseWriter) (c relay.Stream, early bool, err error) {
	if w, ok := w.(onLoop); ok {
		return w.Take()
	}
	return hijack(w)
}

// hijack takes the connection from net/http.
func hijack(w http.ResponseWriter) (c net.Conn, early bool, err error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, false, errors.Join(errors.New("taking over the connection"), err)
	}
	switch wrapped := c.(type) { // the relay wants the socket itself
	case *httpx.ProxiedConn:
		c = wrapped.TCPConn
	case interface{ Plain() (*net.TCPConn, bool) }:
		if tcp, plain := wrapped.Plain(); plain {
			c = tcp
		}
	}
	return c, rw != nil && rw.Reader.Buffered() > 0, nil
}

// switching is our 101 (RFC 6455 §4.2.2).
func switching(r *http.Request, protocol, extensions, cid string) []byte {
	b := append(make([]byte, 0, 512), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = append(b, acceptKey(r.Header.Get("Sec-Websocket-Key"))...)
	b = append(b, "\r\n"...)
	for _, h := range [...][2]string{{"Sec-WebSocket-Protocol", protocol}, {"Sec-WebSocket-Extensions", extensions}, {"X-Wsbouncer-Connection", cid}} {
		if h[1] != "" {
			b = append(append(append(append(b, h[0]...), ": "...), h[1]...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

// acceptKey is RFC 6455 §4.2.2, item 5.4.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(strings.TrimSpace(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec
	return base64.StdEncoding.EncodeToString(sum[:])
}

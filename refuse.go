package wsbouncer

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 §4.2.2 demands it; nothing secret depends on it
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Refuse answers a handshake with err: problem+json with the refusal's status
// and headers or, where d says RejectByClose and the handshake itself was in
// order, a 101 and a close code. An err without a *Refusal is a 500 that says
// nothing. It is the one place that answers refusals and tells the Observer.
func (b *Bouncer) Refuse(w http.ResponseWriter, r *http.Request, d Demand, err error) {
	var ref *Refusal
	if !errors.As(err, &ref) {
		b.log.Error("a handshake failed", slog.Any("error", err))
		httpx.WriteProblem(w, err)
		return
	}
	b.observe(b.refusedEvent(r, d, ref, err))
	if d.RejectByClose && ref.CloseCode != 0 && b.refuseByClose(w, r, ref) {
		return
	}
	if ref.Code == reason.BadHandshake.Code {
		// Whatever follows such a request on this connection is not believed.
		w.Header().Set("Connection", "close")
	}
	httpx.WriteProblem(w, ref)
}

func (b *Bouncer) refusedEvent(r *http.Request, d Demand, ref *Refusal, err error) Event {
	e := Event{
		Kind: "refused", Time: time.Now(), Route: d.Route, IP: b.peers.Addr(r),
		Origin: r.Header.Get("Origin"), Refusal: ref,
	}
	var known *refused
	if errors.As(err, &known) {
		e.Duration, e.CID = e.Time.Sub(known.began), known.cid
		if known.who != nil {
			e.Issuer, e.Subject, e.Session = known.who.Issuer, known.who.Subject, known.who.Session
		}
	}
	return e
}

const (
	// farewell is how long a peer has to answer our close frame before its
	// socket is cut.
	farewell = time.Second
	// farewellBytes is how much of what it still sends is read meanwhile.
	farewellBytes = 64 << 10
)

// refuseByClose accepts the WebSocket only to close it with a code that
// browsers show to their pages. False means that nothing was written.
func (b *Bouncer) refuseByClose(w http.ResponseWriter, r *http.Request, ref *Refusal) bool {
	// The gateway may refuse what Admit has not looked at: nothing but a sound
	// handshake of an allowed page is answered with a 101.
	if checkHandshake(r) != nil || !b.hosts.Allowed(r.Host) {
		return false
	}
	if origin, present, err := httpx.RequestOrigin(r.Header); err != nil || present && !b.origins.Allowed(origin) {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	defer conn.Close()
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(r.Header.Get("Sec-Websocket-Key")) + "\r\n"
	// Browsers fail a connection whose offered protocols were all passed over.
	var c carried
	c.readProtocols(r.Header["Sec-Websocket-Protocol"])
	switch {
	case c.at(inSubprotocol).n > 0:
		head += "Sec-WebSocket-Protocol: bearer\r\n"
	case len(c.protocols) > 0:
		head += "Sec-WebSocket-Protocol: " + c.protocols[0] + "\r\n"
	}
	_ = conn.SetDeadline(time.Now().Add(farewell))
	if _, err := conn.Write(frame.AppendClose([]byte(head+"\r\n"), ref.CloseCode, ref.Code, false)); err != nil {
		return true
	}
	// While it lingers it is one of its address's connections: who is refused a
	// thousand times a second does not hold a thousand sockets with it.
	if from := limit.IPKey(b.peers.Addr(r)); b.perIP.Acquire(from) {
		defer b.perIP.Release(from)
		awaitClose(conn, frame.NewScanner(frame.Options{FromClient: true}), nil)
	}
	return true
}

// awaitClose gives the client its time to answer our close frame.
func awaitClose(conn net.Conn, s frame.Scanner, held []byte) {
	_ = conn.SetReadDeadline(time.Now().Add(farewell))
	frame.AwaitClose(conn, s, held, farewellBytes)
}

// acceptKey is RFC 6455 §4.2.2, item 5.4.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(strings.TrimSpace(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec
	return base64.StdEncoding.EncodeToString(sum[:])
}

//go:build unix

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
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

// appProtocol is what the clients and the upstream speak, where they say so.
const appProtocol = "soak.v1"

// appCookie is the application's own, beside which a token travels.
const appCookie = "a=b"

// client is one connection from its client's side.
type client struct {
	w     *world
	id    uint64
	r     *rand.Rand // the life's own
	route string
	how   string // carrier and route, for the records
	conn  net.Conn
	in    reader
	cid   string

	opening, current *credential // the life's own

	write  sync.Mutex // a frame at a time
	pongs  chan []byte
	gate   sync.Mutex // held: nothing is read
	ended  chan struct{}
	ending ending // once ended is closed
	wg     sync.WaitGroup
	inBand chan string // the gateway's answers: ok, or a code

	number        uint64 // of the last message sent
	upstreamFails atomic.Bool
	unread        atomic.Bool // it stopped reading for a while
	vanished      bool
	silent        time.Time // since when it neither speaks nor answers
	closing       *ending   // what it said as goodbye

	mu        sync.Mutex
	pending   []sum // what must come back, in this order
	deadlines []deadline
	latest    time.Time // no deadline is later
}

// sum is what is remembered of a message.
type sum struct {
	op        frame.Opcode
	n         int
	hash      uint64
	forbidden bool
}

// deadline is one in force from when it was confirmed.
type deadline struct{ from, exp time.Time }

func (d deadline) String() string {
	return d.exp.Format(time.StampMilli) + " (from " + d.from.Format(time.StampMilli) + ")"
}

// ending is how a connection ended: by a close frame, or without one.
type ending struct {
	at   time.Time
	code uint16
	text string
	err  error
}

func (e ending) String() string {
	if e.err != nil {
		return fmt.Sprintf("no close frame (%v)", e.err)
	}
	return fmt.Sprintf("%d %q", e.code, e.text)
}

// refusedError is a handshake's answer other than 101.
type refusedError struct {
	status int
	code   string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused with %d %s", e.status, e.code) }

// upstream reports whether it was for want of an upstream.
func (e *refusedError) upstream() bool { return e.status >= 502 && e.status <= 504 || e.status == 1013 }

var hashSeed = maphash.MakeSeed()

func (w *world) newClient(r *rand.Rand) *client {
	return &client{
		w: w, id: w.ids.Add(1), r: r, pongs: make(chan []byte, 16), ended: make(chan struct{}), inBand: make(chan string, 4),
	}
}

// dial connects with a credential by a carrier. page, when not empty, is the
// Origin.
func (c *client) dial(cred *credential, path, carrier, page string) error {
	c.opening, c.current, c.route, c.how = cred, cred, path, carrier+" "+path
	var lines, query []string
	if page != "" {
		lines = append(lines, "Origin: "+page)
	}
	switch carrier {
	case "header":
		lines = append(lines, "Authorization: Bearer "+cred.raw, "Sec-WebSocket-Protocol: "+appProtocol)
	case "subprotocol":
		lines = append(lines, "Sec-WebSocket-Protocol: "+appProtocol+", bearer, "+cred.raw)
	case "query":
		query = append(query, "room=1", "token="+cred.raw)
	case "cookie":
		lines = append(lines, "Cookie: "+appCookie+"; "+c.w.gw.cookie()+"="+cred.raw)
	case "ticket":
		ticket, err := c.ticket(cred, path, lines)
		if err != nil {
			return err
		}
		query = append(query, "ticket="+ticket)
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	conn, err := c.w.gw.dial()
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := c.handshake(conn, path, carrier, lines); err != nil {
		conn.Close()
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	c.conn = conn
	c.confirm(cred.exp)
	c.w.here.Store(c.id, c)
	c.wg.Go(c.read)
	c.wg.Go(c.pong)
	return nil
}

func (c *client) ticket(cred *credential, path string, lines []string) (string, error) {
	var t struct{ Ticket string }
	status, err := c.w.post("/auth/ticket", map[string]any{"path": path}, cred.raw, &t, lines...)
	if err == nil && status != http.StatusOK {
		err = &refusedError{status, "at the ticket"}
	}
	return t.Ticket, err
}

func (c *client) handshake(conn net.Conn, target, carrier string, lines []string) error {
	head := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", target, c.w.gw.addr)
	for _, l := range lines {
		head += l + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	br := bufio.NewReaderSize(conn, 2048)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		var p struct{ Code string }
		b, _ := io.ReadAll(res.Body)
		_ = json.Unmarshal(b, &p)
		return &refusedError{res.StatusCode, p.Code}
	}
	c.in.br = br
	want := map[string]string{"header": appProtocol, "subprotocol": appProtocol}[carrier]
	c.cid = res.Header.Get("X-Wsbouncer-Connection")
	if c.cid == "" { // reject: close
		op, b, err := c.in.next()
		if err != nil || op != frame.Close {
			return fmt.Errorf("a 101 without a connection, then %v %q %w", op, b, err)
		}
		code, text, _ := frame.ParseClose(b)
		return &refusedError{int(code), text}
	}
	if got := res.Header.Get("Sec-WebSocket-Protocol"); got != want {
		return fmt.Errorf("the protocol is %q, not %q", got, want)
	}
	if carrier != "first_message" {
		return nil
	}
	auth, _ := json.Marshal(map[string]string{"wsbouncer": "auth", "token": c.opening.raw})
	if _, err := conn.Write(frame.Append(nil, frame.Text, auth, true)); err != nil {
		return err
	}
	for {
		op, b, err := c.in.next()
		switch {
		case err != nil:
			return err
		case op == frame.Ping:
			continue
		case op == frame.Close:
			code, text, _ := frame.ParseClose(b)
			return &refusedError{int(code), text}
		}
		if !strings.HasPrefix(string(b), `{"wsbouncer":"ok"`) {
			return fmt.Errorf("the answer to a first message is %q", b)
		}
		return nil
	}
}

// confirm notes that a deadline is in force.
func (c *client) confirm(exp time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines = append(c.deadlines, deadline{time.Now(), exp})
	if exp.After(c.latest) {
		c.latest = exp
	}
}

// maybe notes that a deadline may be in force from now on.
func (c *client) maybe(exp time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if exp.After(c.latest) {
		c.latest = exp
	}
}

// until is the latest moment at which the connection may be alive.
func (c *client) until() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared() {
		if t := time.Unix(0, c.opening.login.latest.Load()); t.After(c.latest) {
			return t
		}
	}
	return c.latest
}

// shared reports whether others of its session move it too, and so may set it
// on a token of theirs.
func (c *client) shared() bool { return strings.HasPrefix(c.route, "/session/") }

// marks are what ends the connection when it is revoked.
func (c *client) marks() []*mark {
	m := c.opening.marks()
	if c.current != c.opening && !c.shared() {
		m = append(m, c.current.token)
	}
	return m
}

// over reports whether nothing of this connection may be carried any more.
func (c *client) over() bool { return c.why() != "" }

// why says since what nothing of this connection may be carried any more.
func (c *client) why() string {
	for _, m := range c.marks() {
		if m.over() {
			return "revoked: " + m.value
		}
	}
	if late := time.Since(c.until()); late > 250*time.Millisecond+c.w.o.slack {
		return fmt.Sprintf("expired %v ago", late)
	}
	return ""
}

// read checks what comes until the end.
func (c *client) read() {
	defer close(c.ended)
	for {
		c.gate.Lock()
		c.gate.Unlock() //nolint:staticcheck // waits while it is held
		op, b, err := c.in.next()
		if err != nil {
			c.ending = ending{at: time.Now(), err: err}
			return
		}
		switch op {
		case frame.Ping:
			select {
			case c.pongs <- b:
			default: // one of many is enough
			}
		case frame.Pong:
		case frame.Close:
			e := ending{at: time.Now()}
			e.code, e.text, e.err = frame.ParseClose(b)
			c.ending = e
			select {
			case c.pongs <- nil:
			default:
			}
			return
		default:
			if err := c.came(op, b); err != nil {
				c.ending = ending{at: time.Now(), err: err}
				return
			}
		}
	}
}

func (c *client) came(op frame.Opcode, b []byte) error {
	if op == frame.Text && len(b) > 0 && b[0] == '{' {
		var m struct{ WSBouncer, Code string }
		if json.Unmarshal(b, &m) != nil {
			return fmt.Errorf("%w: %q", errIllegal, b)
		}
		if m.WSBouncer == "error" {
			m.WSBouncer = m.Code
		}
		if m.WSBouncer != "expiring" {
			select {
			case c.inBand <- m.WSBouncer:
			default:
			}
		}
		return nil
	}
	if len(b) == 5*13_000 && string(b[:5]) == "burst" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return fmt.Errorf("%w: a message of %d bytes that was not asked for", errIllegal, len(b))
	}
	want := c.pending[0]
	c.pending = c.pending[1:]
	if got := (sum{op, len(b), maphash.Bytes(hashSeed, b), want.forbidden}); got != want {
		return fmt.Errorf("%w: %v of %d bytes came back as %v of %d", errIllegal, want.op, want.n, got.op, got.n)
	}
	if want.forbidden {
		return fmt.Errorf("%w: the echo of a message that was sent after the end", errIllegal)
	}
	return nil
}

// pong answers pings and the close frame, apart from reading, which must go on
// while a write has to wait.
func (c *client) pong() {
	for {
		select {
		case b := <-c.pongs:
			if b == nil {
				_ = c.frame(frame.AppendClose(nil, c.endingCode(), "", true))
				return
			}
			_ = c.frame(frame.AppendPong(nil, b, true))
		case <-c.ended:
			if c.ending.err == nil {
				_ = c.frame(frame.AppendClose(nil, c.endingCode(), "", true))
			}
			return
		}
	}
}

func (c *client) endingCode() uint16 {
	<-c.ended
	if c.ending.code == 0 || c.ending.code == frame.NoStatus {
		return 1000
	}
	return c.ending.code
}

func (c *client) frame(b []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, err := c.conn.Write(b)
	return err
}

// say sends one message in so many frames.
func (c *client) say(command byte, size int, parts int) error {
	c.number++
	m := msg{command, c.over(), c.id, c.number}
	op := frame.Binary
	if c.r.IntN(4) == 0 && size < 100_000 {
		op = frame.Text
	}
	b := m.bytes(size, op == frame.Text, c.r)
	c.mu.Lock()
	c.pending = append(c.pending, sum{op, len(b), maphash.Bytes(hashSeed, b), m.forbidden})
	c.mu.Unlock()
	for i, f := range fragments(op, b, true, parts, c.r) {
		if i > 0 && c.r.IntN(3) == 0 {
			if err := c.frame(frame.AppendPing(nil, []byte("between"), true)); err != nil {
				return err
			}
		}
		if err := c.frame(f); err != nil {
			return err
		}
	}
	return nil
}

// goodbye begins the closing handshake.
func (c *client) goodbye(code uint16, text string) {
	c.closing = &ending{at: time.Now(), code: code, text: text}
	_ = c.frame(frame.AppendClose(nil, code, text, true))
}

// finish waits for the end and leaves.
func (c *client) finish() ending {
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		c.w.found.fault("client %d (%s): the connection does not end", c.id, c.how)
		c.conn.Close()
		<-c.ended
	}
	c.leave()
	return c.ending
}

// hangUp closes the socket without a word, as the system does for a program that
// was killed.
func (c *client) hangUp() {
	if t, ok := c.conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	c.conn.Close()
}

func (c *client) leave() {
	c.conn.Close()
	c.wg.Wait()
	c.w.here.Delete(c.id)
}

// early reports whether e came before the deadline that was in force then.
func (c *client) early(e ending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range slices.Backward(c.deadlines) {
		if d.from.Before(e.at) {
			return e.at.Before(d.exp)
		}
	}
	return true
}

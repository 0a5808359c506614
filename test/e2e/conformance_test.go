package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// encoded are the exchange's frames as writes; masked for a client's.
func (x exchange) encoded(frames []wire, masked bool) (writes [][]byte) {
	var whole []byte
	for i, f := range frames {
		h := frame.Header{Fin: f.first&0x80 != 0, RSV: f.first & 0x70, Op: frame.Opcode(f.first & 0x0f), Masked: masked, Length: int64(len(f.payload))}
		if masked {
			h.Mask = [4]byte{byte(i)*31 + 1, 0xa5, byte(i), 0x5a}
		}
		b := frame.AppendHeader(nil, h)
		n := len(b)
		b = append(b, f.payload...)
		if masked {
			frame.Mask(b[n:], h.Mask, 0)
		}
		if i == len(frames)-1 {
			b = b[:len(b)-x.cut]
		}
		if x.chop == frameWise {
			writes = append(writes, b)
		}
		whole = append(whole, b...)
	}
	switch x.chop {
	case frameWise:
		return writes
	case atOnce:
		return [][]byte{whole}
	}
	return slices.Collect(slices.Chunk(whole, x.chop))
}

// by says what a close frame must say, beside its code.
type by string

const (
	gateway by = "the gateway"
	either  by = "" // the peer may have been first
)

// play sends the exchange over c, as its client or its server, and says what was
// not as it must be.
func (x exchange) play(c net.Conn, br *bufio.Reader, masked bool, caughtBy by) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	came := make(chan struct{})
	waiting := x.waitFor
	var writing sync.WaitGroup
	writing.Go(func() {
		first, rest := x.send, []wire(nil)
		if x.later > 0 {
			first, rest = x.send[:x.later], x.send[x.later:]
		}
		if caughtBy == either && x.utf8 {
			rest = x.rest
		}
		for _, frames := range [][]wire{first, rest} {
			for _, w := range x.encoded(frames, masked) {
				if _, err := c.Write(w); err != nil {
					return // the reader says why
				}
			}
			if x.waitFor > 0 {
				<-came
			}
		}
	})
	defer writing.Wait()
	released := false
	release := func() {
		if !released {
			released = true
			close(came)
		}
	}
	defer release()
	defer c.Close()

	said := 0
	var message message
	open := false
	closed := x.closes()
	for {
		if said == waiting {
			release()
		}
		if said == len(x.back) && x.code == 1000 && !closed {
			closed = true
			writing.Wait()
			if _, err := c.Write(frame.AppendClose(nil, 1000, "", masked)); err != nil {
				return err
			}
		}
		f, err := readRaw(br)
		if err != nil {
			return fmt.Errorf("after %d of %d: %w", said, len(x.back), err)
		}
		if f.Masked == masked || f.RSV != 0 {
			return fmt.Errorf("received the header %+v", f.Header)
		}
		if f.Masked {
			frame.Mask(f.payload, f.Mask, 0)
		}
		switch {
		case f.Op == frame.Close:
			if err := x.ended(string(f.payload), said, caughtBy); err != nil {
				return err
			}
			if x.code != 1000 {
				return nil // whoever broke a rule is not understood any more
			}
			rest, err := io.ReadAll(br)
			if x.talksOn() && errors.Is(err, syscall.ECONNRESET) {
				err = nil // what it said after its last word was not read
			}
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("after the close frame came %q, %w", rest, err)
			}
			return nil
		case f.Op == frame.Pong:
			if said == len(x.back) || x.back[said].op != frame.Pong || x.back[said].payload != string(f.payload) {
				return fmt.Errorf("received the pong %q", f.payload)
			}
			said++
			continue
		case f.Op == frame.Continuation && open:
			message.payload += string(f.payload)
		case (f.Op == frame.Text || f.Op == frame.Binary) && !open:
			message.op, message.payload = f.Op, string(f.payload)
		default:
			return fmt.Errorf("received the header %+v, in a message: %t", f.Header, open)
		}
		if open = !f.Fin; open {
			continue
		}
		if said == len(x.back) || x.back[said].op != message.op || x.back[said].payload != message.payload {
			return fmt.Errorf("received %v %.80q", message.op, message.payload)
		}
		said++
	}
}

// ended judges the close frame that came.
func (x exchange) ended(payload string, said int, caughtBy by) error {
	code, reason, err := frame.ParseClose([]byte(payload))
	if err != nil {
		return err
	}
	codes := []uint16{x.code}
	if x.code == 1000 && x.closes() {
		// The peer's answer: its own word, or the one it was told.
		for _, f := range x.send {
			if f.first == 0x88 {
				told, _, _ := frame.ParseClose([]byte(f.payload))
				codes = append(codes, told)
				break
			}
		}
	}
	if !slices.Contains(codes, code) {
		return fmt.Errorf("closed with %d %q, want %d", code, reason, codes)
	}
	if want := map[uint16]string{1002: "protocol_error", 1007: "invalid_payload"}[x.code]; caughtBy == gateway && x.code != 1000 && reason != want {
		return fmt.Errorf("closed with %d %q, which is not the gateway's word", code, reason)
	}
	if said < len(x.back) && !x.lenient && x.id != "7.1.6" { // there it is open what comes of the rest
		return fmt.Errorf("closed after %d of %d", said, len(x.back))
	}
	return nil
}

// careless answers with whatever it gets: frames that are none, codes that are
// none. It notes what should never have reached it.
func careless(illegal *tally[string]) func(*upConn) {
	return func(c *upConn) {
		c.accept()
		open := false
		for {
			f, err := readRaw(c.br)
			if err != nil {
				return
			}
			control := f.Op.IsControl()
			if !f.Masked || f.RSV != 0 || f.Op > frame.Pong || f.Op > frame.Binary && f.Op < frame.Close || control && (!f.Fin || f.Length > frame.MaxControl) || !control && open != (f.Op == frame.Continuation) {
				illegal.add(fmt.Sprintf("%s: %+v", c.query(), f.Header))
			}
			if !control {
				open = !f.Fin
			}
			frame.Mask(f.payload, f.Mask, 0)
			if f.Op == frame.Close {
				if _, _, err := frame.ParseClose(f.payload); err != nil {
					illegal.add(fmt.Sprintf("%s: close frame %q", c.query(), f.payload))
				}
			}
			f.Masked = false
			switch f.Op {
			case frame.Ping:
				f.Op = frame.Pong
			case frame.Pong:
				continue
			}
			if _, err := c.Write(append(frame.AppendHeader(nil, f.Header), f.payload...)); err != nil || f.Op == frame.Close {
				return
			}
		}
	}
}

// correct is a peer that keeps all of RFC 6455, by another package. ended gets
// what ended it.
type correct struct {
	gws.BuiltinEventHandler
	ended chan error
}

func (h *correct) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

func (h *correct) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}

func (h *correct) OnClose(_ *gws.Conn, err error) {
	if h.ended != nil {
		h.ended <- err
	}
}

// silent keeps gws from telling the test's output what the peer did.
type silent struct{}

func (silent) Error(...any) {}

func correctUpstream(c *upConn) {
	u := gws.NewUpgrader(&correct{}, &gws.ServerOption{CheckUtf8Enabled: true, Logger: silent{}})
	conn, err := u.UpgradeFromConn(c.Conn, c.br, c.req)
	if err != nil {
		return
	}
	conn.ReadLoop()
}

// abreast runs f for every exchange, some at a time.
func abreast(all []exchange, f func(exchange)) {
	next := make(chan exchange)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for x := range next {
				f(x)
			}
		})
	}
	for _, x := range all {
		next <- x
	}
	close(next)
	workers.Wait()
}

func TestExchangesAreAll(t *testing.T) {
	seen := map[string]bool{}
	for _, x := range exchanges() {
		if seen[x.id] {
			t.Errorf("%s is there twice", x.id)
		}
		if seen[x.id] = true; strings.Contains(x.id, " ") { // of our own
			delete(seen, x.id)
		}
	}
	if len(seen) != 247 {
		t.Errorf("%d exchanges, the list's groups 1 to 7 and 10 have 247", len(seen))
	}
}

const conformanceRoutes = `
  - {path: /check, upstream: "ws://UPSTREAM", utf8: check}
  - {path: /pass, upstream: "ws://UPSTREAM"}
`

// FRM-01, FRM-02, FRM-05, FRM-06, FRM-07: a client of every kind, before an
// upstream that keeps the protocol and one that does not care.
func TestFRM01FRM02ExchangesFromAClient(t *testing.T) {
	t.Parallel()
	var illegal tally[string]
	for name, serve := range map[string]func(*upConn){"correct": correctUpstream, "careless": careless(&illegal)} {
		t.Run(name, func(t *testing.T) {
			s, iss := gate(t, newUpstream(t, serve), conformanceRoutes)
			token := bearer(iss.token())
			for _, path := range []string{"/check", "/pass"} {
				began := time.Now()
				abreast(exchanges(), func(x exchange) {
					caughtBy := gateway
					if x.utf8 && path == "/pass" {
						if name == "careless" {
							return // nobody looks
						}
						caughtBy = either
					}
					if x.cut > 0 && caughtBy == either {
						return // which it cannot see before the frame ends
					}
					c, err := s.dial(path+"?"+url.QueryEscape(x.id), token)
					if err != nil {
						t.Errorf("%s: %v", x.id, err)
						return
					}
					if err := x.play(c.conn, c.br, true, caughtBy); err != nil {
						t.Errorf("%s %s: %v", x.id, path, err)
					}
				})
				t.Logf("%s: %v", path, time.Since(began))
			}
		})
	}
	for _, what := range illegal.list() {
		t.Errorf("the upstream received %s", what)
	}
}

// FRM-03: the same from an upstream, to a client that keeps the protocol and
// would say so if somebody did not.
func TestFRM03ExchangesFromAnUpstream(t *testing.T) {
	t.Parallel()
	byID := map[string]exchange{}
	for _, x := range exchanges() {
		byID[x.id] = x
	}
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		x := byID[c.query()]
		caughtBy := gateway
		if x.utf8 && c.req.URL.Path == "/pass" {
			caughtBy = either
		}
		if err := x.play(c.Conn, c.br, false, caughtBy); err != nil {
			c.up.t.Errorf("%s %s: %v", x.id, c.req.URL.Path, err)
		}
	})
	s, iss := gate(t, up, conformanceRoutes)
	header := http.Header{"Authorization": {"Bearer " + iss.token()}}
	for _, path := range []string{"/check", "/pass"} {
		began := time.Now()
		abreast(exchanges(), func(x exchange) {
			if x.cut > 0 && path == "/pass" {
				return
			}
			h := &correct{ended: make(chan error, 1)}
			conn, _, err := gws.NewClient(h, &gws.ClientOption{
				Addr: "ws://" + s.addr + path + "?" + url.QueryEscape(x.id), RequestHeader: header, CheckUtf8Enabled: true, Logger: silent{}, HandshakeTimeout: patience,
			})
			if err != nil {
				t.Errorf("%s: %v", x.id, err)
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			conn.ReadLoop()
			err = <-h.ended
			var closed *gws.CloseError
			switch {
			case x.utf8 && path == "/pass": // it is the client that looks
			case errors.As(err, &closed):
				if closed.Code != x.code && x.code != 1000 {
					t.Errorf("%s %s: the client was closed with %d %q, want %d", x.id, path, closed.Code, closed.Reason, x.code)
				}
			case x.cut > 0 && !errors.Is(err, os.ErrDeadlineExceeded):
				// No close frame can stand inside the frame that turned out to be bad.
			default:
				t.Errorf("%s %s: the client ended with %v", x.id, path, err)
			}
		})
		t.Logf("%s: %v", path, time.Since(began))
	}
}

// dial is connect for other goroutines than the test's.
func (s *server) dial(target string, lines ...string) (*client, error) {
	conn, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: s.t, conn: conn, br: bufio.NewReader(conn)}
	if _, err := io.WriteString(conn, s.upgrade(target, lines...)); err != nil {
		conn.Close()
		return nil, err
	}
	a, err := c.tryResponse()
	if err == nil && a.status != http.StatusSwitchingProtocols {
		err = fmt.Errorf("status %d: %s", a.status, a.body)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// query is the whole query, unescaped.
func (c *upConn) query() string {
	q, _ := url.QueryUnescape(c.req.URL.RawQuery)
	return q
}

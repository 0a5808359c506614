package e2e_test

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// loaded is what a busy test machine may add to a bound of time.
const loaded = 2 * time.Second

// ending is how a connection ended at the client.
type ending struct {
	at    time.Time // of the close frame
	code  uint16
	text  string
	data  []arrival // before it; not those of a flood
	after int       // bytes behind it
	err   error     // instead of it
}

type arrival struct {
	message
	at time.Time
}

// watch reads to the end in the background. Pings are answered.
func (c *client) watch() <-chan ending {
	out := make(chan ending, 1)
	go func() {
		var e ending
		defer func() { out <- e }()
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		for {
			m, err := readFrame(c.br)
			switch {
			case err != nil:
				e.err = err
				return
			case m.op == frame.Ping:
				_, _ = c.conn.Write(frame.AppendPong(nil, []byte(m.payload), true))
			case m.op == frame.Close:
				e.at = time.Now()
				e.code, e.text, e.err = frame.ParseClose([]byte(m.payload))
				_, _ = c.conn.Write(frame.AppendClose(nil, e.code, "", true))
				rest, _ := io.ReadAll(c.br)
				e.after = len(rest)
				return
			case m.op != frame.Pong && !strings.HasPrefix(m.payload, "#"):
				e.data = append(e.data, arrival{m, time.Now()})
			}
		}
	}()
	return out
}

// want demands an ending by code and reason, with nothing behind it.
func (e ending) want(t testing.TB, code uint16, text string) ending {
	t.Helper()
	if e.err != nil || e.code != code || e.text != text || e.after != 0 {
		t.Errorf("ended with %d %q (%v) and %d bytes more, want %d %q", e.code, e.text, e.err, e.after, code, text)
	}
	return e
}

// numbered is a message of a flood.
func numbered(n int64) []byte { return []byte("#" + strconv.FormatInt(n, 10)) }

func numberOf(payload string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(payload, "#"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// pace lets ten messages pass in a millisecond. Whoever is more than a second
// behind with reading is cut without a close frame, and a test that floods as
// fast as it can is, on a busy machine.
func pace() (next func(), stop func()) {
	tick := time.NewTicker(time.Millisecond)
	n := 0
	return func() {
		if n++; n%10 == 0 {
			<-tick.C
		}
	}, tick.Stop
}

// flood sends numbered messages until the connection ends; sent is the highest
// number whose writing began.
func (c *client) flood(sent *atomic.Int64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		next, stop := pace()
		defer stop()
		for {
			next()
			if _, err := c.conn.Write(frame.Append(nil, frame.Text, numbered(sent.Add(1)), true)); err != nil {
				return
			}
		}
	}()
	return done
}

// pour sends numbered messages at the same pace, until a close frame came or the
// connection ended.
func pour(c *upConn) {
	c.accept()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.listen()
	}()
	next, stop := pace()
	defer stop()
	for n := int64(1); ; n++ {
		select {
		case <-done:
			return
		default:
		}
		next()
		if _, err := c.Write(frame.Append(nil, frame.Text, numbered(n), false)); err != nil {
			<-done
			return
		}
	}
}

// sink accepts and records, and says nothing.
func sink(c *upConn) {
	c.accept()
	c.listen()
}

const liveRoutes = `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /pour, upstream: "ws://UPSTREAM"}
  - {path: /sink, upstream: "ws://UPSTREAM"}
`

func liveUpstream(t *testing.T) *upstream {
	return newUpstream(t, script{"/pour": pour, "/sink": sink}.serve)
}

// SES-01: whatever a connection is doing, it ends when its token does: never
// early, and both sides are told the same.
func TestSES01EndsWithItsToken(t *testing.T) {
	t.Parallel()
	up := liveUpstream(t)
	s, iss := gate(t, up, liveRoutes)
	deadline := time.Unix(time.Now().Unix()+3, 0)
	token := func(sub string) string { return bearer(iss.token(claims{"exp": deadline.Unix(), "sub": sub})) }
	conns := map[string]*client{
		"idle":      s.connect("/chat", token("a")),
		"sending":   s.connect("/sink", token("b")),
		"echoing":   s.connect("/chat", token("c")),
		"receiving": s.connect("/pour", token("d")),
	}
	var sent atomic.Int64
	floods := []<-chan struct{}{conns["sending"].flood(&sent), conns["echoing"].flood(&sent)}
	endings := map[string]<-chan ending{}
	for name, c := range conns {
		endings[name] = c.watch()
	}
	for name, c := range conns {
		e := (<-endings[name]).want(t, 3000, "token_expired")
		switch late := e.at.Sub(deadline); {
		case late < 0:
			t.Errorf("%s: closed %v before the deadline", name, -late)
		case late > 250*time.Millisecond+loaded:
			t.Errorf("%s: closed %v after the deadline", name, late)
		}
		up.of(c).closed(3000, "token_expired")
	}
	for _, done := range floods {
		<-done
	}
	s.refused(401, "token_expired", "/chat", token("a"))
}

// The close frame stands between frames: expiry lets a frame under way finish,
// within a second.
func TestSES01WaitsForTheFrameUnderWay(t *testing.T) {
	t.Parallel()
	half := func(finish bool) func(*upConn) {
		return func(c *upConn) {
			c.accept()
			whole := appendFrame(nil, message{frame.Text, true, strings.Repeat("x", 1000)}, false)
			_, _ = c.Write(whole[:500])
			// The other direction is between frames, so the end is known here.
			if m, err := c.next(); err != nil || m.op != frame.Close {
				c.up.t.Errorf("received %v %v", m, err)
			}
			if finish {
				_, _ = c.Write(append(whole[500:], "\x81\x05later"...))
				_, _ = c.Write(frame.AppendClose(nil, 3000, "", false))
			} else {
				_, _ = io.Copy(io.Discard, c.br)
			}
		}
	}
	up := newUpstream(t, script{"/sink": half(true), "/pour": half(false)}.serve)
	s, iss := gate(t, up, liveRoutes)
	deadline := time.Unix(time.Now().Unix()+2, 0)
	token := bearer(iss.token(claims{"exp": deadline.Unix()}))
	finishes, hangs := s.connect("/sink", token), s.connect("/pour", token)

	e := (<-finishes.watch()).want(t, 3000, "token_expired")
	if e.at.Before(deadline) || len(e.data) != 1 || len(e.data[0].payload) != 1000 {
		t.Errorf("before the close frame came %d messages", len(e.data))
	}
	if h, err := readHeaderOnly(hangs); err != nil || h.Length != 1000 {
		t.Fatal(h, err)
	}
	rest, _ := io.ReadAll(hangs.br)
	if len(rest) != 496 {
		t.Errorf("%d bytes of the frame came, want 496 and then the end", len(rest))
	}
}

// A revocation does not wait for the frame: what is under way is cut where it
// stands, and no close frame is put inside it.
func TestSES10RevocationCutsTheFrameUnderWay(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		_, _ = c.Write(appendFrame(nil, message{frame.Binary, true, strings.Repeat("\x88", size)}, false))
		c.listen()
	})
	s, iss := gate(t, up, `
  - {path: /big, upstream: "ws://UPSTREAM", limits: {message_bytes: 64MiB}}
`)
	c := s.connect("/big", bearer(iss.token()))
	if h, err := readHeaderOnly(c); err != nil || h.Length != size {
		t.Fatal(h, err)
	}
	if n := s.revoke(iss, "session", "s1"); n != 1 {
		t.Fatalf("%d connections closed", n)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	n, read := 0, make([]byte, 64<<10)
	for {
		k, err := c.br.Read(read)
		if bytes.Count(read[:k], []byte{0x88}) != k {
			t.Fatal("something else stands inside the frame")
		}
		if n += k; err != nil {
			break
		}
	}
	if n >= size {
		t.Errorf("all %d bytes came after the revocation", n)
	}
}

// SES-11: no token and no activity keeps a connection for ever.
func TestSES11LifetimeAndIdle(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /life, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {lifetime: 2s}}
  - {path: /idle, upstream: "ws://UPSTREAM", limits: {idle_timeout: 1s}}
  - {path: /polite, upstream: "ws://UPSTREAM", limits: {idle_timeout: 4s}}
`)
	token := bearer(iss.token())
	began := time.Now()
	life := s.connect("/life", token)
	later := inSeconds(600)
	idleBegan := time.Now()
	silent := s.connect("/idle", token)
	politeBegan := time.Now()
	polite := s.connect("/polite", token)

	pings := 0
	for {
		m, err := silent.next()
		if err != nil {
			t.Fatal(err)
		}
		if m.op == frame.Ping {
			pings++
			continue
		}
		if code, text, err := frame.ParseClose([]byte(m.payload)); m.op != frame.Close || err != nil || code != 1001 || text != "idle" {
			t.Fatalf("closed with %d %s (%v)", code, text, err)
		}
		break
	}
	if d := time.Since(idleBegan); d < time.Second || d > time.Second+loaded {
		t.Errorf("idle after %v", d)
	}
	if pings < 1 || pings > 3 {
		t.Errorf("%d pings before", pings)
	}
	up.of(silent).closed(1001, "idle")

	life.text(refreshMessage(iss.token(expires(later))))
	if v := life.reply(); v["wsbouncer"] == "expiring" {
		v = life.reply()
		if v["wsbouncer"] != "ok" {
			t.Fatal(v)
		}
	}
	e := (<-life.watch()).want(t, 1001, "lifetime")
	if d := e.at.Sub(began); d < 2*time.Second || d > 2*time.Second+loaded {
		t.Errorf("lifetime over after %v", d)
	}
	up.of(life).closed(1001, "lifetime")
	// Pinged at a third of the time-out, a client that answers outlives it.
	for range 4 {
		m, err := polite.next()
		if err != nil || m.op != frame.Ping {
			t.Fatalf("instead of a ping: %v %q %v", m.op, m.payload, err)
		}
		polite.frame(frame.Pong, true, m.payload)
	}
	if d := time.Since(politeBegan); d < 4*time.Second {
		t.Errorf("four pings in %v", d)
	}
	polite.alive()
}

package e2e_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// from opens a WebSocket from another loopback address.
func (s *server) from(ip, target string, lines ...string) (*client, *answer) {
	s.t.Helper()
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	conn, err := d.DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: s.t, conn: conn, br: bufio.NewReader(conn)}
	return c, c.send(s.upgrade(target, lines...)).response()
}

// busy demands a refusal that says when to come back.
func (a *answer) busy(t *testing.T, status int, code string) {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != status || a.code() != code || err != nil || seconds < 1 {
		t.Errorf("%d %q, Retry-After %q; want %d %q", a.status, a.code(), a.header.Get("Retry-After"), status, code)
	}
}

// DOS-03: connections are counted by subject, address and node; a place is free
// again when its connection has ended.
func TestDOS03Connections(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /down, upstream: "ws://`+freeAddr(t)+`"}
`, "connections_per_subject: 3", "connections_per_ip: 6", "connections: 8")
	token := func(sub, sid string) string { return bearer(iss.token(claims{"sub": sub, "sid": sid})) }
	_, a := s.from("127.0.0.9", "/down", token("alice", "s1"))
	if a.status != 502 { // and its place is free again
		t.Fatal(a.status)
	}

	var alice []*client
	for range 3 {
		alice = append(alice, s.connect("/chat", token("alice", "s1")).alive())
	}
	_, a = s.handshake("/chat", token("alice", "s2"))
	a.busy(t, 429, "too_many_connections")
	// One more of the same session is a reconnect: the oldest goes for it.
	alice = append(alice, s.connect("/chat", token("alice", "s1")).alive())
	alice[0].closes(1013, "overloaded")
	alice[1].alive()

	for i := range 3 {
		s.connect("/chat", token("bob"+strconv.Itoa(i), "s3")).alive()
	}
	_, a = s.handshake("/chat", token("carl", "s4"))
	a.busy(t, 429, "too_many_connections")
	_, a = s.handshake("/chat", token("carl", "s4"), "X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1")
	a.busy(t, 429, "too_many_connections")
	for range 2 {
		if _, a = s.from("127.0.0.2", "/chat", token("carl", "s4")); a.status != 101 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	_, a = s.from("127.0.0.2", "/chat", token("carl", "s4"))
	a.busy(t, 503, "overloaded")

	alice[1].conn.Close()
	eventually(t, "a free place", func() bool {
		_, a := s.handshake("/chat", token("dora", "s5"))
		return a.status == 101
	})
	_, a = s.handshake("/chat", token("dora", "s5"))
	if a.status != 503 && a.status != 429 {
		t.Errorf("one place was free twice: %d", a.status)
	}
}

// DOS-02: a client that says too much is closed, and others do not notice.
func TestDOS02Rates(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /messages, upstream: "ws://UPSTREAM", limits: {message_rate: {rate: 1/s, burst: 20}}}
  - {path: /bytes, upstream: "ws://UPSTREAM", limits: {byte_rate: {rate: 1KiB/s, burst: 64KiB}}}
  - {path: /default, upstream: "ws://UPSTREAM", limits: {message_rate: {rate: 200/s, burst: 400}}}
`)
	token := bearer(iss.token())
	other := s.connect("/messages", token)
	refused := map[*client]<-chan ending{}
	for name, raw := range map[string]string{
		"/messages":   strings.Repeat(plainly(0x81, "x"), 60),
		"/messages?2": strings.Repeat(plainly(0x89, "x"), 60),
		"/messages?3": strings.Repeat(plainly(0x8a, ""), 60),
		"/bytes":      strings.Repeat(plainly(0x82, strings.Repeat("x", 10_000)), 15),
		"/bytes?2":    plainly(0x82, strings.Repeat("x", 150_000)), // one message
		"/default":    strings.Repeat(plainly(0x89, strings.Repeat("x", 125)), 5000),
	} {
		c := s.connect(name, token)
		for range 10 { // what is allowed is carried
			c.text("y").receives("y")
		}
		refused[c] = c.watch()
		_, _ = io.WriteString(c.conn, raw)
	}
	for c, ends := range refused {
		(<-ends).want(t, 1008, "rate_limited")
		uc := up.of(c)
		uc.ended()
		if n := len(uc.got()); n > 450 {
			t.Errorf("%s: the upstream received %d frames", uc.req.URL.Path, n)
		}
	}
	other.alive()
}

// DOS-03: handshakes are counted by address, whatever comes of them.
func TestDOS03Handshakes(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`, "handshakes_per_ip: {rate: 1/s, burst: 8}")
	token := bearer(iss.token())
	counts := map[int]int{}
	for i := range 12 {
		lines := []string{fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", i)}
		if i%2 == 0 {
			lines = append(lines, token)
		}
		_, a := s.handshake("/chat", lines...)
		if counts[a.status]++; a.status == 429 {
			a.busy(t, 429, "too_many_handshakes")
		}
	}
	if counts[101] < 4 || counts[401] < 4 || counts[429] < 1 || counts[429] > 4 {
		t.Errorf("answers by status: %v", counts)
	}
	if up.count() != counts[101] {
		t.Errorf("%d connections reached the upstream for %d handshakes", up.count(), counts[101])
	}
	s.connect("/close", token).closes(1013, "too_many_handshakes")
	if _, a := s.from("127.0.0.2", "/chat", token); a.status != 101 {
		t.Errorf("another address: %d", a.status)
	}
	eventually(t, "the rate to allow another", func() bool {
		_, a := s.handshake("/chat", token)
		return a.status == 101
	})
}

// DOS-04: a client has handshake_timeout for its request, however it spends it.
func TestDOS04SlowClients(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM"}
`, "handshake_timeout: 1s")
	head := s.upgrade("/chat", bearer(iss.token()))
	stop := make(chan struct{})
	defer close(stop)
	drip := func(c *client, text string) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte(text) {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if _, err := c.conn.Write([]byte{b}); err != nil {
				return
			}
		}
	}
	began := time.Now()
	slow := map[string]*client{"silent": s.raw(), "half": s.raw().send(head[:len(head)/2]), "drip": s.raw(), "body": s.raw()}
	go drip(slow["drip"], head)
	slow["body"].send("POST /auth/login HTTP/1.1\r\nHost: " + s.addr + "\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	go drip(slow["body"], strings.Repeat(" ", 1000))
	s.connect("/chat", bearer(iss.token())).alive() // nobody else waits
	for name, c := range slow {
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		b, err := io.ReadAll(c.br)
		if err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: not closed", name)
		}
		if strings.Contains(string(b), "101 Switching") {
			t.Errorf("%s: was answered %q", name, b)
		}
	}
	if d := time.Since(began); d > 2*time.Second+loaded {
		t.Errorf("closed after %v", d)
	}
	if up.count() != 1 {
		t.Errorf("%d connections reached the upstream", up.count())
	}
}

// stuffing is a large message of a side that sends without end.
var stuffing = strings.Repeat("0123456789abcdef", 4<<10)

// DOS-05, DOS-06: who does not read costs a buffer for write_timeout, and slows
// down who sends, in either direction and also with control frames alone.
func TestDOS05DOS06WhoDoesNotRead(t *testing.T) {
	t.Parallel()
	// stuff writes until that fails and says how much went before the first
	// write that had to wait: what comes after the cut is thrown away.
	stuff := func(c net.Conn, b []byte) (taken int64) {
		slowed := false
		for {
			began := time.Now()
			n, err := c.Write(b)
			if slowed = slowed || time.Since(began) > 300*time.Millisecond; !slowed {
				taken += int64(n)
			}
			if err != nil {
				if !slowed {
					return math.MaxInt64
				}
				return taken
			}
		}
	}
	var poured tally[int64]
	// What the other side says last is read beside.
	beside := func(b []byte) func(*upConn) {
		return func(c *upConn) {
			c.accept()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					if _, err := c.next(); err != nil {
						return
					}
				}
			}()
			poured.add(stuff(c, b))
			<-done
		}
	}
	deaf := make(chan struct{})
	up := newUpstream(t, script{
		"/data":  beside(frame.Append(nil, frame.Binary, []byte(stuffing), false)),
		"/pings": beside(bytes.Repeat(frame.AppendPing(nil, []byte(stuffing[:125]), false), 500)),
		"/deaf":  func(c *upConn) { c.accept(); <-deaf },
	}.serve)
	defer close(deaf)
	s, iss := gate(t, up, `
  - {path: /data, upstream: "ws://UPSTREAM", limits: {write_timeout: 1s}}
  - {path: /pings, upstream: "ws://UPSTREAM", limits: {write_timeout: 1s}}
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {write_timeout: 1s}}
  - {path: /deaf, upstream: "ws://UPSTREAM", limits: {write_timeout: 1s}}
  - {path: /echo, upstream: "ws://UPSTREAM", limits: {write_timeout: 1s}}
`)
	token := bearer(iss.token())
	s.connect("/echo", token).alive()
	before := s.resident()
	began := time.Now()
	var conns []*client
	for _, path := range []string{"/data", "/pings", "/data", "/pings", "/data"} {
		conns = append(conns, s.connect(path, token))
	}
	// Pings whose pongs are not read, and data that nobody takes.
	floods := map[string][]byte{
		"/echo": bytes.Repeat(frame.AppendPing(nil, []byte(stuffing[:125]), true), 500),
		"/deaf": frame.Append(nil, frame.Binary, []byte(stuffing), true),
	}
	sent := map[string]int64{}
	for path, b := range floods {
		c := s.connect(path, token)
		sent[path] = stuff(c.conn, b)
		if d := time.Since(began); d < time.Second {
			t.Errorf("%s: cut after %v", path, d)
		}
		if path == "/deaf" {
			// The upstream does not read, so the client is told.
			if m, err := c.next(); err == nil && m.payload != "\x03\xf5upstream_gone" {
				t.Errorf("%v %q", m.op, m.payload)
			}
		}
	}
	grown := s.resident() - before
	for _, c := range conns {
		uc := up.of(c)
		uc.closed(1001, "client_gone")
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("all were cut after %v", d)
	}
	const most = 32 << 20 // what the kernel holds for two loopback connections
	var all []int64
	eventually(t, "all upstreams to be cut", func() bool { all = poured.list(); return len(all) == len(conns) })
	for _, n := range all {
		if n > most {
			t.Errorf("%d MiB were taken from an upstream that nobody listened to", n>>20)
		}
	}
	for path, n := range sent {
		if n > 2*most { // on its way there and back
			t.Errorf("%s: %d MiB were taken from a client", path, n>>20)
		}
	}
	bound := int64(16 << 20)
	if raceEnabled { // which throws pooled buffers away at random
		bound *= 20
	}
	t.Logf("grown by %d MiB, poured %v, sent %v", grown>>20, all, sent)
	if grown > bound {
		t.Errorf("the gateway grew by %d MiB", grown>>20)
	}
	s.connect("/echo", token).alive()
}

// HS-11: when one side of a connection dies the other ends, and nothing of it
// is left.
func TestHS11OneSideDies(t *testing.T) {
	t.Parallel()
	const many = 200
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		for { // and keeps its side open, whatever the other does
			if m, err := c.next(); err != nil || m.payload == "die" {
				if err == nil && len(c.head)%2 == 0 {
					_ = c.Conn.(*net.TCPConn).SetLinger(0)
				}
				return
			}
		}
	})
	s, iss := gate(t, up, `
  - {path: "/c/{n}", upstream: "ws://UPSTREAM"}
`)
	token := bearer(iss.token())
	open := func() (conns []*client) {
		for i := range many {
			conns = append(conns, s.connect("/c/"+strings.Repeat("x", 1+i%2), token))
		}
		return conns
	}
	s.connect("/c/x", token).frame(frame.Close, true, "").conn.Close()
	before := 0
	eventually(t, "quiet", func() bool {
		n := s.descriptors()
		quiet := n == before
		before = n
		return quiet
	})
	settled := func(what string) {
		t.Helper()
		eventually(t, what+": descriptors as before", func() bool { return s.descriptors() <= before+5 })
	}

	began := time.Now()
	for i, c := range open() {
		if i%2 == 0 {
			_ = c.conn.(*net.TCPConn).SetLinger(0)
		}
		c.conn.Close()
	}
	up.mu.Lock()
	all := append([]*upConn(nil), up.conns...)
	up.mu.Unlock()
	for _, uc := range all {
		uc.ended()
	}
	settled("clients gone")

	conns := open()
	for _, c := range conns {
		c.text("die")
	}
	for _, c := range conns {
		if e := <-c.watch(); e.err == nil {
			e.want(t, 1013, "upstream_gone")
		} else {
			t.Errorf("ended with %v", e.err)
		}
	}
	settled("upstreams gone")
	if d := time.Since(began); d > 2*patience {
		t.Errorf("it took %v", d)
	}
}

// PRX-05: a program that is told to stop takes nobody in, tells everybody to
// come back, a few at a time, and leaves no message half written.
func TestPRX05Drain(t *testing.T) {
	t.Parallel()
	up := liveUpstream(t)
	s, iss := gate(t, up, liveRoutes)
	s.stop()
	text, err := os.ReadFile(filepath.Join(s.dir, "wsbouncer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.file("wsbouncer.yaml", strings.Replace(string(text), "drain: 0s", "drain: 2s", 1))
	if !s.run() {
		t.Fatal(s.log)
	}
	// Many that are silent, then two that send and two that receive.
	const many = 44
	var conns []*client
	var ends []<-chan ending
	var sent [many]atomic.Int64
	var floods []<-chan struct{}
	token := func(i int) string { return bearer(iss.token(claims{"sub": strconv.Itoa(i)})) }
	for i := range many {
		path := "/chat"
		switch {
		case i >= many-2:
			path = "/pour"
		case i >= many-4:
			path = "/sink"
		}
		c := s.connect(path, token(i))
		conns, ends = append(conns, c), append(ends, c.watch())
		if path == "/sink" {
			floods = append(floods, c.flood(&sent[i]))
		}
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool { return s.call("GET", "/readyz", nil).status == 503 })
	_, a := s.handshake("/chat", token(1))
	a.busy(t, 503, "not_ready")
	if s.call("GET", "/healthz", nil).status != 200 {
		t.Error("a draining program is alive")
	}

	var first, last time.Time
	for _, e := range ends {
		at := (<-e).want(t, 1012, "restarting").at
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if d := last.Sub(first); d < 500*time.Millisecond || d > 2*time.Second+loaded {
		t.Errorf("they were told over %v, drain is 2 s", d)
	}
	for _, done := range floods {
		<-done
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, c := range conns {
		uc := up.of(c)
		uc.closed(1012, "restarting")
		next := int64(1)
		for _, m := range uc.got() {
			if !m.op.IsControl() && numberOf(m.payload) != next {
				t.Fatalf("received %q instead of number %d", m.payload, next)
			} else if !m.op.IsControl() {
				next++
			}
		}
	}
	if c, err := net.DialTimeout("tcp", s.addr, patience); err == nil {
		c.Close()
		t.Error("somebody still listens")
	}
}

// DOS-08: a head above its limit is refused at once, and long lists in it cost
// nothing.
func TestDOS08Heads(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM", compression: pass}
`, "header_bytes: 32KiB")
	token := bearer(iss.token())
	for name, lines := range map[string][]string{
		"2000 headers": strings.Split(strings.TrimSuffix(strings.Repeat("X-Header: some value of a header\n", 2000), "\n"), "\n"),
		"1 MB header":  {"X-Long: " + strings.Repeat("x", 1<<20)},
		"1 MB target":  nil,
	} {
		target := "/chat"
		if lines == nil {
			target += "?" + strings.Repeat("x", 1<<20)
		}
		c := s.raw()
		began := time.Now()
		_, _ = io.WriteString(c.conn, s.upgrade(target, append(lines, token)...))
		if a, err := c.tryResponse(); err != nil || a.status != 431 && a.status != 400 {
			t.Errorf("%s: %+v %v", name, a, err)
		}
		if d := time.Since(began); d > 50*time.Millisecond+loaded {
			t.Errorf("%s: answered after %v", name, d)
		}
	}
	if up.count() != 0 {
		t.Errorf("%d of them reached the upstream", up.count())
	}
	for _, list := range []string{
		"Sec-WebSocket-Extensions: permessage-deflate" + strings.Repeat("; a=b", 4000),
		"Sec-WebSocket-Extensions: " + strings.Repeat("a,", 8000) + "permessage-deflate",
		"Sec-WebSocket-Protocol: " + strings.Repeat("p,", 100) + "q",
		"Connection: Upgrade" + strings.Repeat(", x", 6000),
	} {
		began := time.Now()
		_, a := s.handshake("/chat", token, list)
		if a.status != 101 && a.status != 400 {
			t.Errorf("%.40s: %d", list, a.status)
		}
		if d := time.Since(began); d > 50*time.Millisecond+loaded {
			t.Errorf("%.40s: answered after %v", list, d)
		}
	}
}

package e2e_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/lxzan/gws"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// counting counts what comes over a connection.
type counting struct {
	*upConn
	n *tally[int]
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.upConn.br.Read(b)
	c.n.add(n)
	return n, err
}

// CMP-01: where the route passes it, client and upstream compress between
// themselves, in the ways they agree on; elsewhere nobody does.
func TestCMP01Compression(t *testing.T) {
	t.Parallel()
	var wire tally[int]
	modes := map[string]gws.PermessageDeflate{
		"/none":   {Enabled: true, Threshold: 1},
		"/both":   {Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true},
		"/server": {Enabled: true, ServerContextTakeover: true},
		"/client": {Enabled: true, ClientContextTakeover: true},
		"/window": {Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true, ServerMaxWindowBits: 9, ClientMaxWindowBits: 9},
		"/off":    {Enabled: true},
	}
	up := newUpstream(t, func(c *upConn) {
		u := gws.NewUpgrader(&correct{}, &gws.ServerOption{CheckUtf8Enabled: true, Logger: silent{}, PermessageDeflate: modes[c.req.URL.Path]})
		if conn, err := u.UpgradeFromConn(c.Conn, bufio.NewReader(counting{c, &wire}), c.req); err == nil {
			conn.ReadLoop()
		}
	})
	routes := `
  - {path: /off, upstream: "ws://UPSTREAM"}
`
	for path := range modes {
		if path != "/off" {
			routes += fmt.Sprintf("  - {path: %s, upstream: \"ws://UPSTREAM\", compression: pass}\n", path)
		}
	}
	s, iss := gate(t, up, routes)
	header := http.Header{"Authorization": {"Bearer " + iss.token()}}
	// Sizes of Autobahn's groups 12 and 13.
	sizes := []int{16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072}
	body := func(size int) []byte { // compresses well, and is UTF-8
		return []byte(strings.Repeat(fmt.Sprintf(`{"n":%d,"text":"κόσμε"},`, size), size/20+1)[:size&^1])
	}
	for _, path := range []string{"/both", "/client", "/window"} { // whose parameters the other client does not take
		windowed(t, s, path, modes[path], header, body, sizes)
	}
	for _, path := range []string{"/none", "/server", "/off"} {
		for name, mode := range map[string]websocket.CompressionMode{"takeover": websocket.CompressionContextTakeover, "no takeover": websocket.CompressionNoContextTakeover} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			c, res, err := websocket.Dial(ctx, "ws://"+s.addr+path, &websocket.DialOptions{HTTPHeader: header, CompressionMode: mode, CompressionThreshold: 1})
			if err != nil {
				t.Fatalf("%s, %s: %v", path, name, err)
			}
			c.SetReadLimit(1 << 20)
			if res.Body != nil {
				res.Body.Close()
			}
			chosen := strings.HasPrefix(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
			if offered := up.last().req.Header.Get("Sec-WebSocket-Extensions"); chosen == (path == "/off") || (offered != "") == (path == "/off") {
				t.Errorf("%s, %s: the upstream was offered %q, the client was told %q", path, name, offered, res.Header.Get("Sec-WebSocket-Extensions"))
			}
			wire.take()
			sent := 0
			for _, size := range sizes {
				for i := range long(2, 1000) {
					kind := websocket.MessageText
					if i%2 == 1 {
						kind = websocket.MessageBinary
					}
					want := bytes.ToValidUTF8(body(size), nil)
					sent += len(want)
					if err := c.Write(ctx, kind, want); err != nil {
						t.Fatalf("%s, %s: %v", path, name, err)
					}
					got, b, err := c.Read(ctx)
					if err != nil || got != kind || !bytes.Equal(b, want) {
						t.Fatalf("%s, %s: %d bytes came back as %d (%v)", path, name, len(want), len(b), err)
					}
				}
			}
			came := 0
			for _, n := range wire.take() {
				came += n
			}
			if small := came < sent/2; small == (path == "/off") {
				t.Errorf("%s, %s: %d bytes of messages took %d on the wire", path, name, sent, came)
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("%s, %s: %v", path, name, err)
			}
			cancel()
		}
	}
}

// windowed exchanges the sizes with a client that takes over contexts, with
// windows of its own.
func windowed(t *testing.T, s *server, path string, mode gws.PermessageDeflate, header http.Header, body func(int) []byte, sizes []int) {
	t.Helper()
	h := &collect{came: make(chan string, 1)}
	c, res, err := gws.NewClient(h, &gws.ClientOption{
		Addr: "ws://" + s.addr + path, RequestHeader: header, CheckUtf8Enabled: true, Logger: silent{}, HandshakeTimeout: patience,
		PermessageDeflate: mode,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
		t.Errorf("%s: the client was told %q", path, got)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	done := make(chan struct{})
	go func() { defer close(done); c.ReadLoop() }()
	for _, size := range sizes {
		want := string(bytes.ToValidUTF8(body(size), nil))
		if err := c.WriteMessage(gws.OpcodeText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-h.came:
			if got != want {
				t.Fatalf("%s: %d bytes came back as %d", path, len(want), len(got))
			}
		case <-done:
			t.Fatalf("%s: the connection ended", path)
		}
	}
	_ = c.WriteClose(1000, nil)
	<-done
}

// collect is a client that passes on what comes.
type collect struct {
	gws.BuiltinEventHandler
	came chan string
}

func (h *collect) OnMessage(_ *gws.Conn, m *gws.Message) {
	h.came <- string(m.Bytes())
	_ = m.Close()
}

// take is list, and forgets.
func (l *tally[T]) take() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// deflating accepts with what the query says, records, and says nothing.
func deflating(c *upConn) {
	if chosen := c.req.URL.Query().Get("choose"); chosen != "" {
		var lines []string
		for line := range strings.SplitSeq(chosen, "|") {
			lines = append(lines, "Sec-WebSocket-Extensions: "+line)
		}
		c.accept(lines...)
	} else {
		c.accept()
	}
	c.listen()
}

// CMP-02: nothing is inflated here. message_bytes is of what travels, and what a
// bomb would become is the peer's affair: it must bound that itself.
func TestCMP02BombsAreNotOpened(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, deflating)
	s, iss := gate(t, up, `
  - {path: /pass, upstream: "ws://UPSTREAM", compression: pass, limits: {message_bytes: 64KiB}}
`)
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	_, _ = io.CopyN(w, zeros{}, 32<<20)
	_ = w.Flush()
	bomb := strings.TrimSuffix(b.String(), "\x00\x00\xff\xff") // RFC 7692 §7.2.1
	if len(bomb) > 48<<10 {
		t.Fatalf("32 MiB became %d bytes", len(bomb))
	}
	open := func() *client {
		return s.connect("/pass?choose=permessage-deflate", bearer(iss.token()), "Sec-WebSocket-Extensions: permessage-deflate")
	}
	open().conn.Close()
	before := s.resident()
	for i := range long(50, 1000) {
		c := open()
		whole := bomb
		if i%2 == 0 {
			c.send(plainly(0xc2, bomb))
		} else {
			c.send(plainly(0x42, bomb[:100])).send(plainly(0x00, bomb[100:2000])).send(plainly(0x80, bomb[2000:]))
		}
		uc := up.of(c)
		eventually(t, "the bomb at the upstream", func() bool {
			got := ""
			for _, m := range uc.got() {
				got += m.payload
			}
			return got == whole
		})
		if i%2 == 0 {
			c.send(plainly(0xc2, bomb+bomb+bomb))
		} else {
			c.send(plainly(0x42, bomb)).send(plainly(0x80, bomb+bomb))
		}
		c.failed(1009, "message_too_big")
	}
	grown := s.resident() - before
	bound := int64(16 << 20)
	if raceEnabled {
		bound *= 10
	}
	t.Logf("grown by %d KiB", grown>>10)
	if grown > bound {
		t.Errorf("the gateway grew by %d MiB", grown>>20)
	}
}

// zeros are as many as are read.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// CMP-03: no offer, no choice and no data of a deflater's does anything here.
func TestCMP03NonsenseOfDeflaters(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, deflating)
	s, iss := gate(t, up, `
  - {path: /pass, upstream: "ws://UPSTREAM", compression: pass}
  - {path: /off, upstream: "ws://UPSTREAM"}
`)
	token := bearer(iss.token())
	const plain = "permessage-deflate"
	// An offer is passed as it stands, or not at all.
	for _, offer := range []string{
		plain, plain + "; client_max_window_bits", plain + ";server_max_window_bits=99", plain + `; server_max_window_bits=""`, plain + "; server_max_window_bits=7", plain + "; server_max_window_bits=-8",
		plain + `; client_max_window_bits="15"`, plain + "; client_max_window_bits=0x0f", plain + "; server_max_window_bits=18446744073709551616", plain + "; server_no_context_takeover=1",
		plain + "; ; ;", plain + `; a="`, plain + "; =", ";", ",", ",,,", "=", `"`, plain + "; server_no_context_takeover; server_no_context_takeover", plain + ", " + plain + "; client_max_window_bits=8",
		"permessage-bzip2, " + plain, "permessage-\xff", plain + strings.Repeat("; server_max_window_bits=8", 300), strings.Repeat(plain+", ", 300) + plain, "x-webkit-deflate-frame", "mux", plain + "\t;\tclient_max_window_bits",
	} {
		for _, path := range []string{"/pass", "/off"} {
			c, a := s.handshake(path, token, "Sec-WebSocket-Extensions: "+offer)
			if a.status != 101 {
				statuses(t, offer, a.status, 400)
				continue
			}
			got := up.of(c).req.Header.Values("Sec-WebSocket-Extensions")
			if path == "/pass" && !slices.Equal(got, []string{offer}) || path == "/off" && len(got) > 0 {
				t.Errorf("%s: the offer %.80q became %.80q", path, offer, got)
			}
			if a.header.Get("Sec-WebSocket-Extensions") != "" {
				t.Errorf("%s: the client was told %q of nothing", path, a.header.Get("Sec-WebSocket-Extensions"))
			}
			// Nothing was agreed on, so nothing may be compressed.
			c.send(plainly(0xc1, "x")).failed(1002, "protocol_error")
		}
	}
	// A choice of what was not offered is none.
	for _, x := range []struct{ path, offer, choice string }{
		{"/pass", "", plain},
		{"/off", plain, plain},
		{"/pass", "permessage-bzip2, mux", plain},
		{"/pass", plain, "permessage-bzip2"},
		{"/pass", plain + ", permessage-bzip2", "permessage-bzip2"}, // which nobody here knows
		{"/pass", plain, "x-webkit-deflate-frame"},
		{"/pass", plain, plain + ", " + plain},
		{"/pass", plain, plain + "|" + plain},
		{"/pass", plain, plain + "|permessage-bzip2"},
		{"/pass", plain, "permessage-deflate2"},
		{"/pass", plain, ";"},
		{"/pass", plain, plain + ", mux"},
	} {
		lines := []string{token}
		if x.offer != "" {
			lines = append(lines, "Sec-WebSocket-Extensions: "+x.offer)
		}
		target := x.path + "?choose=" + strings.NewReplacer(" ", "%20", ";", "%3b", ",", "%2c", "|", "%7c").Replace(x.choice)
		s.refused(502, "upstream_refused", target, lines...)
	}
	// Where it was agreed on, any bytes may be what somebody compressed.
	rng := rand.New(rand.NewPCG(1, 3))
	for range long(20, 1000) {
		c := s.connect("/pass?choose="+plain, token, "Sec-WebSocket-Extensions: "+plain)
		junk := make([]byte, rng.IntN(3000))
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		c.send(plainly(0xc1, string(junk))).send(plainly(0x81, "after"))
		uc := up.of(c)
		eventually(t, "both", func() bool { return len(uc.got()) == 2 })
		if got := uc.got(); got[0].payload != string(junk) || got[1].payload != "after" {
			t.Errorf("%d bytes of junk became %d", len(junk), len(got[0].payload))
		}
		c.conn.Close()
	}
	// RSV1 is for the first frame of a message (RFC 7692 §6).
	for name, raw := range map[string]string{
		"ping": plainly(0xc9, ""), "pong": plainly(0xca, ""), "close": plainly(0xc8, "\x03\xe8"), "continuation": plainly(0x41, "x") + plainly(0xc0, "y"),
		"continuation of a plain message": plainly(0x01, "x") + plainly(0xc0, "y"), "RSV1 and RSV2": plainly(0xe1, "x"), "RSV3": plainly(0x91, "x"),
	} {
		c := s.connect("/pass?choose="+plain, token, "Sec-WebSocket-Extensions: "+plain)
		t.Log(name)
		c.send(raw).failed(1002, "protocol_error")
		up.of(c).closed(1002, "protocol_error")
	}
	s.connect("/pass", token).frame(frame.Close, true, "").closesWithoutCode()
}

// failed demands that the next frame closes with code and reason, and does not
// wait for the second that whoever broke a rule has.
func (c *client) failed(code uint16, text string) {
	c.t.Helper()
	m, err := c.next()
	if err != nil || m.op != frame.Close {
		c.t.Fatalf("instead of %d came %v %.80q, %v", code, m.op, m.payload, err)
	}
	if got, why, err := frame.ParseClose([]byte(m.payload)); err != nil || got != code || why != text {
		c.t.Errorf("closed with %d %q (%v), want %d %q", got, why, err, code, text)
	}
	c.conn.Close()
}

package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// unseen demands that nothing of what f does reaches the upstream. Connections
// are accepted in the order they came, so one that open makes afterwards must
// be the next that is counted.
func (u *upstream) unseen(t *testing.T, open func() *client, f func()) {
	t.Helper()
	before := u.count()
	f()
	open().alive().conn.Close()
	if n := u.count() - before - 1; n != 0 {
		t.Errorf("%d refused connections reached the upstream", n)
	}
}

// statuses says which answers are in order.
func statuses(t *testing.T, what string, got int, want ...int) {
	t.Helper()
	for _, w := range want {
		if got == w {
			return
		}
	}
	t.Errorf("%s: %d, want one of %d", what, got, want)
}

func TestHSHandshake(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: "/chat/{room}", upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: "/admin/{room}", upstream: "ws://UPSTREAM", scopes: [admin]}
  - {path: "/public/{page...}", upstream: "ws://UPSTREAM"}
`)
	token := iss.token()
	auth := bearer(token)
	good := func() *client { return s.connect("/chat/lobby", auth) }

	t.Run("HS01OnlyVersion13", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, v := range []string{"0", "7", "8", "12", "14", "13, 8", "8, 13", "013", "+13", "13.0", "x"} {
				c, a := s.handshake("/chat/lobby", auth, "Sec-WebSocket-Version: "+v)
				if a.status != 426 || a.code() != "upgrade_required" || a.header.Get("Sec-WebSocket-Version") != "13" {
					t.Errorf("version %q: %d %q, header %v", v, a.status, a.code(), a.header)
				}
				// It is no tunnel: the answer is the last.
				c.ends()
			}
			s.refused(400, "bad_handshake", "/chat/lobby", auth, "Sec-WebSocket-Version:")
			s.refused(400, "bad_handshake", "/chat/lobby", auth, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13")
			s.refused(400, "bad_handshake", "/chat/lobby", auth, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8")
		})
	})

	t.Run("HS02Malformed", func(t *testing.T) {
		s := s.within(t)
		_, a := s.handshake("/chat/lobby", auth)
		if got := a.header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455 §1.3
			t.Errorf("accept %q", got)
		}
		up.unseen(t, good, func() {
			for _, lines := range [][]string{
				{"Upgrade:"},
				{"Upgrade: websocket", "Upgrade: websocket"},
				{"Connection:"},
				{"Connection: keep-alive"},
				{"Connection: upgrades"},
				{"Sec-WebSocket-Key:"},
				{"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1"},     // 15 bytes
				{"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc="}, // 17
				{"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="},
				{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="}, // unused bits
				{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"},
				{"Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Key: " + sampleKey},
			} {
				s.refused(400, "bad_handshake", "/chat/lobby", append(lines, auth)...)
			}
			// A request that means no WebSocket at all is told what this is.
			s.refused(426, "upgrade_required", "/chat/lobby", auth, "Upgrade:", "Connection:", "Sec-WebSocket-Key:", "Sec-WebSocket-Version:")
			head := s.upgrade("/chat/lobby", auth)
			for name, c := range map[string]struct {
				head string
				want []int
			}{
				"POST":           {strings.Replace(head, "GET ", "POST ", 1), []int{405}},
				"PUT":            {strings.Replace(head, "GET ", "PUT ", 1), []int{405}},
				"HEAD":           {strings.Replace(head, "GET ", "HEAD ", 1), []int{405}},
				"get":            {strings.Replace(head, "GET ", "get ", 1), []int{400, 405}},
				"HTTP/1.0":       {strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1), []int{400}},
				"HTTP/2.0":       {strings.Replace(head, "HTTP/1.1", "HTTP/2.0", 1), []int{400, 505}},
				"no Host":        {s.upgrade("/chat/lobby", auth, "Host:"), []int{400}},
				"two Hosts":      {s.upgrade("/chat/lobby", auth, "Host: "+s.addr, "Host: "+s.addr), []int{400}},
				"foreign Host":   {s.upgrade("/chat/lobby", auth, "Host: evil.test"), []int{421}},
				"bare LF header": {strings.Replace(head, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nX: a\rb\r\n", 1), []int{400}},
				"space in name":  {strings.Replace(head, "Upgrade: ", "Upgrade : ", 1), []int{400}},
			} {
				c2 := s.raw().send(c.head)
				res, err := http.ReadResponse(c2.br, &http.Request{Method: strings.Fields(c.head)[0]})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				res.Body.Close()
				statuses(t, name, res.StatusCode, c.want...)
				c2.conn.Close()
			}
		})
	})

	t.Run("HS03VerifiedBeforeTheUpgrade", func(t *testing.T) {
		s := s.within(t)
		evil := "Origin: https://evil.test"
		kinds := [][]string{{}, {bearer("nonsense")}, {auth, evil}, {evil}, {bearer(iss.token(claims{"exp": 1}))}, {bearer(iss.token(claims{"aud": "other"}))}, {auth, bearer(iss.token())}}
		up.unseen(t, good, func() {
			var clients sync.WaitGroup
			for w := range 8 {
				clients.Go(func() {
					for i := range 125 {
						lines := kinds[(w+i)%len(kinds)]
						c, a := s.handshake("/chat/lobby", lines...)
						c.conn.Close()
						statuses(t, fmt.Sprint("kind ", (w+i)%len(kinds)), a.status, 400, 401, 403)
					}
				})
			}
			clients.Wait()
		})
	})

	t.Run("HS05BytesBeforeTheAnswer", func(t *testing.T) {
		s := s.within(t)
		smuggled := "GET /admin/x HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n"
		data := string(frame.Append(nil, frame.Text, []byte("too early"), true))
		up.unseen(t, good, func() {
			for _, early := range []string{smuggled, data} {
				c := s.raw().send(s.upgrade("/chat/lobby", bearer("nonsense")) + early)
				if a := c.response(); a.status != 401 {
					t.Errorf("invalid token: %d", a.status)
				}
				c.conn.Close()
			}
		})
		for _, early := range []string{smuggled, data} {
			before := up.count()
			c := s.raw().send(s.upgrade("/chat/lobby", auth) + early)
			if b, err := io.ReadAll(c.br); err != nil && errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 {
				t.Errorf("bytes before the answer were answered: %q", b)
			}
			c.conn.Close()
			if up.count() == before {
				continue
			}
			seen := up.last()
			seen.ended()
			if got := seen.got(); len(got) > 0 || strings.Contains(seen.head, "/admin") {
				t.Errorf("the upstream got %q %v", seen.head, got)
			}
		}
	})

	t.Run("HS06UpgradeWithABody", func(t *testing.T) {
		s := s.within(t)
		smuggled := "GET /healthz HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n"
		up.unseen(t, good, func() {
			for name, request := range map[string]string{
				"Content-Length": s.upgrade("/chat/lobby", auth, fmt.Sprintf("Content-Length: %d", len(smuggled))) + smuggled,
				"chunked":        s.upgrade("/chat/lobby", auth, "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled),
				"both":           s.upgrade("/chat/lobby", auth, "Transfer-Encoding: chunked", "Content-Length: 4") + "0\r\n\r\n" + smuggled,
				"empty chunked":  s.upgrade("/chat/lobby", auth, "Transfer-Encoding: chunked") + "0\r\n\r\n",
				"two lengths":    s.upgrade("/chat/lobby", auth, "Content-Length: 0", "Content-Length: 5") + "hello",
				"odd coding":     s.upgrade("/chat/lobby", auth, "Transfer-Encoding: xchunked") + "0\r\n\r\n",
			} {
				c := s.raw().send(request)
				statuses(t, name, c.response().status, 400, 501)
				_ = c.conn.SetReadDeadline(time.Now().Add(patience))
				if b, _ := io.ReadAll(c.br); len(b) > 0 {
					t.Errorf("%s: the connection went on: %q", name, b)
				}
			}
		})
	})

	t.Run("HS07OnlyWebsocketIsUpgraded", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, u := range []string{"h2c", "websocket, h2c", "h2c, websocket", "TLS/1.0", "foo", "websocket/13", "websockets"} {
				lines := []string{auth, "Upgrade: " + u}
				if strings.Contains(u, "h2c") {
					lines = append(lines, "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")
				}
				s.refused(400, "bad_handshake", "/chat/lobby", lines...)
			}
			for name, request := range map[string]string{
				"CONNECT host":  "CONNECT " + up.addr + " HTTP/1.1\r\nHost: " + up.addr + "\r\n\r\n",
				"CONNECT ours":  "CONNECT " + s.addr + " HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n",
				"CONNECT path":  "CONNECT /chat/lobby HTTP/1.1\r\nHost: " + s.addr + "\r\n" + auth + "\r\n\r\n",
				"HTTP/2 by way": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
			} {
				c := s.raw().send(request)
				statuses(t, name, c.response().status, 400, 405, 421, 501, 505)
				c.conn.Close()
			}
		})
	})

	t.Run("HS08NoSharedPool", func(t *testing.T) {
		s := s.within(t)
		before := up.count()
		const rounds = 60
		seen := map[string]bool{}
		for i := range rounds {
			attacker := s.raw().send(s.upgrade("/chat/lobby", bearer("nonsense")) + "GET /healthz HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n")
			victim := s.connect("/chat/lobby", auth)
			says := fmt.Sprint("round ", i)
			victim.text(says).receives(says)
			c := up.last()
			if seen[c.RemoteAddr().String()] {
				t.Fatal("two handshakes on one upstream connection")
			}
			seen[c.RemoteAddr().String()] = true
			if a := attacker.response(); a.status != 401 {
				t.Fatalf("the attacker: %d", a.status)
			}
			attacker.conn.Close()
			defer victim.conn.Close() // open, so that no port comes twice
		}
		if n := up.count() - before; n != rounds {
			t.Errorf("%d upstream connections for %d handshakes", n, rounds)
		}
	})

	t.Run("HS09OneReadingOfTheTarget", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, target := range []string{
				"//evil/ws", "//chat/lobby", "/chat//lobby", "/chat/lobby//", "http://evil.test/chat/lobby", "http://" + s.addr + "/chat/lobby",
				"/chat/lobby#x", "/chat/lobby%23/../x", "/public/..%2fadmin/x", "/public/%2e%2e/admin/x", "/public/%2E./admin/x", "/public/../admin/x",
				"/public/./x", "/public/x/.", "/public/x/..", "/admin;a=b/x", "/chat/lobby;a=b", "/public;/../admin/x", `\admin\x`, `/public\..\admin/x`,
				"/public/%5c..%5cadmin/x", "/chat/lobby%00", "/chat/%00", "/chat/a%2fb", "/chat/a%2Fb", "/chat%2flobby", "/%63hat%2flobby",
				"/ADMIN/x", "/Chat/lobby", "/chat", "/chat/", "/chat/lobby/", "/chat/a/b", "chat/lobby", "*", "", "/chat/lobby%", "/chat/%zz",
			} {
				c, a := s.handshake(target, auth)
				c.conn.Close()
				if odd := strings.Contains(target, "//") || strings.ContainsAny(target, ";#"); odd && strings.HasPrefix(target, "/") {
					statuses(t, target, a.status, 400)
				} else {
					statuses(t, target, a.status, 400, 404, 421)
				}
			}
			// The real path's rule holds, whatever else is said.
			for _, target := range []string{"/admin/x", "/admin/x?skip=/public/", "/admin/x?/public/", "/%61dmin/x", "/admin/public"} {
				s.refused(403, "insufficient_scope", target, auth, "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x", "X-Forwarded-Uri: /public/x", "X-Forwarded-Path: /public/x")
			}
		})
		// What is let in reaches the upstream under the path that was judged.
		for _, target := range []string{"/chat/lobby", "/chat/a%20b", "/chat/%C3%A9", "/chat/a+b", "/chat/a%3Fb", "/chat/a:b@c", "/%63hat/x", "/public/a/b", "/chat/x?a=/admin/x&b=..", "/chat/x?"} {
			s.connect(target, auth).alive().conn.Close()
			want := strings.TrimSuffix(target, "?")
			if got := up.last().req.RequestURI; got != want {
				t.Errorf("%s became %s", target, got)
			}
		}
	})

	t.Run("HS10Subprotocols", func(t *testing.T) {
		s := s.within(t)
		for _, c := range []struct{ offer, upstream, chosen string }{
			{"bearer, " + token, "", "bearer"},
			{"bearer, " + token + ", chat", "chat", "chat"},
			{"chat, bearer, " + token, "chat", "chat"},
			{"chat, bearer, " + token + ", superchat", "chat, superchat", "chat"},
			{"chat ,\tbearer,,  " + token, "chat", "chat"},
		} {
			cl, a := s.handshake("/chat/lobby", "Sec-WebSocket-Protocol: "+c.offer)
			if a.status != 101 || a.header.Get("Sec-WebSocket-Protocol") != c.chosen {
				t.Errorf("%.30s…: %d, chosen %q, want %q", c.offer, a.status, a.header.Get("Sec-WebSocket-Protocol"), c.chosen)
				continue
			}
			cl.alive().conn.Close()
			if got := up.last().req.Header.Get("Sec-WebSocket-Protocol"); got != c.upstream || strings.Contains(up.last().head, token) {
				t.Errorf("the upstream was offered %q, want %q:\n%s", got, c.upstream, up.last().head)
			}
		}
		// Split over two lines it is the same list.
		_, a := s.handshake("/chat/lobby", "Sec-WebSocket-Protocol: chat, bearer", "Sec-WebSocket-Protocol: "+token)
		if a.status != 101 || strings.Contains(up.last().head, token) {
			t.Errorf("over two lines: %d\n%s", a.status, up.last().head)
		}
		if _, a := s.handshake("/chat/lobby", auth); a.header.Get("Sec-WebSocket-Protocol") != "" || a.header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("chosen without an offer: %v", a.header)
		}
		if _, a := s.handshake("/chat/lobby", auth, "Sec-WebSocket-Extensions: permessage-deflate"); a.header.Get("Sec-WebSocket-Extensions") != "" || up.last().req.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("an extension was negotiated: %v", a.header)
		}
		up.unseen(t, good, func() {
			s.refused(400, "bad_handshake", "/chat/lobby", auth, "Sec-WebSocket-Protocol: chat room")
			s.refused(400, "bad_handshake", "/chat/lobby", auth, "Sec-WebSocket-Protocol: a/b")
			s.refused(401, "token_malformed", "/chat/lobby", "Sec-WebSocket-Protocol: bearer")
		})
	})

	t.Run("HS11BothSidesEnd", func(t *testing.T) {
		s := s.within(t)
		eventually(t, "earlier connections to be gone", func() bool { return strings.Contains(s.cli("conn", "list", "--json"), "[]") })
		before := s.descriptors()
		for _, side := range []string{"client", "upstream"} {
			const n = 250
			clients, servers := make([]*client, n), make([]*upConn, n)
			for i := range n {
				clients[i] = s.connect("/chat/lobby", auth)
				servers[i] = up.last()
			}
			for i := range n {
				if side == "client" {
					reset(clients[i].conn)
				} else {
					reset(servers[i].Conn)
				}
			}
			for i := range n {
				if side == "client" {
					select {
					case <-servers[i].gone:
					case <-time.After(10 * time.Second):
						t.Fatal("the upstream's connection stayed open")
					}
					continue
				}
				clients[i].closes(1013, "upstream_gone")
			}
			eventually(t, "the descriptors of before", func() bool { return s.descriptors() <= before+5 })
		}
	})
}

// reset ends a connection as a crash does, without a word.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// smuggling are requests whose end two servers could see in different places. In
// head stand request line, Host and Authorization; HIDDEN is a whole handshake
// that must stay what it is, somebody's body, LENGTH how long it is.
var smuggling = map[string]string{
	// RFC 9112 §6.3: both lengths, in either order.
	"CL and TE":   "HEADContent-Length: LENGTH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE and CL":   "HEADTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nHIDDEN",
	"TE.CL":       "HEADContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nHEX\r\nHIDDEN\r\n0\r\n\r\n",
	"CL 0 and TE": "HEADContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
	// Lengths that are two, or none.
	"two CL":             "HEADContent-Length: 0\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	"two CL, the other":  "HEADContent-Length: LENGTH\r\nContent-Length: 0\r\n\r\nHIDDEN",
	"CL list":            "HEADContent-Length: 0, LENGTH\r\n\r\nHIDDEN",
	"CL with a sign":     "HEADContent-Length: +0\r\n\r\nHIDDEN",
	"CL negative":        "HEADContent-Length: -1\r\n\r\nHIDDEN",
	"CL hexadecimal":     "HEADContent-Length: 0x0\r\n\r\nHIDDEN",
	"CL with a fraction": "HEADContent-Length: 0.0\r\n\r\nHIDDEN",
	"CL with a space":    "HEADContent-Length: 0 0\r\n\r\nHIDDEN",
	"CL empty":           "HEADContent-Length: \r\n\r\nHIDDEN",
	"CL beyond 64 bits":  "HEADContent-Length: 18446744073709551616\r\n\r\nHIDDEN",
	// Codings that somebody else might take for chunked, or not.
	"TE space before the colon": "HEADTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE tab before the colon":   "HEADTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE xchunked":               "HEADTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE identity":               "HEADTransfer-Encoding: identity\r\n\r\n0\r\n\r\nHIDDEN",
	"TE chunked, identity":      "HEADTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nHIDDEN",
	"TE gzip, chunked":          "HEADTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE twice in a line":        "HEADTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE twice":                  "HEADTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE twice, once none":       "HEADTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\nHIDDEN",
	"TE vertical tab":           "HEADTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE quoted":                 "HEADTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nHIDDEN",
	"TE comma first":            "HEADTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\nHIDDEN",
	"TE by another name":        "HEADTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"TE in HTTP/1.0":            "OLDHEADConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
	// Lines that do not end or begin as they should (§2.2, §5.2). A fold counts as
	// a space, as §5.2 allows.
	"folded TE":               "HEADTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nHIDDEN",
	"folded CL":               "HEADContent-Length:\r\n LENGTH\r\n\r\nHIDDEN",
	"folded other":            "HEADX-Other: a\r\n Content-Length: 0\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	"fold on the first line":  "HEADLINE Content-Length: LENGTH\r\n\r\nHIDDEN",
	"bare CR in a value":      "HEADX-Other: a\rTransfer-Encoding: chunked\r\n\r\nHIDDEN",
	"bare CR as an end":       "HEADX-Other: a\r\r\n\r\nHIDDEN",
	"NUL in a value":          "HEADX-Other: a\x00b\r\nContent-Length: 0\r\n\r\nHIDDEN",
	"NUL in a name":           "HEADContent-Length\x00: 0\r\n\r\nHIDDEN",
	"no colon":                "HEADContent-Length 0\r\n\r\nHIDDEN",
	"no name":                 "HEAD: 0\r\n\r\nHIDDEN",
	"space before the name":   "HEADX-Other: a\r\n\tContent-Length: 0\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	"two versions":            "REQUEST HTTP/1.1 HTTP/1.1\r\nHost: HOST\r\n\r\nHIDDEN",
	"tabs in the first line":  "TABREQUEST\tHTTP/1.1\r\nHost: HOST\r\n\r\nHIDDEN",
	"no version":              "REQUEST\r\n\r\nHIDDEN",
	"expects, and has a body": "HEADExpect: 100-continue\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	"expects something else":  "HEADExpect: 101-switching\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	// Chunks (§7.1).
	"chunk size with a sign":         "HEADTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\nHIDDEN",
	"chunk size 0x":                  "HEADTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nHIDDEN",
	"chunk size with a space":        "HEADTransfer-Encoding: chunked\r\n\r\n 0\r\n\r\nHIDDEN",
	"chunk size beyond 64 bits":      "HEADTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\nHIDDEN",
	"chunk size negative":            "HEADTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\nHIDDEN",
	"chunk size missing":             "HEADTransfer-Encoding: chunked\r\n\r\n\r\n\r\nHIDDEN",
	"chunk extension with a bare LF": "HEADTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n0\r\n\r\nHIDDEN",
	"chunk size ended by LF":         "HEADTransfer-Encoding: chunked\r\n\r\n2\nxx\r\n0\r\n\r\nHIDDEN",
	"chunk longer than it says":      "HEADTransfer-Encoding: chunked\r\n\r\n2\r\nxxxx\r\n0\r\n\r\nHIDDEN",
	"chunk ended by LF":              "HEADTransfer-Encoding: chunked\r\n\r\n2\r\nxx\n0\r\n\r\nHIDDEN",
	"chunk ended by two others":      "HEADTransfer-Encoding: chunked\r\n\r\n2\r\nxx**0\r\n\r\nHIDDEN",
	"chunk extension without end":    "HEADTransfer-Encoding: chunked\r\n\r\n0;" + strings.Repeat("a", 20<<10) + "\r\n\r\nHIDDEN",
	"trailer with a length":          "HEADTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
	"trailer with a coding":          "HEADTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\nHIDDEN",
	"trailer folded":                 "HEADTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\nHIDDEN",
	// A body where none is expected.
	"body with a length":  "HEADContent-Length: LENGTH\r\n\r\nHIDDEN",
	"body in one chunk":   "HEADTransfer-Encoding: chunked\r\n\r\nHEX\r\nHIDDEN\r\n0\r\n\r\n",
	"equal lengths twice": "HEADContent-Length: LENGTH\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
}

// PRX-01: whatever a request's framing says, and wherever it is sent, what hides
// behind it or in its body is never answered as a request of its own, and never
// reaches the upstream. The next request is understood, or there is none.
func TestPRX01Smuggling(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := start(t, up, "issuer: {}\n"+`routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`+generous())
	s.addUser("ann", "chat")
	auth := bearer(s.login("ann").str("access_token"))
	hidden := s.upgrade("/chat", auth)
	endpoints := []string{
		"POST /auth/login", "POST /auth/token", "POST /auth/revoke", "POST /auth/ticket", "POST /auth/extend", "POST /auth/logout", "POST /auth/password",
		"GET /auth/session", "GET /auth/sessions", "DELETE /auth/sessions/x", "GET /auth/openapi.json", "GET /auth/none",
		"GET /.well-known/jwks.json", "GET /.well-known/oauth-authorization-server", "GET /healthz", "GET /readyz", "GET /chat", "POST /chat", "GET /none",
	}
	attack := func(endpoint, shape string) string {
		line := endpoint + " HTTP/1.1\r\n"
		rest := "Host: " + s.addr + "\r\n"
		if strings.HasPrefix(endpoint, "POST") {
			rest += "Content-Type: application/json\r\n"
		}
		return strings.NewReplacer(
			"OLDHEAD", endpoint+" HTTP/1.0\r\n"+rest, "HEADLINE", line, "HEAD", line+rest,
			"TABREQUEST", strings.Replace(endpoint, " ", "\t", 1), "REQUEST", endpoint, "HOST", s.addr,
			"LENGTH", fmt.Sprint(len(hidden)), "HEX", fmt.Sprintf("%x", len(hidden)), "HIDDEN", hidden,
		).Replace(shape)
	}
	up.unseen(t, func() *client { return s.connect("/chat", auth) }, func() {
		var clients sync.WaitGroup
		work := make(chan [2]string)
		for range 8 {
			clients.Go(func() {
				for w := range work {
					if err := smuggle(s, attack(w[0], smuggling[w[1]])); err != nil {
						t.Errorf("%s, %s: %v", w[0], w[1], err)
					}
				}
			})
		}
		for _, name := range slices.Sorted(maps.Keys(smuggling)) {
			for _, endpoint := range endpoints {
				work <- [2]string{endpoint, name}
			}
		}
		close(work)
		clients.Wait()
	})
}

// smuggle sends an attack and an innocent request behind it, and reads all there
// is to read.
func smuggle(s *server, attack string) error {
	conn, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, attack+"GET /healthz HTTP/1.1\r\nHost: "+s.addr+"\r\nX-Innocent: yes\r\nConnection: close\r\n\r\n")
	_ = conn.(*net.TCPConn).CloseWrite()
	br := bufio.NewReader(conn)
	var answers []string
	for {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			if n := len(answers); n == 0 || n > 2 || n == 2 && answers[1] != `200 {"status":"ok"}` {
				return fmt.Errorf("%q, then %w", answers, err)
			}
			return nil
		}
		if res.StatusCode == http.StatusContinue {
			continue
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return fmt.Errorf("%q, then a WebSocket", answers)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		answers = append(answers, fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(string(b))))
	}
}

// PRX-02: where a route leads is said by the configuration alone.
func TestPRX02NothingOfTheClientsChoosesTheUpstream(t *testing.T) {
	t.Parallel()
	up, canary := newUpstream(t, nil), newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: "/ws/{tenant}", upstream: "ws://UPSTREAM"}
  - {path: "/tree/{rest...}", upstream: "ws://UPSTREAM"}
  - {path: "/fixed/{rest...}", upstream: "ws://UPSTREAM/inside"}
`)
	token := bearer(iss.token())
	// Where it is let in at all, the upstream is the route's, asked for its own
	// Host and for the path that was matched, or the configured one.
	try := func(target string, lines ...string) {
		t.Helper()
		before := up.count()
		c, a := s.handshake(target, append(lines, token)...)
		defer c.conn.Close()
		if a.status != http.StatusSwitchingProtocols {
			statuses(t, target, a.status, 400, 403, 404, 421)
			return
		}
		uc := up.of(c)
		want, _, _ := strings.Cut(target, "?")
		if strings.HasPrefix(target, "/fixed/") {
			want = "/inside"
		}
		if got, _, _ := strings.Cut(uc.req.RequestURI, "?"); got != want || uc.req.Host != up.addr || up.count() != before+1 {
			t.Errorf("%s %q became %s of %s", target, lines, uc.req.RequestURI, uc.req.Host)
		}
	}
	for _, prefix := range []string{"/ws/", "/tree/", "/fixed/"} {
		for _, rest := range []string{
			"a", "@CANARY", "a@CANARY", "a@CANARY/x", ":80@CANARY", "%40CANARY", "a%40CANARY", "%2f%2fCANARY", "a%2f..%2f..%2fCANARY", "..%2fCANARY", "../CANARY", "%2e%2e/CANARY",
			"/CANARY", "\\\\CANARY", "%5c%5cCANARY", "a#@CANARY", "a%23@CANARY", "http://CANARY/", "http:%2f%2fCANARY", "a?http://CANARY/", "a?x=@CANARY", "a?host=CANARY&upstream=ws://CANARY",
			".CANARY", "%0d%0aHost:%20CANARY", "a%20HTTP/1.1%0d%0aHost:%20CANARY%0d%0a", "a%00@CANARY", "a;@CANARY", "[::1]", "a:b@c:d",
		} {
			try(prefix + strings.ReplaceAll(rest, "CANARY", canary.addr))
		}
		for _, line := range []string{
			"Host: CANARY", "X-Forwarded-Host: CANARY", "Forwarded: host=CANARY;proto=http", "X-Host: CANARY", "X-Original-Host: CANARY", "X-Forwarded-Server: CANARY", "X-Original-URL: http://CANARY/",
			"X-Rewrite-URL: //CANARY/", "X-Forwarded-Prefix: //CANARY", "X-Forwarded-Uri: //CANARY/", "Origin: http://CANARY", "Sec-WebSocket-Protocol: CANARY", "Proxy-Connection: keep-alive", "Connection: Upgrade, Host",
		} {
			try(prefix+"a", strings.ReplaceAll(line, "CANARY", canary.addr))
		}
	}
	for _, target := range []string{"http://CANARY/ws/a", "ws://CANARY/ws/a", "//CANARY/ws/a", "CANARY", "@CANARY/ws/a", "/ws/a http://CANARY/", "http://ADDR@CANARY/ws/a"} {
		c := s.raw().send(s.upgrade(strings.NewReplacer("CANARY", canary.addr, "ADDR", s.addr).Replace(target), token))
		statuses(t, target, c.response().status, 400, 404, 421)
	}
	if canary.count() != 0 {
		t.Errorf("%d connections reached a server no route names", canary.count())
	}
}

package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const sampleKey = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455 §1.3

// client is a TCP connection to the server that says what it is told to.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	id   string // X-Wsbouncer-Connection, after a 101
}

// raw connects and says nothing.
func (s *server) raw() *client {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{t: s.t, conn: c, br: bufio.NewReader(c)}
}

// upgrade is the head of a good handshake for a target, with more header lines
// ("Name: value"). A line that repeats one of the standard names replaces it;
// "Name:" alone leaves it out.
func (s *server) upgrade(target string, lines ...string) string {
	fields := [][2]string{{"Host", s.addr}, {"Upgrade", "websocket"}, {"Connection", "Upgrade"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", sampleKey}}
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\n", target)
	for _, f := range fields {
		replaced := false
		for _, l := range lines {
			name, _, _ := strings.Cut(l, ":")
			replaced = replaced || strings.EqualFold(name, f[0])
		}
		if !replaced {
			fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
		}
	}
	for _, l := range lines {
		if name, value, _ := strings.Cut(l, ":"); value != "" || !isOneOf(name, fields) {
			b.WriteString(l + "\r\n")
		}
	}
	return b.String() + "\r\n"
}

func isOneOf(name string, fields [][2]string) bool {
	for _, f := range fields {
		if strings.EqualFold(name, f[0]) {
			return true
		}
	}
	return false
}

// send writes text as it is.
func (c *client) send(text string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
	return c
}

// response reads an HTTP answer; the body too, unless it is a 101.
func (c *client) response() *answer {
	c.t.Helper()
	a, err := c.tryResponse()
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	return a
}

func (c *client) tryResponse() (*answer, error) {
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return nil, err
	}
	a := &answer{status: res.StatusCode, header: res.Header}
	if res.StatusCode == http.StatusSwitchingProtocols {
		c.id = res.Header.Get("X-Wsbouncer-Connection")
		return a, nil
	}
	defer res.Body.Close()
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	_ = json.Unmarshal(a.body, &a.json)
	return a, nil
}

// handshake sends an upgrade and gives its answer.
func (s *server) handshake(target string, lines ...string) (*client, *answer) {
	s.t.Helper()
	c := s.raw().send(s.upgrade(target, lines...))
	return c, c.response()
}

// connect opens a WebSocket and fails the test if it is refused.
func (s *server) connect(target string, lines ...string) *client {
	s.t.Helper()
	c, a := s.handshake(target, lines...)
	if a.status != http.StatusSwitchingProtocols {
		s.t.Fatalf("%s: %d %s", target, a.status, a.body)
	}
	return c
}

// refused demands a refusal by status and code, and no connection.
func (s *server) refused(status int, code, target string, lines ...string) *answer {
	s.t.Helper()
	_, a := s.handshake(target, lines...)
	if a.status != status || a.code() != code {
		s.t.Errorf("%s %q: %d %q, want %d %q", target, lines, a.status, a.code(), status, code)
	}
	return a
}

// bearer is the header line of a token.
func bearer(token string) string { return "Authorization: Bearer " + token }

// text sends a text message in one masked frame.
func (c *client) text(s string) *client {
	c.t.Helper()
	return c.send(string(frame.Append(nil, frame.Text, []byte(s), true)))
}

// frame sends one masked frame as it is said.
func (c *client) frame(op frame.Opcode, fin bool, payload string) *client {
	c.t.Helper()
	return c.send(string(appendFrame(nil, message{op, fin, payload}, true)))
}

// next reads one frame.
func (c *client) next() (message, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	return readFrame(c.br)
}

// receives demands that the next data frame says this. Pings are answered.
func (c *client) receives(want string) *client {
	c.t.Helper()
	for {
		m, err := c.next()
		switch {
		case err != nil:
			c.t.Fatalf("instead of %q: %v", want, err)
		case m.op == frame.Ping:
			c.frame(frame.Pong, true, m.payload)
		case m.op == frame.Pong:
		default:
			if m.payload != want || m.op == frame.Close {
				c.t.Fatalf("received %v %q, want %q", m.op, m.payload, want)
			}
			return c
		}
	}
}

// alive proves that the connection carries messages to an echo and back.
func (c *client) alive() *client {
	c.t.Helper()
	return c.text("are you there?").receives("are you there?")
}

// closes waits for the close frame, skipping data, and demands code and reason;
// then that the TCP connection ends (SES-19). It returns when the frame came.
func (c *client) closes(code uint16, text string) time.Time {
	c.t.Helper()
	for {
		m, err := c.next()
		if err != nil {
			c.t.Fatalf("instead of %d %s: %v", code, text, err)
		}
		if m.op == frame.Ping {
			continue // a peer need not answer
		}
		if m.op != frame.Close {
			continue
		}
		at := time.Now()
		got, why, err := frame.ParseClose([]byte(m.payload))
		if err != nil || got != code || why != text {
			c.t.Fatalf("closed with %d %q (%v), want %d %q", got, why, err, code, text)
		}
		_, _ = c.conn.Write(frame.AppendClose(nil, got, "", true))
		c.ends()
		return at
	}
}

// ends demands that nothing more comes and the TCP connection ends, and hangs up,
// as a peer does then.
func (c *client) ends() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c.br)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection was not closed")
	}
	if len(b) > 0 {
		c.t.Fatalf("after the end came %q", b)
	}
	_ = c.conn.Close()
}

// answer is an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any
}

func (a *answer) str(name string) string { s, _ := a.json[name].(string); return s }

// code is the stable name of a refusal, in either shape.
func (a *answer) code() string {
	if c := a.str("code"); c != "" {
		return c
	}
	return a.str("error")
}

func (a *answer) cookie(name string) *http.Cookie {
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// call sends an HTTP request with header lines. body: nil for none, url.Values
// as a form, a string as it is, anything else as JSON. Tokens in the answer are
// noted as secrets.
func (s *server) call(method, path string, body any, lines ...string) *answer {
	s.t.Helper()
	var rd io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	case url.Values:
		rd, contentType = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		rd, contentType = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, rd)
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	res, err := httpClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		s.t.Fatal(err)
	}
	_ = json.Unmarshal(a.body, &a.json)
	for _, name := range []string{"access_token", "refresh_token", "ticket"} {
		secret(s.t, a.str(name))
	}
	for _, c := range res.Cookies() {
		secret(s.t, c.Value)
	}
	return a
}

// httpClient follows nothing and keeps nothing.
var httpClient = &http.Client{
	Timeout:       patience,
	Transport:     &http.Transport{DisableKeepAlives: true, MaxConnsPerHost: 0},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// want demands a status and code.
func (s *server) want(a *answer, status int, code string) *answer {
	s.t.Helper()
	if a.status != status || a.code() != code {
		s.t.Fatalf("%d %q, want %d %q: %s", a.status, a.code(), status, code, a.body)
	}
	return a
}

// login logs a user of addUser in, in the form with tokens.
func (s *server) login(name string) *answer {
	s.t.Helper()
	return s.want(s.call("POST", "/auth/login", map[string]any{"username": name, "password": password(s.t, name)}), 200, "")
}

// refresh uses a refresh token; more are further form members in pairs.
func (s *server) refresh(token string, more ...string) *answer {
	s.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	for i := 0; i < len(more); i += 2 {
		form.Add(more[i], more[i+1])
	}
	return s.call("POST", "/auth/token", form)
}

// ticket asks for one; path is where it will be used.
func (s *server) ticket(access, path string, lines ...string) *answer {
	s.t.Helper()
	return s.call("POST", "/auth/ticket", map[string]any{"path": path}, append(lines, bearer(access))...)
}

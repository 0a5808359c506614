package e2e_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// gate starts a gateway that trusts one issuer, with limits that a test of
// something else does not meet; set ("name: value") overrides them.
func gate(t *testing.T, up *upstream, routes string, set ...string) (*server, *issuer) {
	t.Helper()
	iss := newIssuer(t, "https://idp.example")
	return start(t, up, trustYAML(iss.name)+"routes:\n"+routes+generous(set...), iss.trusted), iss
}

func generous(set ...string) string {
	limits := map[string]string{
		"handshakes_per_ip":       "{rate: 100000/s, burst: 100000}",
		"connections_per_ip":      "10000",
		"connections_per_subject": "10000",
		"message_rate":            "{rate: 1000000/s, burst: 1000000}",
		"byte_rate":               "{rate: 1GiB/s, burst: 1GiB}",
	}
	for _, s := range set {
		name, value, _ := strings.Cut(s, ": ")
		limits[name] = value
	}
	text := "limits:\n"
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		text += fmt.Sprintf("  %s: %s\n", name, limits[name])
	}
	return text
}

// within is the same server for a subtest: what is opened ends with it. What the
// subtest notes as secrets is looked for when the server ends.
func (s *server) within(t *testing.T) *server {
	sub := *s
	sub.t = t
	t.Cleanup(func() {
		for _, x := range secretsOf(t) {
			secret(s.t, x)
		}
	})
	return &sub
}

// each runs fn as a subtest for every case.
func each[C any](t *testing.T, s *server, cases map[string]C, fn func(t *testing.T, s *server, c C)) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) { fn(t, s.within(t), cases[name]) })
	}
}

// script is an upstream's behaviour by path; echo where nothing is said.
type script map[string]func(*upConn)

func (m script) serve(c *upConn) {
	if f := m[c.req.URL.Path]; f != nil {
		f(c)
		return
	}
	echo(c)
}

// listen records frames until the connection ends, or a close frame came: that
// is answered.
func (c *upConn) listen() {
	for {
		m, err := c.next()
		if err != nil {
			return
		}
		if m.op == frame.Close {
			_, _ = c.Write(frame.Append(nil, frame.Close, []byte(m.payload), false))
			return
		}
	}
}

// ended waits until the gateway's side of the connection has ended.
func (c *upConn) ended() {
	c.up.t.Helper()
	select {
	case <-c.gone:
	case <-time.After(patience):
		c.up.t.Fatal("the upstream's connection did not end")
	}
}

// closed demands that the last frame is a close with this code and reason.
func (c *upConn) closed(code uint16, text ...string) {
	c.up.t.Helper()
	c.ended()
	got := c.got()
	if len(got) == 0 || got[len(got)-1].op != frame.Close {
		c.up.t.Fatalf("the upstream received no close frame, but %d others", len(got))
	}
	if got, why, err := frame.ParseClose([]byte(got[len(got)-1].payload)); err != nil || got != code || !slices.Contains(text, why) {
		c.up.t.Fatalf("the upstream was closed with %d %q (%v), want %d %q", got, why, err, code, text)
	}
}

// of finds the upstream's connection for a client's.
func (u *upstream) of(c *client) *upConn {
	u.t.Helper()
	var found *upConn
	eventually(u.t, "the connection at the upstream", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, uc := range u.conns {
			if uc.req.Header.Get("X-Wsbouncer-Connection") == c.id {
				found = uc
			}
		}
		return found != nil
	})
	return found
}

func acceptOf(c *upConn) string {
	sum := sha1.Sum([]byte(c.req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// manage calls the admin socket in this process, where a command would be slow.
func (s *server) manage() *adminapi.Client {
	a := adminapi.NewUnixClient(s.admin)
	s.t.Cleanup(a.Close)
	return a
}

// revoke revokes and says how many connections that ended.
func (s *server) revoke(iss *issuer, kind, value string) int {
	s.t.Helper()
	a := s.manage()
	defer a.Close()
	res, err := a.Revoke(context.Background(), adminapi.RevokeRequest{Kind: kind, Issuer: iss.name, Value: value})
	if err != nil {
		s.t.Fatalf("revoking %s %s: %v", kind, value, err)
	}
	return res.Closed
}

// cut demands that the connection ends without a close frame and without one
// byte more.
func (c *client) cut() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := io.Copy(io.Discard, c.br)
	var timeout interface{ Timeout() bool }
	if n > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatalf("instead of the end came %d bytes (%v)", n, err)
	}
}

// rawFrame is a frame as it is on the wire.
type rawFrame struct {
	frame.Header
	payload []byte // still masked
}

func readRaw(br *bufio.Reader) (rawFrame, error) {
	var b []byte
	for {
		one, err := br.ReadByte()
		if err != nil {
			return rawFrame{}, err
		}
		b = append(b, one)
		h, n, err := frame.ParseHeader(b)
		if err != nil {
			return rawFrame{}, err
		}
		if n > 0 {
			f := rawFrame{h, make([]byte, h.Length)}
			_, err := io.ReadFull(br, f.payload)
			return f, err
		}
	}
}

// tally collects what goroutines of a test report.
type tally[T any] struct {
	mu  sync.Mutex
	all []T
}

func (l *tally[T]) add(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, v)
}

func (l *tally[T]) list() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

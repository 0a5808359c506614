package e2e_test

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"
)

// DOS-03: when the file descriptors run out, handshakes are refused with 503, the
// live connections go on, the admin socket answers, and a connection that ends makes
// room for another.
func TestDOS03DescriptorsRunOut(t *testing.T) {
	t.Parallel()
	const files = 96
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+"routes:\n  - {path: /chat, upstream: \"ws://UPSTREAM\"}\n"+generous(), iss.trusted, func(s *server) { s.nofile = files })
	s.logged(map[string]any{"msg": "ready", "descriptors": files})
	token := bearer(iss.token())
	var live []*client
	var last *answer
	for range files {
		c, a := s.handshake("/chat", token)
		if last = a; a.status != 101 {
			c.conn.Close()
			break
		}
		live = append(live, c)
	}
	last.busy(t, 503, "overloaded")
	s.waitLog("no file descriptor is left", "reserve", "ulimit -n")
	if n := len(live); n < 20 || 2*n > files*3/4 {
		t.Errorf("%d connections of %d descriptors", n, files)
	}
	if u := s.upstreams()[up.addr]; u.State != "ok" {
		t.Errorf("the upstream is blamed: %+v", u)
	}

	// Whoever only connects takes none of the last ones either.
	var silent []net.Conn
	for range files {
		c, err := net.DialTimeout("tcp", s.addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	s.waitLog("connections are closed as they come", "ulimit -n")
	if out := s.cli("status"); !strings.Contains(out, "of 96") {
		t.Errorf("status:\n%s", out)
	}
	for _, c := range live {
		c.alive()
	}
	if n := s.descriptors(); n >= files {
		t.Errorf("%d descriptors are open", n)
	}
	if n := strings.Count(s.log.String(), "connections are closed as they come"); n > 5 {
		t.Errorf("that is told %d times", n)
	}

	for _, c := range silent {
		c.Close()
	}
	live[0].conn.Close()
	eventually(t, "room for another", func() bool {
		conn, err := net.DialTimeout("tcp", s.addr, patience)
		if err != nil {
			return false
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		_, _ = conn.Write([]byte(s.upgrade("/chat", token)))
		a, err := c.tryResponse()
		return err == nil && a.status == 101 && c.alive() != nil
	})
}

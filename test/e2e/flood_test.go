package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// long is n, or many where somebody has the time: with WSBOUNCER_LONG=1.
func long(n, many int) int {
	if os.Getenv("WSBOUNCER_LONG") == "1" {
		return many
	}
	return n
}

// DOS-01: a message of a million tiny fragments is ended long before, whoever
// sends it and whatever the route does with messages, and nothing is kept of it.
func TestDOS01FragmentsWithoutEnd(t *testing.T) {
	t.Parallel()
	const million = 1_000_000
	// A message may have 16384 fragments, and one more for every 32 bytes.
	const most = frame.MaxFragments + frame.MaxFragments/31 + 1
	kinds := map[string]string{"empty": "", "one byte": "x"}
	pour := func(c net.Conn, payload string, masked bool) {
		first := appendFrame(nil, message{frame.Text, false, payload}, masked)
		more := bytes.Repeat(appendFrame(nil, message{frame.Continuation, false, payload}, masked), 1000)
		_, _ = c.Write(first)
		for range million / 1000 {
			if _, err := c.Write(more); err != nil {
				return
			}
		}
	}
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		if kind := c.req.URL.Query().Get("pour"); kind != "" {
			payload := kinds[strings.ReplaceAll(kind, "-", " ")]
			go pour(c.Conn, payload, false)
		}
		c.listen()
	})
	s, iss := gate(t, up, `
  - {path: /pass, upstream: "ws://UPSTREAM"}
  - {path: /check, upstream: "ws://UPSTREAM", utf8: check}
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true}
  - {path: /deflate, upstream: "ws://UPSTREAM", compression: pass}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
`)
	token := bearer(iss.token())
	s.connect("/pass", token).conn.Close()
	before := s.resident()
	var attacks sync.WaitGroup
	for name, payload := range kinds {
		for _, path := range []string{"/pass", "/check", "/inband", "/deflate", "/first"} {
			what := path + ", " + name
			var c *client
			if path == "/first" {
				c = s.connect(path)
			} else {
				c = s.connect(path, token)
			}
			ends := c.watch()
			attacks.Go(func() {
				pour(c.conn, payload, true)
				e := <-ends
				if e.code != 1009 || e.text != "message_too_big" {
					t.Errorf("%s: ended with %d %q, %v", what, e.code, e.text, e.err)
				}
				c.conn.Close()
			})
			if path == "/first" {
				continue
			}
			d := s.connect(path+"?pour="+strings.ReplaceAll(name, " ", "-"), token)
			attacks.Go(func() {
				for n := 0; ; n++ {
					m, err := d.next()
					if err != nil {
						t.Errorf("%s from the upstream: %v after %d fragments", what, err, n)
						return
					}
					if m.op == frame.Close {
						if m.payload != "\x03\xf1message_too_big" {
							t.Errorf("%s from the upstream: closed with %q", what, m.payload)
						}
						d.conn.Close()
						return
					}
					if n > most {
						t.Errorf("%s from the upstream: %d fragments and no end", what, n)
						return
					}
				}
			})
		}
	}
	attacks.Wait()
	grown := s.resident() - before
	up.mu.Lock()
	all := slices.Clone(up.conns)
	up.mu.Unlock()
	for _, uc := range all {
		uc.ended()
		if n := len(uc.got()); n > most+1 {
			t.Errorf("%s: %d fragments reached the upstream", uc.req.URL, n)
		}
	}
	bound := int64(16 << 20)
	if raceEnabled {
		bound *= 10
	}
	t.Logf("grown by %d KiB", grown>>10)
	if grown > bound {
		t.Errorf("the gateway grew by %d MiB", grown>>20)
	}
}

// DOS-04: a TLS handshake has handshake_timeout too, and so has the request
// behind it.
func TestDOS04SlowTLS(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://ADDR
tls: {cert: cert.pem, key: key.pem}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
`+generous("handshake_timeout: 1s"), iss.trusted, selfSigned)
	hello := clientHello(t)
	began := time.Now()
	var slow sync.WaitGroup
	for name, act := range map[string]func(c net.Conn){
		"silent":        func(net.Conn) {},
		"half a hello":  func(c net.Conn) { _, _ = c.Write(hello[:len(hello)/2]) },
		"byte by byte":  func(c net.Conn) { drip(c, hello) },
		"no hello":      func(c net.Conn) { drip(c, bytes.Repeat([]byte{0x16}, 100)) },
		"plain request": func(c net.Conn) { drip(c, []byte("GET /chat HTTP/1.1\r\nHost: x\r\n\r\n")) },
		"then silent": func(c net.Conn) {
			_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		},
		"then a slow request": func(c net.Conn) {
			conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			if conn.HandshakeContext(t.Context()) == nil {
				drip(conn, []byte(s.upgrade("/chat", bearer(iss.token()))))
			}
		},
	} {
		c := s.raw()
		slow.Go(func() {
			act(c.conn)
			_ = c.conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, c.conn); err != nil && os.IsTimeout(err) {
				t.Errorf("%s: not closed", name)
			}
			if d := time.Since(began); d > 2*time.Second+loaded {
				t.Errorf("%s: closed after %v", name, d)
			}
		})
	}
	slow.Wait()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
	if a := c.send(s.upgrade("/chat", bearer(iss.token()))).response(); a.status != 101 {
		t.Fatal(a.status)
	}
	c.alive()
	if up.count() != 1 {
		t.Errorf("%d connections reached the upstream", up.count())
	}
}

// drip writes one byte at a time, until that fails.
func drip(c net.Conn, b []byte) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range b {
		<-tick.C
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
	}
}

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(ours, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
	}()
	var header [5]byte
	if _, err := io.ReadFull(theirs, header[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(theirs, body); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	<-done
	return append(header[:], body...)
}

// DOS-04: whoever stops inside a frame is as idle as anybody, and a peer that
// sends a byte now and then costs no buffer and is cut by a revocation at once.
func TestDOS04SlowFrames(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, `
  - {path: /idle, upstream: "ws://UPSTREAM", limits: {idle_timeout: 1s}}
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {idle_timeout: 1s}}
  - {path: /slow, upstream: "ws://UPSTREAM"}
`)
	began := time.Now()
	ends := map[string]<-chan ending{}
	whole := string(frame.Append(nil, frame.Text, bytes.Repeat([]byte("{"), 200), true))
	for _, path := range []string{"/idle", "/inband"} {
		for _, n := range []int{1, 3, 7, 8, 9, 100} { // in the header, in the mask, in the payload
			c := s.connect(path, bearer(iss.token()))
			stop := c.conn
			_, _ = io.WriteString(stop, whole[:n])
			out := make(chan ending, 1)
			go func() { // pings are not answered
				for {
					m, err := c.next()
					if err == nil && m.op == frame.Ping {
						continue
					}
					e := ending{at: time.Now(), err: err}
					if err == nil {
						e.code, e.text, e.err = frame.ParseClose([]byte(m.payload))
					}
					stop.Close()
					out <- e
					return
				}
			}()
			ends[fmt.Sprintf("%s, %d bytes", path, n)] = out
		}
	}
	dripping := s.connect("/slow", bearer(iss.token(claims{"sub": "bob"}))).send(whole[:10])
	done := make(chan struct{})
	go func() {
		defer close(done)
		drip(dripping.conn, []byte(whole[10:]))
	}()
	for name, e := range ends {
		got := <-e
		if got.code != 1001 || got.text != "idle" {
			t.Errorf("%s: ended with %d %q, %v", name, got.code, got.text, got.err)
		}
		if d := got.at.Sub(began); d < time.Second || d > time.Second+loaded {
			t.Errorf("%s: after %v", name, d)
		}
	}
	uc := up.of(dripping)
	if s.revoke(iss, "subject", "bob") != 1 {
		t.Error("the one that drips was closed before")
	}
	(<-dripping.watch()).want(t, 3000, "subject_revoked")
	dripping.conn.Close()
	<-done
	uc.ended()
	if got := uc.got(); len(got) > 0 && slices.ContainsFunc(got, func(m message) bool { return !m.op.IsControl() }) {
		t.Errorf("the upstream received %v", got)
	}
}

// DOS-04: a process that hangs keeps its TCP connection; that it answers no ping
// any more shows within idle_timeout.
func TestDOS04StoppedProcess(t *testing.T) {
	t.Parallel()
	const idle = 2 * time.Second
	up := newUpstream(t, echo)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM", limits: {idle_timeout: 2s}}
`)
	cmd := exec.Command(commands(), "connect", "ws://"+s.addr+"/chat", "--token", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := io.WriteString(in, iss.token()+"\n"); err != nil {
		t.Fatal(err)
	}
	uc := up.last()
	// The upstream is as silent, and is pinged as often: so time is told.
	eventually(t, "more than idle_timeout, with pongs", func() bool { return len(uc.got()) > 3 })
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	uc.closed(1001, "idle")
	if d := time.Since(began); d < idle/2 || d > idle+loaded {
		t.Errorf("found out after %v, idle_timeout is %v", d, idle)
	}
}

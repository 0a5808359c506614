package wsbouncer_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/bouncertest"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

const upgradeHead = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"

// rawHandler hijacks, answers with head, and gives the connection to f.
func rawHandler(head string, f func(conn net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, head); err != nil {
			return
		}
		f(conn)
	})
}

func serve(t testing.TB, h http.Handler) *httptest.Server {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// A handler gets nothing that leads around the guard.
func TestProtectHidesTheConnectionBeneath(t *testing.T) {
	b, w := bouncer(t, nil)
	checked := make(chan error, 1)
	srv := serve(t, b.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		checked <- func() error {
			if _, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
				return errors.New("the ResponseWriter unwraps")
			}
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, ok := conn.(interface{ NetConn() net.Conn }); ok {
				return errors.New("NetConn is there")
			}
			if _, ok := conn.(syscall.Conn); ok {
				return errors.New("SyscallConn is there")
			}
			if _, ok := conn.(*tls.Conn); ok {
				return errors.New("it is the TLS connection")
			}
			if _, ok := conn.(io.ReaderFrom); ok {
				return errors.New("ReadFrom is there")
			}
			if rw.Reader.Buffered() != 0 || rw.Writer.Buffered() != 0 {
				return errors.New("the buffers are not fresh")
			}
			if r.Header.Get("Origin") != "" || r.Header.Get("Authorization") != "" {
				return errors.New("the handler sees Origin or credential")
			}
			if p := wsbouncer.FromContext(r.Context()); p == nil || p.Origin != appOrigin {
				return fmt.Errorf("principal %+v", p)
			}
			if _, _, err := w.(http.Hijacker).Hijack(); err == nil {
				return errors.New("it can be hijacked twice")
			}
			return nil
		}()
	})))
	c := rawDial(t, srv)
	_, _ = io.WriteString(c.conn, head("/ws", auth(w.token())))
	if err := <-checked; err != nil {
		t.Error(err)
	}
}

func TestHS10BearerIsTheAnswerWhenTheHandlerChoseNone(t *testing.T) {
	for _, c := range []struct{ offer, head, want string }{
		{"bearer, %s", upgradeHead, "bearer"},
		{"bearer, %s, chat", upgradeHead + "Sec-WebSocket-Protocol: chat\r\n", "chat"},
		{"chat", upgradeHead, ""},
	} {
		b, w := bouncer(t, nil)
		raw := w.token()
		srv := serve(t, b.Protect(rawHandler(c.head+"\r\n", func(conn net.Conn) { _, _ = conn.Read(make([]byte, 10)) })))
		h := http.Header{"Origin": {appOrigin}}
		if strings.Contains(c.offer, "%s") {
			h.Set("Sec-WebSocket-Protocol", fmt.Sprintf(c.offer, raw))
		} else {
			h.Set("Sec-WebSocket-Protocol", c.offer)
			h.Set("Authorization", "Bearer "+raw)
		}
		cl := dial(t, srv, "/ws", h).want101()
		if got := cl.resp.Header["Sec-Websocket-Protocol"]; strings.Join(got, "|") != c.want {
			t.Errorf("offered %q: answered %q, want %q", c.offer, got, c.want)
		}
		cl.conn.Close()
	}
}

// A frame written in pieces is finished before our close frame, within a second.
func TestEndingFinishesTheFrameUnderWay(t *testing.T) {
	b, w := bouncer(t, nil)
	half, proceed, result := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	srv := serve(t, b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
		f := frame.Append(nil, frame.Text, []byte("hello world"), false)
		for _, piece := range [][]byte{f[:1], f[1:2], f[2:7]} { // even the header in pieces
			if _, err := conn.Write(piece); err != nil {
				t.Error(err)
			}
		}
		close(half)
		<-proceed
		n, err := conn.Write(append(f[7:], frame.Append(nil, frame.Text, []byte("too late"), false)...))
		if n != len(f)-7 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("the rest of the frame and another: %d, %v", n, err)
		}
		_, err = conn.Write(f)
		result <- err
	})))
	c := dial(t, srv, "/ws", auth(w.token())).want101()
	<-half
	for l := range b.Live() {
		l.End(reason.TokenExpired)
	}
	close(proceed)
	c.wantText("hello world")
	c.wantClose(reason.TokenExpired)
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("written after the end: %v", err)
	}
}

// In the middle of a frame a revocation cuts: there is no place for a close frame.
func TestRevocationCutsInsideAFrame(t *testing.T) {
	b, w := bouncer(t, nil)
	half, wrote := make(chan struct{}), make(chan error, 1)
	proceed := make(chan struct{})
	srv := serve(t, b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
		f := frame.Append(nil, frame.Text, []byte("hello world"), false)
		_, _ = conn.Write(f[:7])
		close(half)
		<-proceed
		_, err := conn.Write(f[7:])
		wrote <- err
	})))
	c := dial(t, srv, "/ws", auth(w.token())).want101()
	<-half
	if n := b.Apply(wsbouncer.Session("s1")); n != 1 {
		t.Fatalf("ended %d", n)
	}
	close(proceed)
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the rest of the frame was accepted: %v", err)
	}
	rest, _ := io.ReadAll(c.br)
	if string(rest) != string(frame.Append(nil, frame.Text, []byte("hello world"), false)[:7]) {
		t.Errorf("the client got %q", rest)
	}
}

// What the handler's reads see of an end, inside a frame and between two.
func TestReadsAfterTheEnd(t *testing.T) {
	f := frame.Append(nil, frame.Binary, []byte("0123456789"), true)
	for name, c := range map[string]struct {
		sent []byte
		size int // of the handler's reads
		got  int // bytes the handler has when it ends
		want error
	}{
		"between frames":              {f, 512, len(f), io.EOF},
		"inside a frame":              {f[:9], 512, 9, io.ErrUnexpectedEOF},
		"a header is not handed out":  {append(f[:len(f):len(f)], f[:3]...), 512, len(f), io.EOF},
		"small reads, between frames": {f, 2, len(f), io.EOF},
		"small reads, inside a frame": {f, 2, 8, io.ErrUnexpectedEOF},
		"nothing sent":                {nil, 512, 0, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			reached, result := make(chan struct{}), make(chan string, 1)
			srv := serve(t, b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
				var got []byte
				buf := make([]byte, c.size)
				for len(got) < c.got {
					n, err := conn.Read(buf)
					if err != nil {
						t.Errorf("before the end: %v", err)
						break
					}
					got = append(got, buf[:n]...)
				}
				close(reached)
				<-wsbouncerEnded(b)
				var tail []byte
				for {
					n, err := conn.Read(buf)
					tail = append(tail, buf[:n]...)
					if err != nil {
						if !errors.Is(err, c.want) {
							t.Errorf("the last read: %v, want %v", err, c.want)
						}
						break
					}
				}
				result <- string(tail)
			})))
			cl := dial(t, srv, "/ws", auth(w.token())).want101()
			_, _ = cl.conn.Write(c.sent)
			<-reached
			b.Apply(wsbouncer.Session("s1"))
			tail := <-result
			if !errors.Is(c.want, io.EOF) {
				if tail != "" {
					t.Errorf("bytes inside a frame after the end: %q", tail)
				}
				return
			}
			h, n, err := frame.ParseHeader([]byte(tail))
			if err != nil || n == 0 || h.Op != frame.Close || !h.Masked {
				t.Fatalf("the handler read %q", tail)
			}
			code, text, _ := frame.ParseClose(frame.AppendPayload(nil, []byte(tail)))
			if code != 3000 || text != "session_revoked" {
				t.Errorf("the handler read a close frame with %d %q", code, text)
			}
		})
	}
}

// wsbouncerEnded is the Done of b's one connection.
func wsbouncerEnded(b *wsbouncer.Bouncer) <-chan struct{} {
	for l := range b.Live() {
		return l.Done()
	}
	done := make(chan struct{})
	close(done)
	return done
}

func TestHS05BytesBeforeTheAnswerEndTheHandshake(t *testing.T) {
	eachEcho(t, func(t *testing.T, echo func(chan<- outcome) http.Handler, serve func(http.Handler) *httptest.Server) {
		b, w := bouncer(t, nil)
		ended := make(chan outcome, 1)
		c := rawDial(t, serve(b.Protect(echo(ended))))
		_, _ = io.WriteString(c.conn, head("/ws", auth(w.token()))+"GET /admin HTTP/1.1\r\nHost: example.com\r\n\r\n")
		c.response()
		if c.resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d", c.resp.StatusCode)
		}
		if o := <-ended; o.err == nil {
			t.Error("the handler got a connection")
		}
		_, _ = io.Copy(io.Discard, c.resp.Body)
		if rest, _ := io.ReadAll(c.br); len(rest) > 0 {
			t.Errorf("more was answered: %q", rest)
		}
		noneLeft(t, b)
	})
}

func noneLeft(t *testing.T, b *wsbouncer.Bouncer) {
	t.Helper()
	for range b.Live() {
		t.Error("a connection is still registered")
	}
}

func TestHandlersThatDoNotUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		h      http.HandlerFunc
		status int
		body   string
	}{
		"an answer": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "short and stout")
		}, http.StatusTeapot, "short and stout"},
		"nothing":              {func(http.ResponseWriter, *http.Request) {}, http.StatusOK, ""},
		"a 101 never hijacked": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusSwitchingProtocols) }, http.StatusInternalServerError, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			c2 := dial(t, serve(t, b.Protect(c.h)), "/ws", auth(w.token()))
			body, _ := io.ReadAll(c2.resp.Body)
			if c2.resp.StatusCode != c.status || string(body) != c.body {
				t.Errorf("%d %q", c2.resp.StatusCode, body)
			}
			waitNone(t, b)
		})
	}
	t.Run("its own answer on the raw connection", func(t *testing.T) {
		b, w := bouncer(t, nil)
		h := rawHandler("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", func(net.Conn) {})
		c := dial(t, serve(t, b.Protect(h)), "/ws", auth(w.token()))
		body, _ := io.ReadAll(c.resp.Body)
		if c.resp.StatusCode != http.StatusForbidden || string(body) != "no" {
			t.Errorf("%d %q", c.resp.StatusCode, body)
		}
		waitNone(t, b)
	})
}

// waitNone waits until every connection has been released, which Shutdown does.
func waitNone(t *testing.T, b *wsbouncer.Bouncer) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	if err := b.Shutdown(ctx, 0); err != nil {
		t.Errorf("a connection was never released: %v", err)
	}
}

func TestResponseHeadsAreBoundedAndParsed(t *testing.T) {
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"too long": {upgradeHead + "X: " + strings.Repeat("a", 17<<10) + "\r\n\r\n", http.StatusServiceUnavailable},
		"no HTTP":  {"hello there\r\n\r\n", http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			c2 := dial(t, serve(t, b.Protect(rawHandler(c.head, func(net.Conn) {}))), "/ws", auth(w.token()))
			if c2.resp.StatusCode != c.status {
				t.Errorf("status %d", c2.resp.StatusCode)
			}
			waitNone(t, b)
		})
	}
	t.Run("in pieces, with a frame behind it", func(t *testing.T) {
		b, w := bouncer(t, nil)
		h := rawHandler("", func(conn net.Conn) {
			all := append([]byte(upgradeHead+"\r\n"), frame.Append(nil, frame.Text, []byte("first"), false)...)
			for i := range all {
				if n, err := conn.Write(all[i : i+1]); n != 1 || err != nil {
					t.Errorf("byte %d: %d, %v", i, n, err)
				}
			}
			_, _ = conn.Read(make([]byte, 1))
		})
		c := dial(t, serve(t, b.Protect(h)), "/ws", auth(w.token())).want101()
		c.wantText("first")
	})
}

// Revoked between admission and answer: the client never sees a 101.
func TestSES06RevokedBeforeTheAnswer(t *testing.T) {
	b, w := bouncer(t, nil)
	raw := w.token()
	h := b.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		b.Apply(wsbouncer.Session("s1"))
		if _, err := io.WriteString(conn, upgradeHead+"\r\n"); err == nil {
			t.Error("the handler could answer")
		}
	}))
	c := rawDial(t, serve(t, h))
	_, _ = io.WriteString(c.conn, head("/ws", auth(raw)))
	if rest, _ := io.ReadAll(c.br); strings.Contains(string(rest), " 101 ") {
		t.Errorf("answered %q", rest)
	}

	// And before it has hijacked: an ordinary refusal.
	raw = w.add(func(t *token.Token) { t.Session = "s2" })
	h = b.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.Apply(wsbouncer.Session("s2"))
		if _, _, err := w.(http.Hijacker).Hijack(); err == nil {
			t.Error("hijacked")
		}
		http.Error(w, "upgrade failed", http.StatusInternalServerError)
	}))
	c = dial(t, serve(t, h), "/ws", auth(raw))
	if c.resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d", c.resp.StatusCode)
	}
}

func TestLimitsOfTheClient(t *testing.T) {
	big := frame.AppendHeader(nil, frame.Header{Fin: true, Op: frame.Binary, Masked: true, Length: 1 << 40})
	for name, c := range map[string]struct {
		limits wsbouncer.Limits
		send   []byte
		want   wsbouncer.Reason
	}{
		"FRM-08 announced too big": {wsbouncer.Limits{}, big, reason.MessageTooBig},
		"DOS-01 sum of fragments": {wsbouncer.Limits{MessageBytes: 10}, append(
			append(frame.AppendHeader(nil, frame.Header{Op: frame.Text, Masked: true, Length: 6}), "aaaaaa"...),
			frame.AppendHeader(nil, frame.Header{Fin: true, Op: frame.Continuation, Masked: true, Length: 6})...), reason.MessageTooBig},
		"FRM-04 unmasked": {wsbouncer.Limits{}, frame.Append(nil, frame.Text, []byte("hi"), false), reason.ProtocolError},
		"DOS-02 messages": {wsbouncer.Limits{MessageRate: wsbouncer.Rate{PerSecond: 1, Burst: 2}},
			[]byte(strings.Repeat(string(frame.Append(nil, frame.Text, nil, true)), 3)), reason.RateLimited},
		"DOS-06 pings": {wsbouncer.Limits{MessageRate: wsbouncer.Rate{PerSecond: 1, Burst: 2}},
			[]byte(strings.Repeat(string(frame.AppendPing(nil, nil, true)), 3)), reason.RateLimited},
		"DOS-02 bytes": {wsbouncer.Limits{ByteRate: wsbouncer.Rate{PerSecond: 1, Burst: 20}},
			frame.Append(nil, frame.Text, make([]byte, 100), true), reason.RateLimited},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			read := make(chan int, 1)
			h := b.Require(wsbouncer.Demand{Limits: &c.limits}).Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
				n, _ := io.Copy(io.Discard, conn)
				read <- int(n)
			}))
			cl := dial(t, serve(t, h), "/ws", auth(w.token())).want101()
			_, _ = cl.conn.Write(c.send)
			cl.wantClose(c.want)
			if n := <-read; n > 2+4+125 {
				t.Errorf("the handler read %d bytes, more than the close frame", n)
			}
		})
	}
}

// SES-10: what the client sends after the decision never reaches the handler.
func TestSES10NothingGoesOnAfterTheEnd(t *testing.T) {
	b, w := bouncer(t, func(o *wsbouncer.Options) {
		o.Limits.MessageRate, o.Limits.ByteRate = wsbouncer.Rate{PerSecond: -1}, wsbouncer.Rate{PerSecond: -1}
	})
	const n = 50
	delivered := make(chan int, 1)
	progress := make(chan struct{}, 1)
	srv := serve(t, b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
		br := bufio.NewReader(conn)
		total := 0
		one := len(frame.Append(nil, frame.Text, []byte("0000000000"), true))
		buf := make([]byte, one)
		for {
			if _, err := io.ReadFull(br, buf[:2]); err != nil || buf[0]&0x0f == byte(frame.Close) {
				break
			}
			if _, err := io.ReadFull(br, buf[2:]); err != nil {
				break
			}
			if total++; total == n {
				progress <- struct{}{}
				<-wsbouncerEnded(b)
				// Everything our own buffer had is ours; what comes now is new.
				_, _ = br.Discard(br.Buffered())
				total = 0
			}
		}
		delivered <- total
	})))
	c := dial(t, srv, "/ws", auth(w.token())).want101()
	stop := make(chan struct{})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.conn.Write(frame.Append(nil, frame.Text, fmt.Appendf(nil, "%010d", i), true)); err != nil {
				return
			}
		}
	}()
	<-progress
	b.Apply(wsbouncer.Session("s1"))
	if got := <-delivered; got > 0 {
		t.Errorf("%d messages were delivered after the end", got)
	}
	close(stop)
	c.conn.Close()
	<-flooded
}

func TestIdleClientsArePingedAndThenEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := bouncertest.NewIssuer(t)
		// Not at the moment of a ping: a pipe holds nothing, so a pong and our
		// close frame under way at once would wait for one another.
		is.Life = time.Hour + 5*time.Second
		b, err := wsbouncer.New(wsbouncer.Options{
			Verifier: is.Verifier(), Origins: []string{appOrigin}, Logger: quiet(),
			Limits: wsbouncer.Limits{IdleTimeout: 30 * time.Second},
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		h := b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }))
		c := bouncertest.Dial(t, h, "/ws", http.Header{"Authorization": {"Bearer " + is.Token("alice")}})
		code, text := c.Closed()
		if code != 3000 || text != "token_expired" || time.Since(begin) < time.Hour {
			t.Errorf("a client that answers pings: %d %q after %v", code, text, time.Since(begin))
		}

		begin = time.Now()
		silent := bouncertest.Dial(t, h, "/ws", http.Header{"Authorization": {"Bearer " + is.Token("alice")}})
		pings, code, text := silent.Ignore()
		if code != 1001 || text != "idle" || pings != 2 {
			t.Errorf("a silent client: %d %q after %d pings", code, text, pings)
		}
		if late := time.Since(begin) - 30*time.Second; late < 0 || late > time.Second {
			t.Errorf("ended %v after the idle time", late)
		}
		if err := b.Shutdown(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

// A client that reads nothing is cut after WriteTimeout.
func TestDOS05ClientsThatDoNotRead(t *testing.T) {
	b, w := bouncer(t, nil)
	seen := make(chan error, 1)
	d := wsbouncer.Demand{Limits: &wsbouncer.Limits{WriteTimeout: 200 * time.Millisecond}}
	srv := serve(t, b.Require(d).Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
		f := frame.Append(nil, frame.Binary, make([]byte, 1<<20), false)
		for {
			if _, err := conn.Write(f); err != nil {
				seen <- err
				return
			}
		}
	})))
	c := rawDial(t, srv)
	_, _ = io.WriteString(c.conn, head("/ws", auth(w.token())))
	var netErr net.Error
	if err := <-seen; !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("the handler's write: %v", err)
	}
	waitNone(t, b)
}

// The handler's own deadlines work as without the library.
func TestTheHandlersDeadlines(t *testing.T) {
	b, w := bouncer(t, nil)
	result := make(chan error, 2)
	srv := serve(t, b.Protect(rawHandler(upgradeHead+"\r\n", func(conn net.Conn) {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := conn.Read(make([]byte, 1))
		result <- err
		_ = conn.SetDeadline(time.Time{})
		n, err := conn.Read(make([]byte, 512))
		if n == 0 {
			result <- err
			return
		}
		result <- nil
		_ = conn.SetWriteDeadline(time.Unix(1, 0))
		_, err = conn.Write(frame.Append(nil, frame.Text, nil, false))
		result <- err
	})))
	c := dial(t, srv, "/ws", auth(w.token())).want101()
	var netErr net.Error
	if err := <-result; !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("read deadline: %v", err)
	}
	c.send(frame.Text, "x")
	if err := <-result; err != nil {
		t.Errorf("reading after the deadline was taken back: %v", err)
	}
	if err := <-result; !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("write deadline: %v", err)
	}
}

func TestSES01ProtectEndsAtTheDeadline(t *testing.T) {
	eachEcho(t, func(t *testing.T, echo func(chan<- outcome) http.Handler, serve func(http.Handler) *httptest.Server) {
		b, w := bouncer(t, nil)
		ended := make(chan outcome, 1)
		deadline := time.Now().Add(300 * time.Millisecond)
		raw := w.add(func(t *token.Token) { t.Expiry = deadline })
		c := dial(t, serve(b.Protect(echo(ended))), "/ws", auth(raw)).want101()
		c.wantClose(reason.TokenExpired)
		if late := time.Since(deadline); late < 0 {
			t.Errorf("closed %v early", -late)
		}
		if o := <-ended; o.code != 3000 {
			t.Errorf("the handler saw %d: %v", o.code, o.err)
		}
	})
}

func TestRefusalsOverHTTP(t *testing.T) {
	seen := make(watch, 16)
	b, w := bouncer(t, func(o *wsbouncer.Options) { o.Observer = seen })
	raw := w.token()
	h := b.Require(wsbouncer.Demand{Scopes: []string{"chat:write"}, Route: "/ws"}).Protect(http.NotFoundHandler())
	srv := serve(t, h)
	for name, c := range map[string]struct {
		header http.Header
		status int
		want   map[string]string
		code   string
	}{
		"AUT-01 none":    {http.Header{"Origin": {appOrigin}}, 401, map[string]string{"WWW-Authenticate": "Bearer"}, "token_missing"},
		"AUT-01 invalid": {auth("x"), 401, map[string]string{"WWW-Authenticate": `Bearer error="invalid_token"`}, "token_signature"},
		"AUT-01 scope":   {auth(raw), 403, map[string]string{"WWW-Authenticate": `Bearer error="insufficient_scope", scope="chat:write"`}, "insufficient_scope"},
		"HS-01":          {http.Header{"Sec-Websocket-Version": {"8"}}, 400, map[string]string{"Connection": "close"}, "bad_handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dial(t, srv, "/ws", c.header)
			body, _ := io.ReadAll(cl.resp.Body)
			if cl.resp.StatusCode != c.status || !strings.Contains(string(body), `"code":"`+c.code+`"`) {
				t.Errorf("%d %s", cl.resp.StatusCode, body)
			}
			if cl.resp.Header.Get("Cache-Control") != "no-store" || cl.resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("header %v", cl.resp.Header)
			}
			for k, v := range c.want {
				got := cl.resp.Header.Get(k)
				if k == "Connection" && cl.resp.Close {
					got = "close" // net/http takes that field away
				}
				if got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			e := seen.wait(t, "refused")
			if e.Duration <= 0 || e.Refusal.Code != c.code || e.Route != "/ws" || (e.Subject == "alice") != (c.status == 403) {
				t.Errorf("observed %+v", e)
			}
		})
	}
}

// Refused connections that linger for their farewell count as their address's,
// however fast it has itself refused.
func TestRejectByCloseLingersWithinTheLimitByAddress(t *testing.T) {
	const most = 3
	b, _ := bouncer(t, func(o *wsbouncer.Options) { o.Limits.ConnectionsPerIP = most })
	srv := serve(t, b.Require(wsbouncer.Demand{RejectByClose: true}).Protect(http.NotFoundHandler()))
	// Nobody answers the close frame; time is what each was left for that.
	left := make(chan time.Duration, 4*most)
	refused := func() {
		began, cl := time.Now(), dial(t, srv, "/ws", nil).want101()
		go func() {
			if h, _, err := cl.next(); err != nil || h.Op != frame.Close {
				t.Errorf("%v, %v", h.Op, err)
			}
			if _, err := cl.br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("instead of the end: %v", err)
			}
			left <- time.Since(began)
		}()
	}
	for range 4 * most {
		refused()
	}
	lingered := 0
	for range 4 * most {
		if d := <-left; d > 900*time.Millisecond {
			lingered++
		}
	}
	if lingered > most {
		t.Errorf("%d lingered at once, %d may", lingered, most)
	}
	refused()
	if d := <-left; d < 900*time.Millisecond {
		t.Errorf("with room again it was left %v", d)
	}
}

func TestRejectByClose(t *testing.T) {
	b, w := bouncer(t, nil)
	h := b.Require(wsbouncer.Demand{RejectByClose: true, Scopes: []string{"chat:write"}}).Protect(http.NotFoundHandler())
	srv := serve(t, h)
	for name, c := range map[string]struct {
		header   http.Header
		want     wsbouncer.Reason
		protocol string
	}{
		"missing":     {http.Header{"Origin": {appOrigin}}, wsbouncer.Reason{Code: 3000, Text: "token_missing"}, ""},
		"scope":       {auth(w.token()), wsbouncer.Reason{Code: 3003, Text: "insufficient_scope"}, ""},
		"subprotocol": {http.Header{"Sec-Websocket-Protocol": {"bearer, x, chat"}}, wsbouncer.Reason{Code: 3000, Text: "token_signature"}, "bearer"},
		"offered":     {http.Header{"Sec-Websocket-Protocol": {"chat, v2"}}, wsbouncer.Reason{Code: 3000, Text: "token_missing"}, "chat"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dial(t, srv, "/ws", c.header).want101()
			if got := cl.resp.Header.Get("Sec-WebSocket-Protocol"); got != c.protocol {
				t.Errorf("protocol %q", got)
			}
			if cl.resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Error("wrong accept key")
			}
			cl.wantClose(c.want)
		})
	}
	// A page that may not connect learns nothing by a 101 either, not even that
	// it is too fast.
	slow, _ := bouncer(t, func(o *wsbouncer.Options) { o.Limits.HandshakesPerIP = wsbouncer.Rate{PerSecond: 0.001, Burst: 1} })
	limited := serve(t, slow.Require(wsbouncer.Demand{RejectByClose: true}).Protect(http.NotFoundHandler()))
	dial(t, limited, "/ws", nil)
	dial(t, limited, "/ws", nil).want101().wantClose(wsbouncer.Reason{Code: 1013, Text: "too_many_handshakes"})
	if cl := dial(t, limited, "/ws", http.Header{"Origin": {"https://evil.test"}}); cl.resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("another page: status %d", cl.resp.StatusCode)
	}
	// Where it would not be safe, or means nothing, it stays HTTP.
	for name, header := range map[string]http.Header{
		"origin": {"Origin": {"https://evil.test"}},
		"twice":  {"Authorization": {"Bearer a", "Bearer b"}},
		"key":    {"Sec-Websocket-Key": {"x"}},
	} {
		if cl := dial(t, srv, "/ws", header); cl.resp.StatusCode < 400 {
			t.Errorf("%s: status %d", name, cl.resp.StatusCode)
		}
	}
}

package front_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/front"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	t    *testing.T
	addr string
	held atomic.Int64 // places taken
	stop func()
}

// newRig serves h with a Front and net/http's Server behind it.
func newRig(t *testing.T, h http.Handler) *rig {
	t.Helper()
	loops, err := relay.NewLoops(2)
	if err != nil {
		if runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		t.Skip("there are no loops on this system")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, addr: l.Addr().String()}
	f := front.New(l.Addr(), front.Options{
		Loops: loops, Handler: h, MaxHead: 4096, Patience: 10 * time.Second, WriteTimeout: 10 * time.Second,
		Enter: func(netip.Addr, int) bool { r.held.Add(1); return true }, Leave: func(netip.Addr) { r.held.Add(-1) },
		Log: slog.New(slog.DiscardHandler),
	})
	server := &http.Server{Handler: h}
	looping, endLoops := context.WithCancel(context.Background())
	serving, endServing := context.WithCancel(context.Background())
	var outer, inner sync.WaitGroup
	outer.Go(func() { _ = loops.Run(looping) })
	inner.Go(func() {
		if err := f.Serve(serving, l.(*net.TCPListener)); err != nil {
			t.Error(err)
		}
	})
	inner.Go(func() { _ = server.Serve(f.Rest()) })
	r.stop = sync.OnceFunc(func() {
		endServing()
		_ = server.Close()
		inner.Wait()
		endLoops()
		outer.Wait()
		if n := r.held.Load(); n != 0 {
			t.Errorf("%d places are still held", n)
		}
	})
	t.Cleanup(r.stop)
	return r
}

const handshake = "GET /ws HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

type peer struct {
	net.Conn
	r *bufio.Reader
}

func (r *rig) says(texts ...string) *peer {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for _, text := range texts {
		if _, err := io.WriteString(c, text); err != nil {
			r.t.Fatal(err)
		}
	}
	return &peer{c, bufio.NewReader(c)}
}

func (p *peer) answers(t *testing.T) (status int, body string, closes bool) {
	t.Helper()
	res, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Close
}

// who tells which way a request came.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, own := w.(interface{ Socket() *relay.Socket })
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%v %s %s %s", own, r.Method, r.URL, r.RemoteAddr)
})

func TestHandshakesAreTakenAndTheRestIsNetHTTPs(t *testing.T) {
	r := newRig(t, who)
	for name, c := range map[string]struct {
		texts []string
		own   bool
	}{
		"handshake":       {[]string{handshake + "\r\n"}, true},
		"request":         {[]string{"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n"}, false},
		"with more":       {[]string{handshake + "\r\nmore"}, false},
		"long":            {[]string{handshake + "X: " + strings.Repeat("x", 5000) + "\r\n\r\n"}, false},
		"odd":             {[]string{handshake + "X:\ty\r\n\r\n"}, false},
		"with a body":     {[]string{handshake + "Content-Length: 2\r\n\r\n", "hi"}, false},
		"in two pieces":   {[]string{handshake, "\r\n"}, true}, // or net/http's: see below
		"bare line feeds": {[]string{strings.ReplaceAll(handshake, "\r\n", "\n") + "\n"}, false},
	} {
		p := r.says(c.texts...)
		status, body, closes := p.answers(t)
		own := strings.HasPrefix(body, "true ")
		if want := "GET /ws " + p.LocalAddr().String(); status != http.StatusTeapot || !strings.HasSuffix(body, want) {
			t.Errorf("%s: %d %q, want %q", name, status, body, want)
		}
		if name != "in two pieces" && own != c.own {
			t.Errorf("%s: %q", name, body)
		}
		if closes != own {
			t.Errorf("%s: closes %v", name, closes)
		}
	}
	// What is net/http's stays its own, keep-alive included.
	p := r.says("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", handshake+"\r\n")
	_, _, _ = p.answers(t)
	if _, body, _ := p.answers(t); !strings.HasPrefix(body, "false GET /ws") {
		t.Error(body)
	}
}

func TestHijackGivesAConnection(t *testing.T) {
	early := make(chan int, 1)
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			<-r.Context().Done() // more has come, and the end
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		early <- rw.Reader.Buffered()
		_, _ = io.Copy(c, rw)
	}))
	p := r.says(handshake + "\r\n")
	if n := <-early; n != 0 {
		t.Errorf("%d bytes before any were sent", n)
	}
	_, _ = io.WriteString(p, "echo")
	b := make([]byte, 4)
	if _, err := io.ReadFull(p.r, b); string(b) != "echo" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	p.Close()

	p = r.says(handshake + "X-Wait: yes\r\n\r\n")
	_, _ = io.WriteString(p, "more")
	_ = p.Conn.(*net.TCPConn).CloseWrite()
	if n := <-early; n != 4 {
		t.Errorf("%d bytes before the answer, of 4", n)
	}
	if got, err := io.ReadAll(p.r); string(got) != "more" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestTheContextEndsWithTheClient(t *testing.T) {
	came, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(came)
		<-r.Context().Done()
		close(ended)
	}))
	p := r.says(handshake + "\r\n")
	<-came
	p.Close()
	<-ended
}

func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Panic") != "" {
			_, _ = io.WriteString(w, "half")
			panic("as told")
		}
	}))
	if got, err := io.ReadAll(r.says(handshake + "X-Panic: yes\r\n\r\n")); len(got) > 0 {
		t.Errorf("%q %v", got, err)
	}
	if status, _, _ := r.says(handshake + "\r\n").answers(t); status != http.StatusOK {
		t.Error(status)
	}
}

func TestServeEndsWhenItsHandshakesDo(t *testing.T) {
	came, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(came)
		<-goOn
	}))
	p := r.says(handshake + "\r\n")
	<-came
	silent := r.says()
	other := make(chan struct{})
	go func() { r.stop(); close(other) }()
	if n, err := silent.r.ReadByte(); err == nil {
		t.Errorf("byte %d", n)
	}
	select {
	case <-other:
		t.Fatal("a handshake was left behind")
	default:
	}
	close(goOn)
	if status, _, _ := p.answers(t); status != http.StatusOK {
		t.Error(status)
	}
	<-other
}

package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// Options are what a Front is made of. All are needed.
type Options struct {
	Loops   *relay.Loops
	Handler http.Handler
	// MaxHead bounds a head, in bytes: longer ones are net/http's to refuse.
	MaxHead int
	// Patience is how long a client may say nothing.
	Patience time.Duration
	// WriteTimeout bounds the writing of a refusal.
	WriteTimeout time.Duration
	// Enter asks for a place for a client, whose descriptor has that number,
	// before a byte of it is read, and Leave gives it back, when the client is a
	// WebSocket, gone, or net/http's.
	Enter func(addr netip.Addr, descriptor int) bool
	Leave func(netip.Addr)
	// Failed is told, again and again, why nothing can be accepted.
	Failed func(error)
	Log    *slog.Logger
}

// A Front serves one listener. Serve it once, and net/http's Server with Rest
// beside it.
type Front struct {
	o    Options
	rest rest

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup // handshakes
}

// New is a Front for a listener at addr.
func New(addr net.Addr, o Options) *Front {
	return &Front{o: o, rest: rest{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}}
}

// Rest listens for the connections that are net/http's.
func (f *Front) Rest() net.Listener { return &f.rest }

// Serve accepts on l until ctx ends, closes it, and returns when all handshakes
// are over.
func (f *Front) Serve(ctx context.Context, l *net.TCPListener) error {
	err := f.o.Loops.Listen(ctx, l, relay.Listener{
		Accept: func(a netip.AddrPort, fd int) bool { return f.o.Enter(a.Addr(), fd) },
		First:  f.first, Gone: func(a netip.AddrPort) { f.o.Leave(a.Addr()) },
		Patience: f.o.Patience,
		Failed:   f.o.Failed,
	})
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.running.Wait()
	return err
}

// first runs on a loop: whatever may take long is done on a goroutine.
func (f *Front) first(s *relay.Socket, b []byte) {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		_ = s.Close()
		f.o.Leave(s.Remote().Addr())
		return
	}
	f.running.Add(1)
	f.mu.Unlock()
	if end := bytes.Index(b[:min(len(b), f.o.MaxHead)], []byte(endOfHead)); end > 0 {
		head, early := string(b[:end]), len(b) > end+len(endOfHead)
		if !early {
			go f.handshake(s, head)
			return
		}
	}
	go f.other(s, bytes.Clone(b))
}

// other gives a connection to net/http, with what was read of it.
func (f *Front) other(s *relay.Socket, b []byte) {
	defer f.running.Done()
	from := s.Remote().Addr()
	c, err := s.Conn()
	f.o.Leave(from)
	if err != nil {
		return
	}
	f.rest.give(&conn{TCPConn: c, first: b})
}

// handshake serves one request, as net/http would.
func (f *Front) handshake(s *relay.Socket, head string) {
	r := parse(head)
	if r == nil {
		f.other(s, []byte(head+endOfHead))
		return
	}
	defer f.running.Done()
	r.RemoteAddr = s.Remote().String()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.OnGone(cancel)
	w := &response{f: f, s: s, header: http.Header{}}
	defer w.end()
	defer func() {
		if v := recover(); v != nil {
			w.broken = true
			if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				f.o.Log.Error("panic in a handler", "what", fmt.Sprint(v), "stack", string(debug.Stack()))
			}
		}
	}()
	f.o.Handler.ServeHTTP(w, r.WithContext(ctx))
}

// rest is a listener that is given its connections.
type rest struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *rest) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (l *rest) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *rest) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *rest) Addr() net.Addr { return l.addr }

// conn reads again what was read already.
type conn struct {
	*net.TCPConn
	mu    sync.Mutex
	first []byte
}

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		c.mu.Unlock()
		return n, nil
	}
	c.mu.Unlock()
	return c.TCPConn.Read(b)
}

// Plain is the connection itself, once nothing else is to be read before it.
func (c *conn) Plain() (*net.TCPConn, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn, len(c.first) == 0
}

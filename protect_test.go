package wsbouncer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

func dialServer(srv *httptest.Server) (net.Conn, error) {
	addr := srv.Listener.Addr().String()
	if srv.TLS != nil {
		return tls.Dial("tcp", addr, &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
	}
	return net.Dial("tcp", addr)
}

// outcome is how a handler's connection ended, as its WebSocket package saw it.
type outcome struct {
	code int
	err  error
}

// echoes are handlers that upgrade with one package each, echo messages, and
// tell how it ended. None of them knows of wsbouncer.
var echoes = map[string]func(ended chan<- outcome) http.Handler{
	"coder": func(ended chan<- outcome) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
			if err != nil {
				ended <- outcome{err: err}
				return
			}
			defer c.CloseNow()
			for {
				typ, msg, err := c.Read(context.Background())
				if err != nil {
					ended <- outcome{int(websocket.CloseStatus(err)), err}
					return
				}
				if err := c.Write(context.Background(), typ, msg); err != nil {
					ended <- outcome{err: err}
					return
				}
			}
		})
	},
	"gorilla": func(ended chan<- outcome) http.Handler {
		up := gorilla.Upgrader{Subprotocols: []string{"chat"}}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := up.Upgrade(w, r, nil)
			if err != nil {
				ended <- outcome{err: err}
				return
			}
			defer c.Close()
			for {
				typ, msg, err := c.ReadMessage()
				if err != nil {
					o := outcome{err: err}
					var ce *gorilla.CloseError
					if errors.As(err, &ce) {
						o.code = ce.Code
					}
					ended <- o
					return
				}
				if err := c.WriteMessage(typ, msg); err != nil {
					ended <- outcome{err: err}
					return
				}
			}
		})
	},
	"gobwas": func(ended chan<- outcome) http.Handler {
		up := ws.HTTPUpgrader{Protocol: func(p string) bool { return p == "chat" }}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, _, err := up.Upgrade(r, w)
			if err != nil {
				ended <- outcome{err: err}
				return
			}
			// As its users do: the handler returns and the connection lives on.
			go func() {
				defer conn.Close()
				for {
					msg, op, err := wsutil.ReadClientData(conn)
					if err != nil {
						o := outcome{err: err}
						var ce wsutil.ClosedError
						if errors.As(err, &ce) {
							o.code = int(ce.Code)
						}
						ended <- o
						return
					}
					if err := wsutil.WriteServerMessage(conn, op, msg); err != nil {
						ended <- outcome{err: err}
						return
					}
				}
			}()
		})
	},
}

// gwsEcho is the event handler of lxzan/gws.
type gwsEcho struct {
	gws.BuiltinEventHandler
	ended chan<- outcome
}

func (e *gwsEcho) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}

func (e *gwsEcho) OnClose(_ *gws.Conn, err error) {
	o := outcome{err: err}
	var ce *gws.CloseError
	if errors.As(err, &ce) {
		o.code = int(ce.Code)
	}
	e.ended <- o
}

func init() {
	echoes["gws"] = func(ended chan<- outcome) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			up := gws.NewUpgrader(&gwsEcho{ended: ended}, nil)
			c, err := up.Upgrade(w, r)
			if err != nil {
				ended <- outcome{err: err}
				return
			}
			go c.ReadLoop()
		})
	}
}

// eachEcho runs f with every package, with and without TLS.
func eachEcho(t *testing.T, f func(t *testing.T, echo func(chan<- outcome) http.Handler, serve func(http.Handler) *httptest.Server)) {
	for name, echo := range echoes {
		for _, secure := range []bool{false, true} {
			t.Run(name+map[bool]string{true: "/tls", false: "/tcp"}[secure], func(t *testing.T) {
				f(t, echo, func(h http.Handler) *httptest.Server {
					srv := httptest.NewUnstartedServer(h)
					if secure {
						srv.StartTLS()
					} else {
						srv.Start()
					}
					t.Cleanup(srv.Close)
					return srv
				})
			})
		}
	}
}

func auth(raw string) http.Header {
	return http.Header{"Authorization": {"Bearer " + raw}, "Origin": {appOrigin}}
}

func TestSES04ProtectClosesWithAProperFrameOnRevocation(t *testing.T) {
	eachEcho(t, func(t *testing.T, echo func(chan<- outcome) http.Handler, serve func(http.Handler) *httptest.Server) {
		b, w := bouncer(t, nil)
		ended := make(chan outcome, 1)
		srv := serve(b.Protect(echo(ended)))
		c := dial(t, srv, "/ws", auth(w.token())).want101()
		if c.resp.Header.Get("X-Wsbouncer-Connection") == "" {
			t.Error("the answer does not name the connection")
		}
		if got := c.resp.Header.Get("Sec-WebSocket-Accept"); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Errorf("accept %q", got)
		}
		c.send(frame.Text, "hello")
		c.wantText("hello")
		closed, err := b.Revoke(context.Background(), wsbouncer.Session("s1"))
		if err != nil || closed != 1 {
			t.Fatalf("closed %d, %v", closed, err)
		}
		c.wantClose(reason.SessionRevoked)
		if o := <-ended; o.code != 3000 {
			t.Errorf("the handler saw %d: %v", o.code, o.err)
		}
	})
}

func TestProtectPassesTheClientsCloseThrough(t *testing.T) {
	eachEcho(t, func(t *testing.T, echo func(chan<- outcome) http.Handler, serve func(http.Handler) *httptest.Server) {
		seen := make(watch, 64)
		b, w := bouncer(t, func(o *wsbouncer.Options) { o.Observer = seen })
		ended := make(chan outcome, 1)
		srv := serve(b.Protect(echo(ended)))
		c := dial(t, srv, "/ws", auth(w.token())).want101()
		_, _ = c.conn.Write(frame.AppendClose(nil, 4001, "bye", true))
		if o := <-ended; o.code != 4001 {
			t.Errorf("the handler saw %d: %v", o.code, o.err)
		}
		if e := seen.wait(t, "ended"); e.Reason.Code != 4001 || e.Reason.Text != "bye" {
			t.Errorf("ended %+v", e.Reason)
		}
		_, _ = io.Copy(io.Discard, c.conn)
	})
}

// watch is an Observer with a memory.
type watch chan wsbouncer.Event

func (w watch) Observe(e wsbouncer.Event) {
	select {
	case w <- e:
	default:
	}
}

func (w watch) wait(t testing.TB, kind string) wsbouncer.Event {
	t.Helper()
	for e := range w {
		if e.Kind == kind {
			return e
		}
	}
	return wsbouncer.Event{}
}

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// What one visitor, and all of them together, can make the chat hold.
const (
	maxRooms     = 64               // rooms with somebody in them
	maxMembers   = 64               // connections in one room
	maxHistory   = 30               // lines a newcomer to a room is shown
	maxText      = 1000             // runes of one line
	maxFrame     = 8 << 10          // bytes of one message from a client
	maxQueue     = 64               // messages waiting for one slow reader
	maxRoomName  = 32               // bytes
	writeTimeout = 10 * time.Second // for one message to one reader
	headTimeout  = 10 * time.Second // for the whole handshake request
)

// Chat is an http.Handler that serves rooms at /chat/{room}. Its zero value is
// not usable: NewChat makes one. It is safe for concurrent use.
type Chat struct {
	log *slog.Logger
	mux *http.ServeMux
	ids atomic.Int64

	mu    sync.Mutex
	rooms map[string]*room
}

// A room is gone when the last member leaves, its history with it.
type room struct {
	members map[*member]struct{}
	history []line
}

// A member is one connection in one room.
type member struct {
	who  person
	out  chan []byte
	drop func() // ends the connection of a reader that is too slow
}

// person is who the gateway says is connected.
type person struct {
	Subject    string   `json:"subject"`
	Issuer     string   `json:"issuer"`
	Session    string   `json:"session"`
	Scopes     []string `json:"scopes"`
	Connection string   `json:"connection"`
}

// line is one thing that was said.
type line struct {
	ID   int64  `json:"id"`
	From string `json:"from"`
	Text string `json:"text"`
	At   int64  `json:"at"` // Unix milliseconds
}

// event is every message the chat sends; Type says which fields count.
type event struct {
	Type    string   `json:"type"` // welcome, line, joined, left, error
	Room    string   `json:"room,omitempty"`
	You     *person  `json:"you,omitempty"`
	People  []string `json:"people,omitempty"`
	History []line   `json:"history,omitempty"`
	Line    *line    `json:"line,omitempty"`
	Who     string   `json:"who,omitempty"`
	Code    int      `json:"code,omitempty"`   // left: the close code the chat saw
	Reason  string   `json:"reason,omitempty"` // left, error: why
}

// NewChat returns a chat without rooms. It starts nothing.
func NewChat(log *slog.Logger) *Chat {
	c := &Chat{log: log, mux: http.NewServeMux(), rooms: map[string]*room{}}
	c.mux.HandleFunc("GET /chat/{room}", c.join)
	return c
}

// Serve runs a Chat on ln until ctx ends, then closes every connection and
// waits for their goroutines. It closes ln. The error is nil after ctx ended.
func Serve(ctx context.Context, ln net.Listener, log *slog.Logger) error {
	var handlers sync.WaitGroup
	chat := NewChat(log)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			chat.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(ln)
	_ = srv.Close()
	handlers.Wait() // hijacked connections: the server itself forgets them
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (c *Chat) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// join is one connection from its handshake to its end.
func (c *Chat) join(w http.ResponseWriter, r *http.Request) {
	who := identity(r.Header)
	if who.Subject == "" {
		// A page can open a WebSocket to any loopback port, but it cannot set
		// this header: whoever comes without it did not come by the gateway.
		http.Error(w, "This chat is served through the gateway only.", http.StatusForbidden)
		return
	}
	name := r.PathValue("room")
	if len(name) > maxRoomName || strings.TrimSpace(name) != name {
		http.Error(w, "A room's name has at most 32 bytes and no spaces around it.", http.StatusNotFound)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the Origin was the gateway's to check
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		c.log.DebugContext(r.Context(), "demo chat: handshake refused", "err", err)
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxFrame)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	m := &member{who: who, out: make(chan []byte, maxQueue), drop: cancel}
	if !c.enter(name, m) {
		_ = conn.Close(websocket.StatusTryAgainLater, "room_full")
		return
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		defer cancel()
		write(ctx, conn, m.out)
	})
	code, reason := c.read(ctx, conn, name, m)
	cancel()
	writer.Wait()
	c.leave(name, m, code, reason)
}

// read passes on what m says until the connection ends, and returns how it did.
func (c *Chat) read(ctx context.Context, conn *websocket.Conn, name string, m *member) (code int, reason string) {
	for {
		kind, body, err := conn.Read(ctx)
		if err != nil {
			var end websocket.CloseError
			if errors.As(err, &end) {
				return int(end.Code), end.Reason
			}
			return 0, ""
		}
		var in struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}
		if kind != websocket.MessageText || json.Unmarshal(body, &in) != nil || in.Type != "say" {
			c.tell(name, m, event{Type: "error", Reason: `expected {"type":"say","text":"…"}`})
			continue
		}
		text := strings.TrimSpace(in.Text)
		if text == "" || utf8.RuneCountInString(text) > maxText {
			c.tell(name, m, event{Type: "error", Reason: "a line has 1 to 1000 characters"})
			continue
		}
		c.say(name, m, text)
	}
}

// write is the only writer of conn. A reader that takes longer than
// writeTimeout for one message loses the connection.
func write(ctx context.Context, conn *websocket.Conn, out <-chan []byte) {
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-out:
			wctx, cancel := context.WithTimeout(ctx, writeTimeout)
			err := conn.Write(wctx, websocket.MessageText, b)
			cancel()
			if err != nil {
				return
			}
		}
	}
}

// identity reads the gateway's headers, whose values are percent-encoded.
func identity(h http.Header) person {
	get := func(name string) string {
		v, err := url.PathUnescape(h.Get("X-Wsbouncer-" + name))
		if err != nil {
			return ""
		}
		return v
	}
	return person{
		Subject:    get("Subject"),
		Issuer:     get("Issuer"),
		Session:    get("Session"),
		Scopes:     strings.Fields(get("Scopes")),
		Connection: get("Connection"),
	}
}

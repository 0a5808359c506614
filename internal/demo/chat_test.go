package demo_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// event is what the chat sends, as far as the tests look at it.
type event struct {
	Type   string
	Room   string
	Who    string
	Code   int
	Reason string
	People []string
	You    struct {
		Subject, Session, Connection string
		Scopes                       []string
	}
	Line    struct{ From, Text string }
	History []struct{ From, Text string }
}

// serve runs the chat and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- demo.Serve(ctx, ln, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// dial connects as the gateway does for that subject.
func dial(t *testing.T, addr, path, subject string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+path, &websocket.DialOptions{HTTPHeader: http.Header{
		"Origin":                 {"https://app.example.com"},
		"X-Wsbouncer-Subject":    {subject},
		"X-Wsbouncer-Session":    {"s1"},
		"X-Wsbouncer-Connection": {"c1"},
		"X-Wsbouncer-Scopes":     {"chat%20chat:write"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// next reads until an event of that type.
func next(t *testing.T, conn *websocket.Conn, typ string) event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			t.Fatalf("waiting for %s: %v", typ, err)
		}
		var e event
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == typ {
			return e
		}
	}
}

func send(t *testing.T, conn *websocket.Conn, message string) {
	t.Helper()
	if err := conn.Write(context.Background(), websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func TestChatShowsWhoTheGatewaySaysYouAre(t *testing.T) {
	addr := serve(t)
	ann := dial(t, addr, "/chat/lobby", "ann%20%C3%A4")
	w := next(t, ann, "welcome")
	if w.Room != "lobby" || w.You.Subject != "ann ä" || w.You.Session != "s1" || w.You.Connection != "c1" || strings.Join(w.You.Scopes, ",") != "chat,chat:write" {
		t.Fatalf("welcome %+v", w)
	}
}

func TestChatTwoTalkAndTheEndIsSeen(t *testing.T) {
	addr := serve(t)
	ann := dial(t, addr, "/chat/lobby", "ann")
	next(t, ann, "welcome")
	send(t, ann, `{"type":"say","text":" first "}`)
	next(t, ann, "line")
	bob := dial(t, addr, "/chat/lobby", "bob")
	w := next(t, bob, "welcome")
	if len(w.History) != 1 || w.History[0].Text != "first" || strings.Join(w.People, ",") != "ann,bob" {
		t.Fatalf("welcome %+v", w)
	}
	if j := next(t, ann, "joined"); j.Who != "bob" {
		t.Fatalf("joined %+v", j)
	}
	other := dial(t, addr, "/chat/other", "cid")
	next(t, other, "welcome")

	send(t, bob, `{"type":"say","text":"hello <b>"}`)
	for _, c := range []*websocket.Conn{ann, bob} {
		if l := next(t, c, "line"); l.Line.From != "bob" || l.Line.Text != "hello <b>" {
			t.Fatalf("line %+v", l)
		}
	}
	// As the gateway ends it: the same code and reason for the upstream.
	if err := bob.Close(3000, "logged_out"); err != nil {
		t.Fatal(err)
	}
	if l := next(t, ann, "left"); l.Who != "bob" || l.Code != 3000 || l.Reason != "logged_out" || strings.Join(l.People, ",") != "ann" {
		t.Fatalf("left %+v", l)
	}
	// The other room has heard nothing of all this.
	send(t, other, `{"type":"say","text":"alone"}`)
	if l := next(t, other, "line"); l.Line.Text != "alone" {
		t.Fatalf("other room: %+v", l)
	}
}

func TestChatRefusesWhoDidNotComeByTheGateway(t *testing.T) {
	addr := serve(t)
	for path, header := range map[string]http.Header{
		"/chat/lobby":   {},
		"/chat/lobby?x": {"X-Wsbouncer-Subject": {"%zz"}},
	} {
		_, resp, err := websocket.Dial(context.Background(), "ws://"+addr+path, &websocket.DialOptions{HTTPHeader: header})
		if err == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s %v: %v", path, header, err)
		}
	}
	_, resp, err := websocket.Dial(context.Background(), "ws://"+addr+"/chat/"+strings.Repeat("x", 33), &websocket.DialOptions{HTTPHeader: http.Header{"X-Wsbouncer-Subject": {"ann"}}})
	if err == nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("long room: %v", err)
	}
}

func TestChatAnswersWhatItDoesNotUnderstand(t *testing.T) {
	addr := serve(t)
	ann := dial(t, addr, "/chat/lobby", "ann")
	next(t, ann, "welcome")
	for _, bad := range []string{`{`, `{"type":"dance"}`, `{"type":"say","text":"  "}`, `{"type":"say","text":"` + strings.Repeat("ä", 1001) + `"}`} {
		send(t, ann, bad)
		if e := next(t, ann, "error"); e.Reason == "" {
			t.Errorf("%.40s: %+v", bad, e)
		}
	}
	send(t, ann, `{"type":"say","text":"still here"}`)
	next(t, ann, "line")
}

func TestChatIsBounded(t *testing.T) {
	addr := serve(t)
	first := dial(t, addr, "/chat/full", "u")
	next(t, first, "welcome")
	for range 63 {
		next(t, dial(t, addr, "/chat/full", "u"), "welcome")
	}
	_, _, err := dial(t, addr, "/chat/full", "late").Read(context.Background())
	if websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
		t.Fatalf("65th member: %v", err)
	}

	big := dial(t, addr, "/chat/lobby", "ann")
	next(t, big, "welcome")
	send(t, big, `{"type":"say","text":"`+strings.Repeat("x", 9<<10)+`"}`)
	_, _, err = big.Read(context.Background())
	if websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Fatalf("9 KiB message: %v", err)
	}

	for range 40 {
		send(t, first, `{"type":"say","text":"x"}`)
		next(t, first, "line")
	}
	if err := first.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
}

func TestChatHistoryIsShort(t *testing.T) {
	addr := serve(t)
	ann := dial(t, addr, "/chat/lobby", "ann")
	for range 40 {
		send(t, ann, `{"type":"say","text":"x"}`)
		next(t, ann, "line")
	}
	if w := next(t, dial(t, addr, "/chat/lobby", "bob"), "welcome"); len(w.History) != 30 {
		t.Fatalf("%d lines of history", len(w.History))
	}
}

// A member who stops reading is dropped, and nobody waits for it.
func TestChatDropsWhoDoesNotRead(t *testing.T) {
	addr := serve(t)
	ann := dial(t, addr, "/chat/lobby", "ann")
	next(t, ann, "welcome")
	deaf, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	_ = deaf.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, err = io.WriteString(deaf, "GET /chat/lobby HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Wsbouncer-Subject: deaf\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	next(t, ann, "joined")
	// Until the sockets' buffers and the queue are full.
	text := `{"type":"say","text":"` + strings.Repeat("😀", 1000) + `"}`
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for left := false; !left; {
		send(t, ann, text)
		for said := false; !said && !left; {
			_, b, err := ann.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var e event
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			said = e.Type == "line"
			left = e.Type == "left" && e.Who == "deaf"
		}
	}
}

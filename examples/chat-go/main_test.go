package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestChatAndLogOut(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	serving, quit := context.WithCancel(ctx)
	served := make(chan error, 1)
	folder := t.TempDir()
	go func() { served <- run(serving, listener, folder) }()
	defer func() {
		quit()
		if err := <-served; err != nil {
			t.Errorf("shutting down: %v", err)
		}
	}()
	base := "http://" + listener.Addr().String()

	login := func(user string) string {
		resp, err := http.PostForm(base+"/login", url.Values{"user": {user}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(raw))
	}
	dial := func(raw string) *websocket.Conn {
		c, _, err := websocket.Dial(ctx, base+"/chat", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {"Bearer " + raw}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		return c
	}
	hear := func(c *websocket.Conn, want string) {
		t.Helper()
		_, got, err := c.Read(ctx)
		if err != nil || string(got) != want {
			t.Fatalf("heard %q (%v), want %q", got, err, want)
		}
	}
	annsToken := login("ann")
	ann, bob := dial(annsToken), dial(login("bob"))
	if err := bob.Write(ctx, websocket.MessageText, []byte("hello?")); err != nil {
		t.Fatal(err)
	}
	hear(bob, "bob: hello?")
	hear(ann, "bob: hello?")

	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, base+"/logout", nil)
	req.Header.Set("Authorization", "Bearer "+annsToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("logging out: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	_, _, err = ann.Read(ctx)
	if websocket.CloseStatus(err) != 3000 || !strings.Contains(err.Error(), "logged_out") {
		t.Errorf("ann's connection: %v", err)
	}
	_, resp, err = websocket.Dial(ctx, base+"/chat?token="+annsToken, nil)
	if err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("ann came back with her old token: %v", err)
	}
	if err := bob.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	hear(bob, "bob: bye")
}

// Command chat-go is a chat in one Go program, protected by the library: no
// gateway in front. The WebSocket handler knows nothing of tokens; Protect
// holds its connections to them.
//
//	go run ./examples/chat-go
//	curl -d user=ann http://127.0.0.1:8090/login        → a token that lives a minute
//	wsbouncer connect 'ws://127.0.0.1:8090/chat' --token …
//	curl -X POST -H 'Authorization: Bearer …' http://127.0.0.1:8090/logout
//
// After the minute, or the logout, the connection closes with code 3000. The
// login here asks for no password: that part is yours, or the gateway's.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/token"
)

const (
	name     = "http://127.0.0.1:8090"
	audience = "chat"
	tokens   = time.Minute // how long they live
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	folder, err := os.MkdirTemp("", "chat-go")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	listener, err := net.Listen("tcp", "127.0.0.1:8090")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", name)
	if err := run(ctx, listener, folder); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and then lets everybody go.
func run(ctx context.Context, listener net.Listener, folder string) error {
	app, err := newApp(filepath.Join(folder, "keys.json"))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: app.routes(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	bye, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	return errors.Join(app.bouncer.Shutdown(bye, time.Second), srv.Shutdown(bye))
}

type app struct {
	keys    *token.Ring
	bouncer *wsbouncer.Bouncer
	room    room
}

func newApp(keyFile string) (*app, error) {
	keys, err := token.OpenRing(token.RingOptions{Path: keyFile, Algorithm: "EdDSA", Overlap: tokens})
	if err != nil {
		return nil, err
	}
	verifier, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
		Name: name, Audience: audience, Algorithms: []string{"EdDSA"}, Keys: keys, Own: true,
	}}})
	if err != nil {
		return nil, err
	}
	bouncer, err := wsbouncer.New(wsbouncer.Options{
		Verifier: verifier,
		Origins:  []string{name},
		Demand:   wsbouncer.Demand{Scopes: []string{"chat"}},
	})
	if err != nil {
		return nil, err
	}
	return &app{keys: keys, bouncer: bouncer}, nil
}

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.Handle("GET /chat", a.bouncer.Protect(http.HandlerFunc(a.room.chat)))
	return mux
}

func (a *app) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
	user := r.PostFormValue("user")
	if user == "" {
		http.Error(w, "say who you are: user=…", http.StatusBadRequest)
		return
	}
	now := time.Now()
	raw, err := a.keys.Sign(token.AccessToken{
		Issuer: name, Audience: audience, Subject: user, Session: rand.Text(),
		Scopes: []string{"chat"}, IssuedAt: now, Expiry: now.Add(tokens),
	})
	if err != nil {
		http.Error(w, "that name cannot be used", http.StatusBadRequest)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(raw + "\n"))
}

// logout ends the session of the token: its connections close at once, and the
// token is refused from here on.
func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	raw, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t, err := a.bouncer.Verify(r.Context(), raw)
	if err != nil {
		a.bouncer.Refuse(w, r, wsbouncer.Demand{}, err)
		return
	}
	if _, err := a.bouncer.Revoke(r.Context(), wsbouncer.Session(t.Session).Because(wsbouncer.LoggedOut)); err != nil {
		a.bouncer.Refuse(w, r, wsbouncer.Demand{}, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

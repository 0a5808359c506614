package wsbouncer_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/coder/websocket"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/token"
)

// A WebSocket handler behind a Bouncer: its connections live as long as their
// tokens, and no longer than until they are revoked.
func Example() {
	var jwks []byte // the issuer's keys, from a file
	keys, err := token.JWKS(jwks, []string{"ES256"})
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
		Name: "https://login.example.com", Audience: "chat", Algorithms: []string{"ES256"}, Keys: keys,
	}}})
	if err != nil {
		log.Fatal(err)
	}
	b, err := wsbouncer.New(wsbouncer.Options{
		Verifier: verifier,
		Origins:  []string{"https://app.example.com"},
		Demand:   wsbouncer.Demand{Scopes: []string{"chat"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/socket", b.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		hello := fmt.Sprintf("hello, %s", wsbouncer.FromContext(r.Context()).Subject)
		_ = c.Write(r.Context(), websocket.MessageText, []byte(hello))
		_, _, _ = c.Read(r.Context()) // returns when the connection ends, however it does
	})))
	http.HandleFunc("POST /banned", func(w http.ResponseWriter, r *http.Request) {
		closed, err := b.Revoke(r.Context(), wsbouncer.Subject(r.FormValue("subject")))
		if err != nil {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d connections closed\n", closed)
	})
	// When the program ends: b.Shutdown(ctx, 10*time.Second)
}

package bouncertest_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws/wsutil"

	"github.com/gobwas/ws"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/bouncertest"
)

// greeter is a handler as an importer has one.
var greeter = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	who := wsbouncer.FromContext(r.Context()).Subject
	for {
		msg, op, err := wsutil.ReadClientData(conn)
		if err != nil {
			return
		}
		if err := wsutil.WriteServerMessage(conn, op, []byte(who+": "+string(msg))); err != nil {
			return
		}
	}
})

func newBouncer(t *testing.T, is *bouncertest.Issuer) *wsbouncer.Bouncer {
	t.Helper()
	b, err := wsbouncer.New(wsbouncer.Options{Verifier: is.Verifier(), Origins: []string{"https://app.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnImportersTest(t *testing.T) {
	is := bouncertest.NewIssuer(t)
	b := newBouncer(t, is)
	defer func() { _ = b.Shutdown(context.Background(), 0) }()
	h := b.Require(wsbouncer.Demand{Scopes: []string{"chat"}}).Protect(greeter)

	c := bouncertest.Dial(t, h, "/socket?token="+is.Token("alice", "chat"), nil)
	c.Send("hello")
	if got := c.Receive(); got != "alice: hello" {
		t.Errorf("received %q", got)
	}
	if n, err := b.Revoke(t.Context(), wsbouncer.Subject("alice")); n != 1 || err != nil {
		t.Errorf("closed %d, %v", n, err)
	}
	if code, text := c.Closed(); code != 3000 || text != "subject_revoked" {
		t.Errorf("closed with %d %q", code, text)
	}

	c = bouncertest.Dial(t, h, "/socket", http.Header{"Authorization": {"Bearer " + is.Token("bob")}})
	body, _ := io.ReadAll(c.Response.Body)
	if c.Response.StatusCode != http.StatusForbidden {
		t.Errorf("bob without the scope: %d %s", c.Response.StatusCode, body)
	}
	c = bouncertest.Dial(t, h, "/socket", http.Header{"Authorization": {"Bearer " + is.With(map[string]any{"aud": "another", "scope": "chat"})}})
	if c.Response.StatusCode != http.StatusUnauthorized {
		t.Errorf("another audience: %d", c.Response.StatusCode)
	}
}

func TestExpiryInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := bouncertest.NewIssuer(t)
		b := newBouncer(t, is)
		begin := time.Now()
		c := bouncertest.Dial(t, b.Protect(greeter), "/socket", http.Header{"Authorization": {"Bearer " + is.Token("alice")}})
		c.Send("hello")
		c.Receive()
		code, text := c.Closed()
		if code != 3000 || text != "token_expired" {
			t.Errorf("closed with %d %q", code, text)
		}
		if late := time.Since(begin) - is.Life; late < 0 || late > 250*time.Millisecond {
			t.Errorf("closed %v after the token's end", late)
		}
		if err := b.Shutdown(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

package wsbouncer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

type oneToken struct{ t token.Token }

func (v *oneToken) Verify(context.Context, string) (*token.Token, error) { return &v.t, nil }

type nobodyEnds struct{}

func (nobodyEnds) End(Reason) {}

func tracked(t *testing.T) *Live {
	t.Helper()
	v := &oneToken{token.Token{Issuer: "i", Subject: "s", ID: "j", Session: "sid", Expiry: time.Now().Add(time.Hour)}}
	b, err := New(Options{Verifier: v, Origins: []string{"https://app.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Shutdown(context.Background(), 0) })
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for k, v := range map[string]string{
		"Upgrade": "websocket", "Connection": "Upgrade", "Authorization": "Bearer x",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13",
	} {
		r.Header.Set(k, v)
	}
	a, err := b.Admit(r, Demand{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.Track(a, nobodyEnds{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release(reason.ClientGone) })
	return l
}

// A timer that was due when the deadline moved may still fire: it must not end
// the connection.
func TestSES01ALateTimerDoesNotEndAMovedConnection(t *testing.T) {
	l := tracked(t)
	(*expiry)(l).Expire(&l.timer, l.ExpiresAt().Add(-time.Nanosecond))
	if _, over := l.Ended(); over {
		t.Fatal("ended before its deadline")
	}
	(*expiry)(l).Expire(&l.timer, l.ExpiresAt())
	if why, over := l.Ended(); !over || why != reason.TokenExpired {
		t.Fatalf("at its deadline: %v %v", why, over)
	}
}

// Connections that are gone leave nothing behind, or the wheel would hold a
// million of them until their tokens expire.
func TestDOS10ReleasedConnectionsLeaveNothing(t *testing.T) {
	l := tracked(t)
	c := l.core
	if c.wheel.Len() != 1 {
		t.Fatalf("%d timers", c.wheel.Len())
	}
	l.Release(reason.ClientGone)
	if c.wheel.Len() != 0 || c.registry.len() != 0 {
		t.Errorf("%d timers and %d connections are left", c.wheel.Len(), c.registry.len())
	}
	for k := range c.registry.by {
		for i := range c.registry.by[k] {
			if n := len(c.registry.by[k][i].head); n != 0 {
				t.Errorf("index %d holds %d", k, n)
			}
		}
	}
}

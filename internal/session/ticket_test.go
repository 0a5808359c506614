package session_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

const page = "https://app.example"

func (h *house) ticket(t testing.TB, tok *token.Token) session.TicketGrant {
	t.Helper()
	g, err := h.Ticket(t.Context(), tok, "/chat/lobby", page)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wantInvalid(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, reason.TicketInvalid) {
		t.Errorf("%s: %v, want ticket_invalid", what, err)
	}
}

func TestTKT01Tickets(t *testing.T) {
	h := newHouse(t)
	tok := verified(t, h.begin(t, "ann").AccessToken)
	seen := map[string]bool{}
	for range 1000 {
		g := h.ticket(t, tok)
		if b, err := base64.RawURLEncoding.DecodeString(g.Ticket); err != nil || len(b) < 16 || seen[g.Ticket] || seen[g.Ticket[:8]] || seen[g.Connection] {
			t.Fatalf("ticket %q for %q", g.Ticket, g.Connection)
		}
		seen[g.Ticket], seen[g.Ticket[:8]], seen[g.Connection] = true, true, true
		if g.ExpiresIn != 30 || !g.ExpiresAt.Equal(h.clock().Add(30*time.Second)) {
			t.Fatalf("%+v", g)
		}
	}
	g := h.ticket(t, tok)
	h.wait(30 * time.Second)
	_, _, err := h.Redeem(t.Context(), g.Ticket, "/chat/lobby", page)
	wantInvalid(t, "after its life", err)
}

func TestTKT02OnceOnly(t *testing.T) {
	h := newHouse(t)
	tok := verified(t, h.begin(t, "ann").AccessToken)
	for range 20 {
		g := h.ticket(t, tok)
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := 0
		for range 20 {
			wg.Go(func() {
				got, cid, err := h.Redeem(t.Context(), g.Ticket, "/chat/lobby", page)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
					if cid != g.Connection {
						t.Errorf("cid %q, want %q", cid, g.Connection)
					}
					if d := cmp.Diff(tok, got, cmpopts.EquateEmpty()); d != "" {
						t.Error(d)
					}
				case !errors.Is(err, reason.TicketInvalid):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("%d handshakes with one ticket", won)
		}
		_, _, err := h.Redeem(t.Context(), g.Ticket, "/chat/lobby", page)
		wantInvalid(t, "again", err)
	}
	replayed := 0
	for _, e := range h.events(t) {
		if e == audit.TicketReplayed {
			replayed++
		}
	}
	if replayed != 20 {
		t.Errorf("%d replays are audited, want one for each ticket", replayed)
	}
}

func TestTKT03Bound(t *testing.T) {
	h := newHouse(t)
	tok := verified(t, h.begin(t, "ann").AccessToken)
	for _, c := range []struct{ path, origin string }{
		{"/chat/other", page}, {"/chat/lobby/", page}, {"/CHAT/lobby", page}, {"/chat/%6cobby", page},
		{"/chat/lobby", ""}, {"/chat/lobby", "https://evil.example"}, {"/chat/lobby", page + ":8443"}, {"/chat/lobby", "null"},
	} {
		g := h.ticket(t, tok)
		_, _, err := h.Redeem(t.Context(), g.Ticket, c.path, c.origin)
		wantInvalid(t, c.path+" from "+c.origin, err)
		_, _, err = h.Redeem(t.Context(), g.Ticket, "/chat/lobby", page)
		wantInvalid(t, "the right one afterwards", err)
	}
	g, err := h.Ticket(t.Context(), tok, "/chat/lobby", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Redeem(t.Context(), g.Ticket, "/chat/lobby", ""); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"", "chat", "/chat?x=1", "/chat#x", "/a b", "/a\r\n", "/" + strings.Repeat("a", 3000), "https://x/chat"} {
		if _, err := h.Ticket(t.Context(), tok, path, page); !errors.Is(err, session.ErrTicketPath) {
			t.Errorf("a ticket for %.20q: %v", path, err)
		}
	}
	for _, bad := range []string{"", "x", g.Ticket + "A", g.Ticket + "=", strings.Repeat("A", 43), strings.Repeat("A", 1<<20)} {
		_, _, err := h.Redeem(t.Context(), bad, "/chat/lobby", page)
		wantInvalid(t, bad[:min(len(bad), 50)], err)
	}
}

func TestTKT03DiesWithItsSession(t *testing.T) {
	const foreign = "https://tenant.example"
	ends := map[string]func(h *house, g session.Grant) error{
		"logout": func(h *house, g session.Grant) error {
			_, err := h.End(t.Context(), g.SessionID, reason.LoggedOut, "")
			return err
		},
		"subject": func(h *house, g session.Grant) error {
			_, err := h.EndAll(t.Context(), "ann", reason.SubjectRevoked, "")
			return err
		},
		"recorded": func(h *house, g session.Grant) error {
			_, err := h.Record(t.Context(), []wsbouncer.Revocation{wsbouncer.Session(g.SessionID)})
			return err
		},
		"reuse": func(h *house, g session.Grant) error {
			h.refresh(t, h.refresh(t, g.RefreshToken).RefreshToken)
			_, err := h.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken})
			if errors.Is(err, session.ErrReused) {
				return nil
			}
			return errors.Join(errors.New("no reuse"), err)
		},
	}
	for name, end := range ends {
		h := newHouse(t)
		g := h.begin(t, "ann")
		mine := h.ticket(t, verified(t, g.AccessToken))
		bobs := h.ticket(t, verified(t, h.begin(t, "bob").AccessToken))
		other := verified(t, g.AccessToken) // another issuer's ann, who happens to have the same sid
		other.Issuer, other.Own = foreign, false
		theirs := h.ticket(t, other)
		if err := end(h, g); err != nil {
			t.Fatal(name, err)
		}
		_, _, err := h.Redeem(t.Context(), mine.Ticket, "/chat/lobby", page)
		wantInvalid(t, name, err)
		for _, tk := range []session.TicketGrant{bobs, theirs} {
			if _, _, err := h.Redeem(t.Context(), tk.Ticket, "/chat/lobby", page); err != nil {
				t.Errorf("%s: another's ticket: %v", name, err)
			}
		}
		// And no new one is made from a token that is still good by itself.
		if _, err := h.Ticket(t.Context(), verified(t, g.AccessToken), "/chat/lobby", page); !errors.Is(err, reason.TokenRevoked401) {
			t.Errorf("%s: a ticket afterwards: %v", name, err)
		}
	}
}

func TestATicketDoesNotOutliveItsToken(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	tok := verified(t, g.AccessToken)
	h.wait(tok.Expiry.Sub(h.clock()) - 2*time.Second)
	tk := h.ticket(t, tok)
	if tk.ExpiresIn != 2 {
		t.Errorf("expires in %d", tk.ExpiresIn)
	}
	h.wait(2 * time.Second)
	_, _, err := h.Redeem(t.Context(), tk.Ticket, "/chat/lobby", page)
	wantInvalid(t, "a ticket after its token", err)
	if _, err := h.Ticket(t.Context(), tok, "/chat/lobby", page); !errors.Is(err, reason.TokenExpired401) {
		t.Error(err)
	}
	tok.Leeway = 10 * time.Second // the deadline is what counts
	h.ticket(t, tok)
}

func TestTicketsAreBounded(t *testing.T) {
	h := newHouse(t)
	tok := verified(t, h.begin(t, "ann").AccessToken)
	first := h.ticket(t, tok)
	for range 64 {
		h.ticket(t, tok)
	}
	_, _, err := h.Redeem(t.Context(), first.Ticket, "/chat/lobby", page)
	wantInvalid(t, "the oldest of too many", err)
	if n, err := h.store.CountTickets(t.Context(), h.clock()); err != nil || n != 64 {
		t.Errorf("%d outstanding, %v", n, err)
	}

	full := newHouse(t, func(o *session.Options) { o.Store = crowded{o.Store} })
	tok = verified(t, full.begin(t, "ann").AccessToken)
	if _, err := full.Ticket(t.Context(), tok, "/chat/lobby", page); !errors.Is(err, reason.Overloaded503) {
		t.Errorf("one more than there may be: %v", err)
	}
}

// crowded has as many tickets as there may be.
type crowded struct{ session.Store }

func (crowded) CountTickets(context.Context, time.Time) (int, error) { return 100_000, nil }

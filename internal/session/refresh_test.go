package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
)

func TestREF01EveryUseRotates(t *testing.T) {
	h := newHouse(t)
	r1 := h.begin(t, "ann")
	r2 := h.refresh(t, r1.RefreshToken)
	h.wait(11 * time.Second)
	if r2.RefreshToken == r1.RefreshToken || r2.SessionID != r1.SessionID || r2.AccessToken == r1.AccessToken {
		t.Errorf("%+v", r2)
	}
	h.refuses(t, r1.RefreshToken, session.ErrReused)
}

func TestREF02ReuseEndsTheSession(t *testing.T) {
	h := newHouse(t)
	r1 := h.begin(t, "ann")
	other := h.begin(t, "ann")
	r3 := h.refresh(t, h.refresh(t, r1.RefreshToken).RefreshToken)
	h.refuses(t, r1.RefreshToken, session.ErrReused)
	if got := h.revoked(); !slices.Equal(got, []string{"session " + r1.SessionID + " session_revoked"}) {
		t.Errorf("applied: %v", got)
	}
	h.refuses(t, r3.RefreshToken, session.ErrInvalidGrant)
	h.refuses(t, r1.RefreshToken, session.ErrInvalidGrant)
	if es := h.events(t); es[len(es)-1] != audit.RefreshReuse {
		t.Errorf("audited: %v", es)
	}
	h.refresh(t, other.RefreshToken)
}

// Whoever hangs up does not keep the session alive that they betrayed.
func TestREF02HangingUpDoesNotUndoIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := newHouse(t, func(o *session.Options) {
		o.Store = hangsUp{o.Store, cancel}
	})
	r1 := h.begin(t, "ann")
	r3 := h.refresh(t, h.refresh(t, r1.RefreshToken).RefreshToken)
	if _, err := h.Refresh(ctx, session.RefreshRequest{Token: r1.RefreshToken}); !errors.Is(err, session.ErrReused) {
		t.Error(err)
	}
	if ctx.Err() == nil {
		t.Error("nobody hung up")
	}
	h.refuses(t, r3.RefreshToken, session.ErrInvalidGrant)
}

// hangsUp ends the request's context in the middle of a deletion.
type hangsUp struct {
	session.Store
	cancel func()
}

func (s hangsUp) DeleteSession(ctx context.Context, id string) error {
	s.cancel()
	return s.Store.DeleteSession(ctx, id)
}

func TestREF03Grace(t *testing.T) {
	for _, c := range []struct {
		name string
		wait time.Duration
		use  bool // of the successor
		want error
	}{
		{"at once", 0, false, nil},
		{"within the grace", 9999 * time.Millisecond, false, nil},
		{"after the grace", 10 * time.Second, false, session.ErrReused},
		{"successor used", 0, true, session.ErrReused},
		{"clock stepped back", -time.Hour, false, session.ErrReused},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			r1 := h.begin(t, "ann")
			r2 := h.refresh(t, r1.RefreshToken)
			if c.use {
				h.refresh(t, r2.RefreshToken)
			}
			h.wait(c.wait)
			if c.want != nil {
				h.refuses(t, r1.RefreshToken, c.want)
				h.refuses(t, r2.RefreshToken, session.ErrInvalidGrant)
				return
			}
			again := h.refresh(t, r1.RefreshToken)
			if again.AccessToken != r2.AccessToken || again.RefreshToken != r2.RefreshToken || again.Scope != r2.Scope ||
				again.SessionID != r2.SessionID || !again.ExpiresAt.Equal(r2.ExpiresAt) {
				t.Errorf("another answer:\n%+v\n%+v", r2, again)
			}
			if left := again.ExpiresAt.Sub(h.clock()); time.Duration(again.ExpiresIn)*time.Second < left || time.Duration(again.ExpiresIn)*time.Second > left+time.Second {
				t.Errorf("expires_in %d with %v left", again.ExpiresIn, left)
			}
			// Once, and no more; but the family lives.
			h.refuses(t, r1.RefreshToken, session.ErrInvalidGrant)
			r3 := h.refresh(t, r2.RefreshToken)
			h.refuses(t, r1.RefreshToken, session.ErrReused)
			h.refuses(t, r3.RefreshToken, session.ErrInvalidGrant)
		})
	}
}

func TestREF03NoGrace(t *testing.T) {
	h := newHouse(t, func(o *session.Options) { o.RefreshGrace = -1 })
	r1 := h.begin(t, "ann")
	h.refresh(t, r1.RefreshToken)
	h.refuses(t, r1.RefreshToken, session.ErrReused)
}

func TestREF03FiftyAtOnce(t *testing.T) {
	h := newHouse(t)
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	g := h.begin(t, "ann")
	for round := range rounds {
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			answers []session.Grant
		)
		start := make(chan struct{})
		for range 50 {
			wg.Go(func() {
				<-start
				got, err := h.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					answers = append(answers, got)
				case !errors.Is(err, session.ErrInvalidGrant) || errors.Is(err, session.ErrReused):
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if len(answers) != 2 || answers[0].RefreshToken != answers[1].RefreshToken || answers[0].AccessToken != answers[1].AccessToken {
			t.Fatalf("round %d: %d answers", round, len(answers))
		}
		g = answers[0]
		if l, err := h.List(t.Context(), "ann"); err != nil || len(l) != 1 {
			t.Fatalf("round %d: sessions %v, %v", round, l, err)
		}
	}
	h.refresh(t, g.RefreshToken)
}

func TestREF04LifeIsAbsolute(t *testing.T) {
	h := newHouse(t, func(o *session.Options) {
		o.RefreshTTL, o.RefreshIdle, o.AccessTTL = time.Minute, 15*time.Second, 30*time.Second
	})
	g := h.begin(t, "ann")
	end := g.SessionExpires
	for range 5 {
		h.wait(10 * time.Second)
		g = h.refresh(t, g.RefreshToken)
		if !g.SessionExpires.Equal(end) || read(t, g.AccessToken).Expiry.After(end) {
			t.Fatalf("the end moved: %+v", g)
		}
	}
	h.wait(9900 * time.Millisecond)
	h.refuses(t, g.RefreshToken, session.ErrInvalidGrant) // too little is left for any token
	h.wait(100 * time.Millisecond)
	h.refuses(t, g.RefreshToken, session.ErrInvalidGrant)
	if _, err := h.Get(t.Context(), g.SessionID); !errors.Is(err, session.ErrNotFound) {
		t.Error(err)
	}

	idle := h.begin(t, "ann")
	h.wait(14 * time.Second)
	idle = h.refresh(t, idle.RefreshToken)
	h.wait(15 * time.Second)
	h.refuses(t, idle.RefreshToken, session.ErrInvalidGrant)
}

func TestREF05BoundToTheClient(t *testing.T) {
	h := newHouse(t)
	g, err := h.Begin(t.Context(), session.Start{Subject: "ann", ClientID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{"", "App", "other"} {
		if _, err := h.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken, ClientID: client}); !errors.Is(err, session.ErrInvalidGrant) {
			t.Errorf("client %q: %v", client, err)
		}
	}
	if _, err := h.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken, ClientID: "app"}); err != nil {
		t.Error(err)
	}
	// Neither does another client get the answer again.
	if _, err := h.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken, ClientID: "other"}); !errors.Is(err, session.ErrInvalidGrant) {
		t.Error(err)
	}
}

func TestREF05ScopesOnlyShrink(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	ask := func(raw, scope string) (session.Grant, error) {
		return h.Refresh(t.Context(), session.RefreshRequest{Token: raw, Scope: scope})
	}
	for _, wider := range []string{"chat wsbouncer:admin", "x", " ", "chat  chat:write", " chat", strings.Repeat("chat ", 2000)} {
		if _, err := ask(g.RefreshToken, wider); !errors.Is(err, session.ErrInvalidScope) {
			t.Errorf("%.30q: %v", wider, err)
		}
	}
	less, err := ask(g.RefreshToken, "chat")
	if err != nil || less.Scope != "chat" {
		t.Fatal(less.Scope, err)
	}
	// The answer is repeated to whoever asked for it, not for more.
	if _, err := ask(g.RefreshToken, ""); !errors.Is(err, session.ErrInvalidGrant) {
		t.Error(err)
	}
	if again, err := ask(g.RefreshToken, "chat"); err != nil || again.AccessToken != less.AccessToken {
		t.Error(err)
	}
	// What was asked for once is not what the session has.
	full := h.refresh(t, less.RefreshToken)
	if full.Scope != "chat chat:write" {
		t.Errorf("scope %q", full.Scope)
	}
	h.people.set("ann", "chat", "wsbouncer:admin")
	shrunk := h.refresh(t, full.RefreshToken)
	if shrunk.Scope != "chat" {
		t.Errorf("scope %q after the account lost chat:write and got another", shrunk.Scope)
	}
	h.people.set("ann", "chat", "chat:write")
	if g := h.refresh(t, shrunk.RefreshToken); g.Scope != "chat" {
		t.Errorf("scope %q: it grew again", g.Scope)
	}
}

func TestREF06DisabledAccounts(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	h.people.remove("ann")
	h.refuses(t, g.RefreshToken, session.ErrInvalidGrant)
	if got := h.revoked(); len(got) != 1 {
		t.Errorf("applied: %v", got)
	}
	h.people.set("ann", "chat")
	h.refuses(t, g.RefreshToken, session.ErrInvalidGrant)
}

func TestRefreshWithNonsense(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	b, err := base64.RawURLEncoding.DecodeString(g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	unknown := slices.Clone(b)
	unknown[0] ^= 1
	for _, bad := range []string{
		"", "x", g.AccessToken, g.RefreshToken + "=", g.RefreshToken + "A", g.RefreshToken[1:], " " + g.RefreshToken,
		strings.Repeat("A", 64), strings.Repeat("A", 1<<20), base64.RawURLEncoding.EncodeToString(unknown),
		base64.StdEncoding.EncodeToString(b) + "\n",
	} {
		h.refuses(t, bad, session.ErrInvalidGrant)
	}
	if got := h.revoked(); len(got) != 0 {
		t.Errorf("nonsense ended %v", got)
	}
	h.refresh(t, g.RefreshToken)
}

func TestRevokeRefresh(t *testing.T) {
	h := newHouse(t)
	g, err := h.Begin(t.Context(), session.Start{Subject: "ann", ClientID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, unknown := range []string{"", "x", strings.Repeat("A", 64)} {
		if n, err := h.RevokeRefresh(t.Context(), unknown, "app", ""); n != 0 || err != nil {
			t.Errorf("%q: %d, %v", unknown, n, err)
		}
	}
	if _, err := h.RevokeRefresh(t.Context(), g.RefreshToken, "other", ""); !errors.Is(err, session.ErrInvalidGrant) {
		t.Error(err)
	}
	if n, err := h.RevokeRefresh(t.Context(), g.RefreshToken, "app", "ann"); n != 7 || err != nil {
		t.Error(n, err)
	}
	if n, err := h.RevokeRefresh(t.Context(), g.RefreshToken, "app", "ann"); n != 0 || err != nil {
		t.Error(n, err)
	}
}

// Only hashes are in the files: of no token, and of no answer kept for the grace.
func TestOnlyHashesAreStored(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Join(t.TempDir(), "db")
	s, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	svc := session.New(session.Options{Store: s, Issuer: issuer, Accounts: h.people, Sign: sign, Audit: s})
	g, err := svc.Begin(t.Context(), session.Start{Subject: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{g.RefreshToken}
	if g, err = svc.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken}); err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, g.RefreshToken, g.AccessToken)
	tk, err := svc.Ticket(t.Context(), verified(t, g.AccessToken), "/chat", "")
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, tk.Ticket)
	hash := sha256.Sum256(mustDecode(t, g.RefreshToken))
	found := false
	check := func() {
		t.Helper()
		for _, name := range []string{dir, dir + "-wal"} {
			b, err := os.ReadFile(name)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			found = found || bytes.Contains(b, hash[:])
			for _, sec := range secrets {
				raw, _ := base64.RawURLEncoding.DecodeString(sec)
				if bytes.Contains(b, []byte(sec)) || len(raw) > 0 && (bytes.Contains(b, raw) || bytes.Contains(b, raw[:16])) {
					t.Errorf("%.12s… is in %s", sec, filepath.Base(name))
				}
			}
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check()
	if !found {
		t.Error("the hash of the current token is nowhere: the search is wrong")
	}
}

func mustDecode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPruneForgetsAnswers(t *testing.T) {
	h := newHouse(t)
	r1 := h.begin(t, "ann")
	h.refresh(t, r1.RefreshToken)
	h.wait(11 * time.Second)
	if err := h.Prune(t.Context(), h.clock()); err != nil {
		t.Fatal(err)
	}
	r, err := h.store.Session(t.Context(), r1.SessionID)
	if err != nil || len(r.Replay) != 0 {
		t.Errorf("%d bytes of answer are kept, %v", len(r.Replay), err)
	}
	h.refuses(t, r1.RefreshToken, session.ErrReused)
}

package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestMain(m *testing.M) {
	if crashing() {
		return
	}
	goleak.VerifyTestMain(m)
}

const issuer = "https://rt.example"

// people is an AccountSource.
type people struct {
	mu     sync.Mutex
	scopes map[string][]string
}

func (p *people) Grants(_ context.Context, subject string) ([]string, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if subject == "broken" {
		return nil, true, errors.New("the accounts cannot be read")
	}
	scopes, ok := p.scopes[subject]
	return scopes, ok, nil
}

func (p *people) set(subject string, scopes ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scopes[subject] = scopes
}

func (p *people) remove(subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.scopes, subject)
}

// house is a Service on a real store, with a clock of its own.
type house struct {
	*session.Service
	store  *sqlite.Store
	people *people

	mu      sync.Mutex
	now     time.Time
	applied []wsbouncer.Revocation
	onApply func(wsbouncer.Revocation)
}

func newHouse(t testing.TB, change ...func(*session.Options)) *house {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := &house{
		store: s, now: time.Date(2026, 11, 24, 10, 0, 0, int(400*time.Millisecond), time.UTC),
		people: &people{scopes: map[string][]string{"ann": {"chat", "chat:write"}, "bob": {"chat"}}},
	}
	o := session.Options{
		Store: s, Issuer: issuer, Audience: "wsbouncer", Audit: s, Accounts: h.people, Sign: sign, Now: h.clock,
		Apply: func(rs ...wsbouncer.Revocation) int {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.applied = append(h.applied, rs...)
			if h.onApply != nil {
				for _, r := range rs {
					h.onApply(r)
				}
			}
			return 7 * len(rs)
		},
	}
	for _, c := range change {
		c(&o)
	}
	h.Service = session.New(o)
	return h
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// revoked is what was applied since the last call, as kind value reason.
func (h *house) revoked() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.applied {
		out = append(out, r.Kind+" "+r.Value+" "+r.Reason.Text)
	}
	h.applied = nil
	return out
}

func (h *house) events(t *testing.T) (out []audit.Type) {
	t.Helper()
	es, err := h.store.Events(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		out = append(out, e.Type)
	}
	return out
}

// sign is no signature: the tests look into the tokens.
func sign(a token.AccessToken) (string, error) {
	b, err := json.Marshal(a)
	return string(b), err
}

func read(t interface {
	Helper()
	Fatal(args ...any)
}, raw string) (a token.AccessToken) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// verified is what the verifier would make of an access token.
func verified(t testing.TB, raw string) *token.Token {
	t.Helper()
	a := read(t, raw)
	return &token.Token{
		Issuer: a.Issuer, Subject: a.Subject, Session: a.Session, ID: a.ID, ClientID: a.ClientID, KeyID: "k1",
		Audience: []string{a.Audience}, Scopes: a.Scopes, IssuedAt: a.IssuedAt, Expiry: a.Expiry,
		Rev: a.Rev, HasRev: true, Own: true, Claims: token.Claims(`{"sub": "ann",  "x": 1}`),
	}
}

func (h *house) begin(t testing.TB, subject string) session.Grant {
	t.Helper()
	g, err := h.Begin(t.Context(), session.Start{Subject: subject, Method: "password", IP: netip.MustParseAddr("192.0.2.1"), UserAgent: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (h *house) refresh(t testing.TB, raw string) session.Grant {
	t.Helper()
	g, err := h.Refresh(t.Context(), session.RefreshRequest{Token: raw})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (h *house) refuses(t testing.TB, raw string, want error) {
	t.Helper()
	_, err := h.Refresh(t.Context(), session.RefreshRequest{Token: raw})
	if !errors.Is(err, want) || errors.Is(err, session.ErrReused) != (want == session.ErrReused) {
		t.Errorf("refresh: %v, want %v", err, want)
	}
}

func TestBegin(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	a := read(t, g.AccessToken)
	if a.Issuer != issuer || a.Audience != "wsbouncer" || a.Subject != "ann" || a.Session != g.SessionID || a.ID == "" || a.Rev != 0 ||
		strings.Join(a.Scopes, " ") != "chat chat:write" || g.Scope != "chat chat:write" {
		t.Errorf("%+v\n%+v", a, g)
	}
	if g.ExpiresIn != 300 || a.Expiry.Sub(a.IssuedAt) != 5*time.Minute || !g.ExpiresAt.Equal(a.Expiry) || g.SessionExpires.Sub(h.clock()) != 720*time.Hour {
		t.Errorf("%+v", g)
	}
	if len(g.RefreshToken) < 43 || strings.Contains(g.AccessToken, g.RefreshToken) {
		t.Errorf("refresh token %q", g.RefreshToken)
	}
	if _, err := h.Begin(t.Context(), session.Start{Subject: "nobody"}); !errors.Is(err, session.ErrInactive) {
		t.Error(err)
	}
	if _, err := h.Begin(t.Context(), session.Start{Subject: "broken"}); err == nil {
		t.Error("a session began although the account could not be read")
	}
	less, err := h.Begin(t.Context(), session.Start{Subject: "ann", Scopes: []string{"chat", "wsbouncer:admin"}, TTL: time.Minute})
	if err != nil || less.Scope != "chat" || less.SessionExpires.Sub(h.clock()) != time.Minute {
		t.Errorf("%+v, %v", less, err)
	}
	if a := read(t, less.AccessToken); a.Expiry.After(less.SessionExpires) {
		t.Errorf("the access token outlives its session: %v after %v", a.Expiry, less.SessionExpires)
	}
	s, err := h.Get(t.Context(), g.SessionID)
	if err != nil || s.Subject != "ann" || s.IP != "192.0.2.1" || s.UserAgent != "agent" || s.Method != "password" {
		t.Errorf("%+v, %v", s, err)
	}
	gateway := session.New(session.Options{Store: h.store})
	if _, err := gateway.Begin(t.Context(), session.Start{Subject: "ann"}); !errors.Is(err, session.ErrNoIssuer) {
		t.Error(err)
	}
	if _, err := gateway.Refresh(t.Context(), session.RefreshRequest{Token: g.RefreshToken}); !errors.Is(err, session.ErrNoIssuer) {
		t.Error(err)
	}
}

func TestSES18TheOldestSessionMakesRoom(t *testing.T) {
	h := newHouse(t, func(o *session.Options) { o.PerSubject = 3 })
	var gs []session.Grant
	other := h.begin(t, "bob")
	for range 4 {
		gs = append(gs, h.begin(t, "ann"))
		h.wait(time.Second)
	}
	if got := h.revoked(); !slices.Equal(got, []string{"session " + gs[0].SessionID + " session_revoked"}) {
		t.Errorf("applied: %v", got)
	}
	h.refuses(t, gs[0].RefreshToken, session.ErrInvalidGrant)
	h.refresh(t, gs[1].RefreshToken)
	h.refresh(t, other.RefreshToken)
	l, err := h.List(t.Context(), "ann")
	if err != nil || len(l) != 3 || l[0].ID != gs[1].SessionID || l[2].ID != gs[3].SessionID {
		t.Errorf("%v, %v", l, err)
	}
	// One that is over takes nobody's place.
	h.wait(169 * time.Hour)
	h.begin(t, "ann")
	if got := h.revoked(); len(got) != 0 {
		t.Errorf("applied: %v", got)
	}
}

func TestSES08EndingOneSession(t *testing.T) {
	h := newHouse(t)
	a, b := h.begin(t, "ann"), h.begin(t, "ann")
	closed, err := h.End(t.Context(), a.SessionID, reason.LoggedOut, "ann")
	if err != nil || closed != 7 {
		t.Errorf("closed %d, %v", closed, err)
	}
	if got := h.revoked(); !slices.Equal(got, []string{"session " + a.SessionID + " logged_out"}) {
		t.Errorf("applied: %v", got)
	}
	h.refuses(t, a.RefreshToken, session.ErrInvalidGrant)
	if _, err := h.End(t.Context(), a.SessionID, reason.LoggedOut, "ann"); !errors.Is(err, session.ErrNotFound) {
		t.Error(err)
	}
	if _, err := h.Get(t.Context(), a.SessionID); !errors.Is(err, session.ErrNotFound) {
		t.Error(err)
	}
	if es := h.events(t); es[len(es)-1] != audit.Logout {
		t.Errorf("audited: %v", es)
	}
	h.refresh(t, b.RefreshToken)
}

func TestREF06EndingOthersAndAll(t *testing.T) {
	h := newHouse(t)
	var gs []session.Grant
	for range 3 {
		gs = append(gs, h.begin(t, "ann"))
		h.wait(time.Second)
	}
	bob := h.begin(t, "bob")
	closed, err := h.EndOthers(t.Context(), "ann", gs[1].SessionID, reason.SessionRevoked, "ann")
	if err != nil || closed != 14 {
		t.Errorf("closed %d, %v", closed, err)
	}
	h.refuses(t, gs[0].RefreshToken, session.ErrInvalidGrant)
	h.refuses(t, gs[2].RefreshToken, session.ErrInvalidGrant)
	next := h.refresh(t, gs[1].RefreshToken)
	h.revoked()

	closed, err = h.EndAll(t.Context(), "ann", reason.SubjectRevoked, "admin")
	if err != nil || closed != 7 {
		t.Errorf("closed %d, %v", closed, err)
	}
	if got := h.revoked(); !slices.Equal(got, []string{"subject ann subject_revoked"}) {
		t.Errorf("applied: %v", got)
	}
	h.refuses(t, next.RefreshToken, session.ErrInvalidGrant)
	h.refresh(t, bob.RefreshToken)
	// rev tells what was issued before from what is issued after, in the same second.
	before, after := read(t, next.AccessToken), read(t, h.begin(t, "ann").AccessToken)
	rs, err := h.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := rs[len(rs)-1]
	if before.Rev >= last.Seq || after.Rev < last.Seq {
		t.Errorf("rev before %d, revocation %d, rev after %d", before.Rev, last.Seq, after.Rev)
	}
}

func TestEffectsInACallersTransaction(t *testing.T) {
	h := newHouse(t)
	a, b := h.begin(t, "ann"), h.begin(t, "ann")
	err := h.store.Tx(t.Context(), func(ctx context.Context) error {
		if _, err := h.End(ctx, a.SessionID, reason.LoggedOut, ""); err != nil {
			return err
		}
		if got := h.revoked(); len(got) != 0 {
			t.Errorf("applied before the commit: %v", got)
		}
		return nil
	})
	if err != nil || len(h.revoked()) != 1 {
		t.Errorf("not applied after the commit; %v", err)
	}
	no := errors.New("no")
	err = h.store.Tx(t.Context(), func(ctx context.Context) error {
		if _, err := h.EndAll(ctx, "ann", reason.LoggedOut, ""); err != nil {
			return err
		}
		return no
	})
	if !errors.Is(err, no) || len(h.revoked()) != 0 {
		t.Errorf("applied what was not committed; %v", err)
	}
	h.refresh(t, b.RefreshToken)
}

// Whoever is applied to finds it in the log already.
func TestDurableBeforeApplied(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	h.onApply = func(r wsbouncer.Revocation) {
		es, err := h.store.Revocations(context.Background(), 0, h.now, 10)
		if err != nil || len(es) != 1 || es[0].Seq != r.Seq || es[0].Value != g.SessionID {
			t.Errorf("in the log: %v, %v", es, err)
		}
	}
	if _, err := h.End(t.Context(), g.SessionID, reason.LoggedOut, ""); err != nil {
		t.Fatal(err)
	}
}

func TestMint(t *testing.T) {
	h := newHouse(t, func(o *session.Options) { o.MaxTokenLife = time.Hour })
	raw, err := h.Mint(t.Context(), "device-1", []string{"chat"}, time.Minute, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if a := read(t, raw); a.Subject != "device-1" || a.Session != "" || a.Expiry.Sub(a.IssuedAt) != time.Minute {
		t.Errorf("%+v", a)
	}
	for _, ttl := range []time.Duration{-1, time.Millisecond, 2 * time.Hour} {
		if _, err := h.Mint(t.Context(), "device-1", nil, ttl, "admin"); err == nil {
			t.Errorf("a token of %v", ttl)
		}
	}
	if _, err := h.Mint(t.Context(), "", nil, 0, "admin"); err == nil {
		t.Error("a token of nobody")
	}
}

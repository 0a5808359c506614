package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

func (h *house) revoke(t *testing.T, r wsbouncer.Revocation) session.Result {
	t.Helper()
	res, err := h.Revoke(t.Context(), "admin", "because", r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (h *house) log(t *testing.T) []session.LogEntry {
	t.Helper()
	es, err := h.Revocations(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return es
}

func TestSES04RevocationsByKind(t *testing.T) {
	h := newHouse(t)
	a, b, c := h.begin(t, "ann"), h.begin(t, "ann"), h.begin(t, "bob")

	if res := h.revoke(t, wsbouncer.Token("jti-1")); res.ID != 1 || res.Closed != 7 {
		t.Errorf("%+v", res)
	}
	h.revoke(t, wsbouncer.Session(a.SessionID))
	h.refuses(t, a.RefreshToken, session.ErrInvalidGrant)
	b = h.refresh(t, b.RefreshToken)
	h.revoke(t, wsbouncer.Subject("ann").Because(wsbouncer.LoggedOut))
	h.refuses(t, b.RefreshToken, session.ErrInvalidGrant)
	c = h.refresh(t, c.RefreshToken)
	h.revoke(t, wsbouncer.Key("kid-1"))
	c = h.refresh(t, c.RefreshToken)
	h.wait(time.Second)
	h.revoke(t, wsbouncer.Before(h.clock()))
	h.refuses(t, c.RefreshToken, session.ErrInvalidGrant)

	want := []string{
		"token jti-1 token_revoked", "session " + a.SessionID + " session_revoked", "subject ann logged_out",
		"key kid-1 key_revoked", "before  token_revoked",
	}
	if got := h.revoked(); !slices.Equal(got, want) {
		t.Errorf("applied: %v", got)
	}
	rs, err := h.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	for i, r := range rs {
		loaded = append(loaded, r.Kind+" "+r.Value+" "+r.Reason.Text)
		if r.Seq != int64(i+1) || r.Issuer != issuer || r.Note != "because" || r.At.IsZero() || r.Expires.IsZero() != (r.Kind == "key") || !r.Reason.Cut {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(loaded, want) {
		t.Errorf("loaded: %v", loaded)
	}
	n := 0
	for _, e := range h.events(t) {
		if e == audit.Revoked {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d revocations are audited", n)
	}
}

// No issuer speaks for another's subjects.
func TestRevocationsAreKeyedByIssuer(t *testing.T) {
	h := newHouse(t)
	g := h.begin(t, "ann")
	const other = "https://tenant.example"
	for _, r := range []wsbouncer.Revocation{
		wsbouncer.Session(g.SessionID).Of(other), wsbouncer.Subject("ann").Of(other), wsbouncer.Before(h.clock()).Of(other),
	} {
		h.revoke(t, r)
	}
	h.refresh(t, g.RefreshToken)
	for _, e := range h.log(t) {
		if e.Issuer != other {
			t.Errorf("%+v", e)
		}
	}
	gateway := session.New(session.Options{Store: h.store})
	if _, err := gateway.Revoke(t.Context(), "", "", wsbouncer.Subject("ann")); !errors.Is(err, session.ErrBadRevocation) {
		t.Errorf("a revocation without an issuer: %v", err)
	}
	if _, err := gateway.Revoke(t.Context(), "", "", wsbouncer.Subject("ann").Of(other)); err != nil {
		t.Error(err)
	}
}

func TestBadRevocations(t *testing.T) {
	h := newHouse(t)
	for _, r := range []wsbouncer.Revocation{
		{}, {Kind: "tokens", Value: "x"}, wsbouncer.Token(""), wsbouncer.Session(""), wsbouncer.Subject(""), wsbouncer.Key(""),
		wsbouncer.Before(time.Time{}), wsbouncer.Before(h.clock().Add(time.Hour)), wsbouncer.Subject(strings.Repeat("x", 3000)),
		wsbouncer.Subject("\xff"),
	} {
		if _, err := h.Revoke(t.Context(), "", "", r); !errors.Is(err, session.ErrBadRevocation) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := h.Record(t.Context(), []wsbouncer.Revocation{wsbouncer.Token("a"), {}}); err == nil || len(h.log(t)) != 0 {
		t.Errorf("half of them were recorded: %v", h.log(t))
	}
}

func TestBeforeIsToTheRefreshTokensAge(t *testing.T) {
	h := newHouse(t)
	old := h.begin(t, "ann")
	stale := h.begin(t, "bob")
	h.wait(time.Minute)
	cut := h.clock()
	h.wait(time.Second)
	fresh := h.refresh(t, old.RefreshToken)
	h.revoke(t, wsbouncer.Before(cut))
	h.refuses(t, stale.RefreshToken, session.ErrInvalidGrant)
	h.refresh(t, fresh.RefreshToken)
	// A time between two milliseconds goes up, never down.
	h.revoke(t, wsbouncer.Before(cut.Add(time.Nanosecond)))
	es := h.log(t)
	if last := es[len(es)-1]; !last.At.Equal(cut.Add(time.Millisecond)) {
		t.Errorf("kept as %v", last.At)
	}
}

// Revoking the same thing again and again does not grow the log.
func TestRevocationsDoNotPileUp(t *testing.T) {
	h := newHouse(t)
	for range 5 {
		h.wait(10 * time.Minute)
		for _, r := range []wsbouncer.Revocation{wsbouncer.Token("a"), wsbouncer.Key("b"), wsbouncer.Session("c")} {
			if res := h.revoke(t, r); res.Closed != 7 {
				t.Errorf("%+v", res)
			}
		}
	}
	if es := h.log(t); len(es) != 3 {
		t.Errorf("%d entries", len(es))
	}
	for range 2 {
		h.revoke(t, wsbouncer.Subject("ann"))
	}
	if es := h.log(t); len(es) != 5 {
		t.Errorf("%d entries: what was issued in between is not covered by the first", len(es))
	}
	// Another issuer goes on issuing for its session.
	for range 2 {
		h.wait(10 * time.Minute)
		h.revoke(t, wsbouncer.Session("c").Of("https://tenant.example"))
	}
	if es := h.log(t); len(es) != 7 {
		t.Errorf("%d entries", len(es))
	}
}

func TestRevocationsAreKeptAsLongAsTheyMatter(t *testing.T) {
	h := newHouse(t, func(o *session.Options) { o.MaxTokenLife = 24 * time.Hour })
	g := h.begin(t, "ann")
	now := h.clock()
	known := wsbouncer.Token("jti")
	known.Expires = now.Add(3 * time.Minute)
	for _, c := range []struct {
		r    wsbouncer.Revocation
		life time.Duration
	}{
		{wsbouncer.Session(g.SessionID), g.ExpiresAt.Sub(now) + time.Minute},
		{wsbouncer.Subject("ann"), 24*time.Hour + time.Minute},
		// Whom else the server trusts, and how long a life it takes from them,
		// can change while it runs.
		{wsbouncer.Subject("ann").Of("https://tenant.example"), 720*time.Hour + 2*time.Minute},
		{wsbouncer.Session("c").Of("https://tenant.example"), 720*time.Hour + 2*time.Minute},
		{wsbouncer.Token("jti").Of("https://tenant.example"), 720*time.Hour + 2*time.Minute},
		{known, 4 * time.Minute},
		{wsbouncer.Key("kid"), 0},
	} {
		h.revoke(t, c.r)
		es := h.log(t)
		last := es[len(es)-1]
		if c.life == 0 && !last.Expires.IsZero() || c.life != 0 && last.Expires.Sub(now) != c.life {
			t.Errorf("%s is kept until %v, want %v", c.r.Kind, last.Expires.Sub(now), c.life)
		}
	}
	for _, c := range []struct {
		wait time.Duration
		left int
	}{{25 * time.Hour, 4}, {720 * time.Hour, 1}} {
		h.wait(c.wait)
		if err := h.Prune(t.Context(), h.clock()); err != nil {
			t.Fatal(err)
		}
		if rs, err := h.Load(t.Context()); err != nil || len(rs) != c.left || rs[len(rs)-1].Kind != "key" {
			t.Errorf("%v, %v", rs, err)
		}
	}
}

func TestSES07AllAreLoaded(t *testing.T) {
	h := newHouse(t)
	var rs []wsbouncer.Revocation
	for i := range 2500 {
		rs = append(rs, wsbouncer.Token(fmt.Sprint(i)))
	}
	recorded, err := h.Record(t.Context(), rs)
	if err != nil || len(recorded) != len(rs) {
		t.Fatal(err)
	}
	if len(h.revoked()) != 0 {
		t.Error("Record applied")
	}
	loaded, err := h.Load(t.Context())
	if err != nil || len(loaded) != len(rs) {
		t.Fatalf("%d loaded, %v", len(loaded), err)
	}
	for i, r := range loaded {
		if r.Seq != int64(i+1) || r.Value != recorded[i].Value || r.Reason != reason.TokenRevoked || !r.At.Equal(recorded[i].At) || !r.Expires.Equal(recorded[i].Expires) {
			t.Fatalf("%+v, recorded as %+v", r, recorded[i])
		}
	}
}

package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

const sso = "https://sso.example"

// from is a login of a provider.
func from(subject, sid string, issued time.Time) session.External {
	return session.External{Provider: "corp", Issuer: sso, Subject: subject, Session: sid, Email: subject + "@example.com", IssuedAt: issued}
}

func (h *house) start(ctx context.Context, subject string, x session.External) (session.Grant, error) {
	return h.Begin(ctx, session.Start{Subject: subject, ClientID: "app", Method: "oidc", External: x})
}

func said(id string, at time.Time, of ...session.External) session.Statement {
	st := session.Statement{Issuer: sso, ID: id, At: at, Until: at.Add(time.Hour)}
	for _, x := range of {
		st.Ends = append(st.Ends, session.ExternalEnd{Of: x, Why: reason.LoggedOut})
	}
	return st
}

func TestSES14AnEndElsewhereEndsOnlyItsOwn(t *testing.T) {
	h := newHouse(t)
	ctx, now := t.Context(), h.now.Truncate(time.Second)
	sids := map[string]string{}
	begin := func(name, subject string, x session.External) {
		t.Helper()
		g, err := h.start(ctx, subject, x)
		if err != nil {
			t.Fatal(err)
		}
		sids[name] = g.SessionID
	}
	begin("one", "ann", from("u1", "x1", now))
	begin("two", "ann", from("u1", "x2", now))
	begin("later", "ann", from("u1", "x3", now.Add(time.Second)))
	begin("bob", "bob", from("u2", "x4", now))
	foreign := from("u1", "x1", now)
	foreign.Issuer = "https://other.example"
	begin("foreign", "ann", foreign)
	begin("plain", "ann", session.External{})
	end := func(st session.Statement, repeated bool, gone ...string) {
		t.Helper()
		got, err := h.EndElsewhere(ctx, st)
		if err != nil || got.Repeated != repeated || got.Sessions != len(gone) {
			t.Fatalf("%+v, %v; want %d", got, err, len(gone))
		}
		for name, sid := range sids {
			_, err := h.Get(ctx, sid)
			if over := errors.Is(err, session.ErrNotFound); over != slices.Contains(gone, name) {
				t.Errorf("%s: over %v, %v", name, over, err)
			}
			if err != nil {
				delete(sids, name)
			}
		}
	}
	end(said("j0", now, session.External{Issuer: sso, Session: "nobody"}), false)
	end(said("j1", now, session.External{Issuer: sso, Session: "x1"}), false, "one")
	end(said("j1", now, session.External{Issuer: sso, Subject: "u2"}), true)
	end(said("j2", now, session.External{Issuer: sso, Subject: "u1"}), false, "two")
	end(said("j3", now, session.External{Issuer: sso, Email: "u1@example.com"}), false)
	end(said("j4", now.Add(time.Second), session.External{Issuer: sso, Email: "u1@example.com"}, session.External{Issuer: sso, Session: "x4"}), false, "later", "bob")
	if events := h.events(t); !slices.Contains(events, audit.IdentityEvent) || !slices.Contains(events, audit.IdentityEventIdle) {
		t.Errorf("the audit trail: %v", events)
	}
	for _, r := range h.applied {
		if r.Reason != reason.LoggedOut {
			t.Errorf("%+v", r)
		}
	}
}

// The logout of a login that is still under way wins, whichever comes first.
func TestSES14ALogoutBeforeItsLoginWins(t *testing.T) {
	h := newHouse(t)
	ctx, now := t.Context(), h.now.Truncate(time.Second)
	if _, err := h.EndElsewhere(ctx, said("j1", now, session.External{Issuer: sso, Session: "x1"}, session.External{Issuer: sso, Subject: "u1"}, session.External{Issuer: sso, Email: "u2@example.com"})); err != nil {
		t.Fatal(err)
	}
	foreign := from("u1", "x1", now)
	foreign.Issuer = "https://other.example"
	proved := from("u1", "x2", time.Time{})
	for name, c := range map[string]struct {
		x     session.External
		proof time.Time
		want  error
	}{
		"its session":              {x: from("u9", "x1", now.Add(time.Hour)), want: session.ErrEndedElsewhere},
		"its subject":              {x: from("u1", "x2", now), want: session.ErrEndedElsewhere},
		"its email":                {x: from("u2", "", now), want: session.ErrEndedElsewhere},
		"no time":                  {x: proved, want: session.ErrEndedElsewhere},
		"proved before":            {x: proved, proof: now, want: session.ErrEndedElsewhere},
		"proved after":             {x: proved, proof: now.Add(time.Second)},
		"in the second of its end": {x: from("u1", "x2", now.Add(999*time.Millisecond)), want: session.ErrEndedElsewhere},
		"the subject's next login": {x: from("u1", "x2", now.Add(time.Second))},
		"another subject":          {x: from("u3", "x3", now)},
		"another provider":         {x: foreign},
		"a login with a password":  {x: session.External{Subject: "u1"}},
		"a provider without a sid": {x: from("u3", "", now)},
	} {
		_, err := h.Begin(ctx, session.Start{Subject: "ann", ClientID: "app", External: c.x, Proof: session.Proof{Time: c.proof}})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	h.wait(2 * time.Hour)
	if err := h.Prune(ctx, h.clock()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.start(ctx, "ann", from("u1", "x1", now)); err != nil {
		t.Errorf("the memory of it has no end: %v", err)
	}
}

func TestSES14ALogoutRacesItsLogin(t *testing.T) {
	h := newHouse(t)
	now := h.now.Truncate(time.Second)
	for i := range 30 {
		sid := fmt.Sprintf("x%d", i)
		var both sync.WaitGroup
		var g session.Grant
		var begun error
		both.Go(func() { g, begun = h.start(t.Context(), "ann", from("u1", sid, now)) })
		both.Go(func() {
			if _, err := h.EndElsewhere(t.Context(), said("j"+sid, now, session.External{Issuer: sso, Session: sid})); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if begun == nil {
			if _, err := h.Get(t.Context(), g.SessionID); !errors.Is(err, session.ErrNotFound) {
				t.Fatalf("session %s lives on: %v", g.SessionID, err)
			}
		} else if !errors.Is(begun, session.ErrEndedElsewhere) {
			t.Fatal(begun)
		}
	}
}

// A trusted issuer's tokens are revoked; of one that is not, nothing is kept.
func TestSES14TokensOfATrustedIssuer(t *testing.T) {
	h := newHouse(t)
	st := said("j1", h.now, session.External{Issuer: sso, Session: "x1"}, session.External{Issuer: sso, Subject: "u1"}, session.External{Issuer: sso, Email: "a@b"})
	for i := range st.Ends {
		st.Ends[i].Trusted = true
	}
	got, err := h.EndElsewhere(t.Context(), st)
	if err != nil || got.Closed != 14 || got.Sessions != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := h.EndElsewhere(t.Context(), said("j2", h.now, session.External{Issuer: "https://other.example", Subject: "u1"})); err != nil {
		t.Fatal(err)
	}
	want := []string{"session x1", "subject u1"}
	var have []string
	for _, r := range h.applied {
		if r.Issuer != sso || r.Reason != reason.LoggedOut {
			t.Errorf("%+v", r)
		}
		have = append(have, r.Kind+" "+r.Value)
	}
	if !slices.Equal(have, want) {
		t.Errorf("applied: %v", have)
	}
}

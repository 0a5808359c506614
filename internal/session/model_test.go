package session_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// family is what contract section 4 says about a session's refresh tokens, in
// the plainest form: every token ever given, and what is known of the newest two.
type family struct {
	sid      string
	tokens   []string // all, oldest first
	answer   session.Grant
	rotated  time.Time // when the last but one was used
	repeated bool
	idle     time.Time
	expires  time.Time
	over     bool
}

const (
	modelTTL   = 3 * time.Hour
	modelIdle  = time.Hour
	modelGrace = 10 * time.Second
)

// use is what presenting token i at now must do.
func (f *family) use(i int, now time.Time) (want error, rotates bool) {
	last := len(f.tokens) - 1
	switch {
	case f.over || !now.Before(f.idle) || !now.Before(f.expires):
		return session.ErrInvalidGrant, false
	case i == last:
		return nil, true
	case i == last-1 && now.Sub(f.rotated) < modelGrace:
		if f.repeated {
			return session.ErrInvalidGrant, false
		}
		f.repeated = true
		return nil, false
	}
	f.over = true
	return session.ErrReused, false
}

func TestREFFamilyAgainstAModel(t *testing.T) {
	h := newHouse(t, func(o *session.Options) {
		o.RefreshTTL, o.RefreshIdle, o.RefreshGrace, o.PerSubject = modelTTL, modelIdle, modelGrace, 1<<20
	})
	rapid.Check(t, func(t *rapid.T) {
		begin := func() *family {
			g, err := h.Begin(t.Context(), session.Start{Subject: "ann", ClientID: "app"})
			if err != nil {
				t.Fatal(err)
			}
			return &family{
				sid: g.SessionID, tokens: []string{g.RefreshToken}, answer: g,
				idle: h.clock().Add(modelIdle), expires: h.clock().Add(modelTTL),
			}
		}
		families := []*family{begin(), begin()}
		pick := func(t *rapid.T) *family { return rapid.SampledFrom(families).Draw(t, "family") }
		present := func(t *rapid.T, f *family, i int) {
			now := h.clock()
			h.revoked()
			want, rotates := f.use(i, now)
			g, err := h.Refresh(t.Context(), session.RefreshRequest{Token: f.tokens[i], ClientID: "app"})
			if !errors.Is(err, want) || errors.Is(err, session.ErrReused) != (want == session.ErrReused) {
				t.Fatalf("token %d of %d: %v, want %v", i, len(f.tokens), err, want)
			}
			if ended := len(h.revoked()) == 1; ended != (want == session.ErrReused) {
				t.Fatalf("ended %v with %v", ended, want)
			}
			if err != nil {
				return
			}
			if read(t, g.AccessToken).Expiry.After(f.expires) {
				t.Fatal("an access token outlives its session")
			}
			if rotates {
				f.tokens, f.rotated, f.repeated = append(f.tokens, g.RefreshToken), now, false
				f.idle, f.answer = now.Add(modelIdle), g
			} else if g.RefreshToken != f.answer.RefreshToken || g.AccessToken != f.answer.AccessToken {
				t.Fatal("another answer for the predecessor")
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"use the newest": func(t *rapid.T) {
				f := pick(t)
				present(t, f, len(f.tokens)-1)
			},
			"use one of the newest two": func(t *rapid.T) {
				f := pick(t)
				present(t, f, max(0, len(f.tokens)-1-rapid.IntRange(0, 1).Draw(t, "back")))
			},
			"use any": func(t *rapid.T) {
				f := pick(t)
				present(t, f, rapid.IntRange(0, len(f.tokens)-1).Draw(t, "token"))
			},
			"as another client": func(t *rapid.T) {
				f := pick(t)
				_, err := h.Refresh(t.Context(), session.RefreshRequest{Token: f.tokens[len(f.tokens)-1], ClientID: "x"})
				if !errors.Is(err, session.ErrInvalidGrant) || errors.Is(err, session.ErrReused) {
					t.Fatal(err)
				}
			},
			"ask for more": func(t *rapid.T) {
				f := pick(t)
				_, err := h.Refresh(t.Context(), session.RefreshRequest{Token: f.tokens[len(f.tokens)-1], ClientID: "app", Scope: "more"})
				if !errors.Is(err, session.ErrInvalidScope) && !errors.Is(err, session.ErrInvalidGrant) {
					t.Fatal(err)
				}
			},
			"wait": func(t *rapid.T) {
				h.wait(rapid.SampledFrom([]time.Duration{time.Millisecond, modelGrace - time.Millisecond, modelGrace, time.Minute, modelIdle - time.Second, modelIdle}).Draw(t, "for"))
			},
			"prune": func(t *rapid.T) {
				if err := h.Prune(t.Context(), h.clock()); err != nil {
					t.Fatal(err)
				}
			},
			"log out": func(t *rapid.T) {
				f := pick(t)
				_, err := h.End(t.Context(), f.sid, reason.LoggedOut, "ann")
				if err != nil && !errors.Is(err, session.ErrNotFound) {
					t.Fatal(err)
				}
				f.over = true
			},
			"log in": func(t *rapid.T) { families = append(families, begin()) },
			"": func(t *rapid.T) {
				now := h.clock()
				for _, f := range families {
					_, err := h.Get(t.Context(), f.sid)
					if alive := !f.over && now.Before(f.idle) && now.Before(f.expires); alive != (err == nil) {
						t.Fatalf("alive %v, and Get says %v", alive, err)
					}
				}
			},
		})
	})
}

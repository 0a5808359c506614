package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// maxScope bounds a scope parameter in bytes.
const maxScope = 4096

// answer is a Grant as it is sealed, with what was asked.
type answer struct {
	Grant
	Asked string
}

// Refresh rotates a refresh token and issues an access token. It fails with
// ErrInvalidGrant, ErrReused (when the session was ended for it) or
// ErrInvalidScope. It must not be called in a transaction: what it decides holds
// also when it fails.
func (s *Service) Refresh(ctx context.Context, q RefreshRequest) (Grant, error) {
	if s.o.Sign == nil || s.o.Accounts == nil {
		return Grant{}, ErrNoIssuer
	}
	t, ok := parseRefreshToken(q.Token)
	if !ok {
		return Grant{}, ErrInvalidGrant
	}
	// Guesses stop here, before they take a place in the writer's queue.
	if _, err := s.o.Store.SessionByFamily(ctx, t.family()); err != nil {
		return Grant{}, invalidIfAbsent(err)
	}
	var (
		g       Grant
		outcome error // what the client is told; the transaction commits all the same
	)
	err := s.o.Store.Tx(ctx, func(ctx context.Context) error {
		rev, err := s.o.Store.Sequence(ctx)
		if err != nil {
			return err
		}
		r, err := s.o.Store.SessionByFamily(ctx, t.family())
		if isAbsent(err) {
			outcome = ErrInvalidGrant
			return nil
		}
		if err != nil {
			return err
		}
		now := s.now()
		if q.Raise != nil && (r.ID != q.Session || r.Subject != q.Subject) {
			outcome = ErrInvalidGrant // somebody's token, and nobody's use of it
			return nil
		}
		// Before the judgement: without the key nobody ends the session by an old token either.
		if q.Key != r.Key {
			outcome = &KeyError{Subject: r.Subject, Session: r.ID}
			return nil
		}
		switch v := judge(r, t.hash(), now, s.o.RefreshGrace); {
		case v == reused:
			outcome = ErrReused
			_, err := s.end(ctx, r, ending{why: reason.SessionRevoked, note: "refresh_reuse", event: audit.RefreshReuse, from: q})
			return err
		case v == refused || q.ClientID != r.ClientID || v == repeats && q.Raise != nil:
			outcome = ErrInvalidGrant
			return nil
		case q.spend(&outcome):
			return nil
		case v == repeats:
			g, outcome, err = s.repeat(ctx, r, t, q, now)
			return err
		}
		g, outcome, err = s.rotate(ctx, r, t, q, rev, now)
		return err
	})
	if err != nil {
		return Grant{}, fmt.Errorf("refresh: %w", err)
	}
	if outcome != nil {
		return Grant{}, outcome
	}
	return g, nil
}

func (s *Service) rotate(ctx context.Context, r Record, t refreshToken, q RefreshRequest, rev int64, now time.Time) (g Grant, outcome, err error) {
	have, active, err := s.o.Accounts.Grants(ctx, r.Subject)
	if err != nil {
		return g, nil, fmt.Errorf("scopes of the account: %w", err)
	}
	if !active {
		_, err := s.end(ctx, r, ending{why: reason.SessionRevoked, note: "account disabled or removed", from: q})
		return g, ErrInvalidGrant, err
	}
	r.Scopes = both(r.Scopes, have)
	scopes := r.Scopes
	if q.Scope != "" {
		var ok bool
		if scopes, ok = within(q.Scope, r.Scopes); !ok {
			return g, ErrInvalidScope, nil
		}
	}
	if q.Raise != nil {
		raise(&r.Proof, *q.Raise, now)
	}
	next := t.next()
	g, err = s.issue(&r, next, scopes, rev, now)
	if errors.Is(err, ErrInvalidGrant) {
		return g, err, nil
	}
	if err != nil {
		return g, nil, err
	}
	plain, err := json.Marshal(answer{Grant: g, Asked: q.Scope})
	if err != nil {
		return g, nil, err
	}
	if r.Replay, err = t.seal(plain, r.ID); err != nil {
		return g, nil, err
	}
	r.Previous, r.Current, r.Repeated, r.Rotated = t.hash(), next.hash(), false, now
	r.Used, r.IdleUntil = now, now.Add(s.o.RefreshIdle)
	if q.IP.IsValid() {
		r.IP = addr(q.IP)
	}
	if q.UserAgent != "" {
		r.UserAgent = audit.Cut(q.UserAgent, maxUserAgent)
	}
	if err := s.o.Store.UpdateSession(ctx, r); err != nil {
		return g, nil, err
	}
	return g, nil, s.refreshed(ctx, r, q, now, nil)
}

// raise adds what was proved just now.
func raise(p *Proof, by Proof, now time.Time) {
	p.Time = by.Time
	if p.Time.IsZero() {
		p.Time = now
	}
	p.AMR = slices.Clone(p.AMR)
	for _, m := range by.AMR {
		if !slices.Contains(p.AMR, m) {
			p.AMR = append(p.AMR, m)
		}
	}
	if by.ACR != "" {
		p.ACR = by.ACR
	}
}

// KeyError says that the session of a refresh token is bound to another key than
// was proved, or to none.
type KeyError struct{ Subject, Session string }

func (e *KeyError) Error() string { return "the session is bound to another DPoP key, or to none" }

// spend uses the proof up, and reports whether that is the end of it.
func (q *RefreshRequest) spend(outcome *error) bool {
	if q.Spend != nil {
		*outcome = q.Spend()
	}
	return *outcome != nil
}

func (s *Service) refreshed(ctx context.Context, r Record, q RefreshRequest, now time.Time, detail map[string]string) error {
	return s.o.Audit.Write(ctx, audit.Event{
		Time: now, Type: audit.Refreshed, Issuer: s.o.Issuer, Subject: r.Subject, Session: r.ID,
		IP: q.IP, UserAgent: audit.Cut(q.UserAgent, maxUserAgent), Detail: detail,
	})
}

// repeat gives the answer to the use of t again, to whoever asks for the same.
func (s *Service) repeat(ctx context.Context, r Record, t refreshToken, q RefreshRequest, now time.Time) (g Grant, outcome, err error) {
	plain, err := t.open(r.Replay, r.ID)
	if err != nil {
		return g, nil, err
	}
	var a answer
	if err := json.Unmarshal(plain, &a); err != nil {
		return g, nil, fmt.Errorf("read the refresh answer: %w", err)
	}
	if a.Asked != q.Scope {
		return g, ErrInvalidGrant, nil
	}
	r.Repeated, r.Replay = true, nil
	a.ExpiresIn = max(0, seconds(a.ExpiresAt.Sub(now)))
	if err := s.o.Store.UpdateSession(ctx, r); err != nil {
		return a.Grant, nil, err
	}
	return a.Grant, nil, s.refreshed(ctx, r, q, now, map[string]string{"repeated": "yes"})
}

// within are the scopes of a scope parameter (RFC 6749 §3.3), if they are all in have.
func within(param string, have []string) (scopes []string, ok bool) {
	if len(param) > maxScope {
		return nil, false
	}
	asked := strings.Split(param, " ")
	scopes = both(have, asked)
	for _, a := range asked {
		if !slices.Contains(scopes, a) {
			return nil, false
		}
	}
	return scopes, true
}

func invalidIfAbsent(err error) error {
	if isAbsent(err) {
		return ErrInvalidGrant
	}
	return err
}

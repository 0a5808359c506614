package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Bounds of what a client says of itself.
const (
	maxUserAgent = 256
	maxOrigin    = 256
)

// listed bounds what List gives, and how many of a subject's sessions are
// looked at when one more begins.
const listed = 1000

// Begin begins a session of a subject who just proved who it is. Where the
// subject has as many as it may have, the oldest ends. It fails with ErrInactive, and with
// ErrEndedElsewhere.
func (s *Service) Begin(ctx context.Context, b Start) (g Grant, err error) {
	if s.o.Sign == nil || s.o.Accounts == nil {
		return Grant{}, ErrNoIssuer
	}
	if isClient(b.Subject) || strings.HasPrefix(b.Subject, foreignPrefix) {
		return Grant{}, fmt.Errorf("begin a session: %w: %q is no subject of an account", ErrInactive, b.Subject)
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		rev, err := s.o.Store.Sequence(ctx)
		if err != nil {
			return err
		}
		now := s.now()
		scopes, active, err := s.o.Accounts.Grants(ctx, b.Subject)
		if err != nil {
			return fmt.Errorf("scopes of the account: %w", err)
		}
		if !active {
			return ErrInactive
		}
		if b.External.IssuedAt.IsZero() {
			b.External.IssuedAt = b.Proof.Time // never later
		}
		// An end is said to the second: of the same one it comes after the login.
		b.External.IssuedAt = b.External.IssuedAt.Truncate(time.Second)
		if err := s.notEnded(ctx, &b.External); err != nil {
			return err
		}
		if b.Scopes != nil {
			scopes = both(scopes, b.Scopes)
		}
		if err := s.makeRoom(ctx, b.Subject, now); err != nil {
			return err
		}
		life := s.o.RefreshTTL
		if b.TTL > 0 {
			life = min(life, b.TTL)
		}
		proof := b.Proof
		if proof.Time.IsZero() {
			proof.Time = now
		}
		claims, err := encodeClaims(b.Claims)
		if err != nil {
			return err
		}
		t := newRefreshToken()
		r := Record{
			ID: newID(), Subject: b.Subject, ClientID: b.ClientID, Scopes: scopes, Method: b.Method,
			Proof: proof, Claims: claims, External: b.External,
			IP: addr(b.IP), UserAgent: audit.Cut(b.UserAgent, maxUserAgent), Origin: audit.Cut(b.Origin, maxOrigin),
			Created: now, Used: now, Expires: now.Add(life), IdleUntil: now.Add(s.o.RefreshIdle),
			Family: t.family(), Current: t.hash(), Key: b.Key,
		}
		if g, err = s.issue(&r, t, scopes, rev, now); err != nil {
			return err
		}
		if err := s.o.Store.InsertSession(ctx, r); err != nil {
			return err
		}
		return s.o.Audit.Write(ctx, audit.Event{
			Time: now, Type: audit.LoginOK, Issuer: s.o.Issuer, Subject: r.Subject, Session: r.ID,
			IP: b.IP, Origin: r.Origin, UserAgent: r.UserAgent, Detail: map[string]string{"method": b.Method},
		})
	})
	if err != nil {
		return Grant{}, fmt.Errorf("begin a session: %w", err)
	}
	return g, nil
}

// encodeClaims is how further claims are stored; none is nil.
func encodeClaims(claims map[string]any) ([]byte, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return nil, fmt.Errorf("further claims: %w", err)
	}
	return b, nil
}

// makeRoom ends the oldest sessions of subject until one more may begin.
func (s *Service) makeRoom(ctx context.Context, subject string, now time.Time) error {
	rs, err := s.o.Store.Sessions(ctx, subject, s.o.PerSubject+listed)
	if err != nil {
		return err
	}
	rs = slices.DeleteFunc(rs, func(r Record) bool { return !r.alive(now) })
	for len(rs) >= s.o.PerSubject {
		if _, err := s.end(ctx, rs[0], ending{why: reason.SessionRevoked, note: "sessions_per_subject"}); err != nil {
			return err
		}
		rs = rs[1:]
	}
	return nil
}

// issue signs an access token for r and notes in r until when it lives: never
// past the session's own end.
func (s *Service) issue(r *Record, t refreshToken, scopes []string, rev int64, now time.Time) (Grant, error) {
	a := token.AccessToken{
		Issuer: s.o.Issuer, Audience: s.o.Audience, Subject: r.Subject, Session: r.ID, ClientID: r.ClientID,
		ID: newID(), Scopes: scopes, IssuedAt: now.Truncate(time.Second), Rev: rev,
		AuthTime: r.Proof.Time, AMR: r.Proof.AMR, ACR: r.Proof.ACR, Key: r.Key,
	}
	if len(r.Claims) > 0 {
		if err := json.Unmarshal(r.Claims, &a.Extra); err != nil {
			return Grant{}, fmt.Errorf("claims of session %s: %w", r.ID, err)
		}
	}
	a.Expiry = a.IssuedAt.Add(s.o.AccessTTL).Truncate(time.Second)
	if a.Expiry.After(r.Expires) {
		a.Expiry = r.Expires.Truncate(time.Second)
	}
	if !a.Expiry.After(now) {
		return Grant{}, ErrInvalidGrant // less than a second is left of the session
	}
	raw, err := s.o.Sign(a)
	if err != nil {
		return Grant{}, fmt.Errorf("sign the access token: %w", err)
	}
	if a.Expiry.After(r.AccessUntil) {
		r.AccessUntil = a.Expiry
	}
	return Grant{
		AccessToken: raw, ExpiresAt: a.Expiry, ExpiresIn: seconds(a.Expiry.Sub(now)), RefreshToken: t.String(),
		Scope: strings.Join(scopes, " "), SessionID: r.ID, Subject: r.Subject, SessionExpires: r.Expires, Key: r.Key,
	}, nil
}

// Mint signs an access token without a session, for commands; ttl zero is
// AccessTTL. Whoever may call it decides about subject and scopes.
func (s *Service) Mint(ctx context.Context, subject string, scopes []string, ttl time.Duration, actor string) (raw string, err error) {
	if s.o.Sign == nil {
		return "", ErrNoIssuer
	}
	if ttl == 0 {
		ttl = s.o.AccessTTL
	}
	switch {
	case subject == "" || len(subject) > maxValue:
		return "", fmt.Errorf("a token needs a subject of 1 to %d bytes", maxValue)
	case ttl < time.Second || ttl > s.o.MaxTokenLife:
		return "", fmt.Errorf("a token lives 1s to %s here, not %s", s.o.MaxTokenLife, ttl)
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		rev, err := s.o.Store.Sequence(ctx)
		if err != nil {
			return err
		}
		now := s.now()
		a := token.AccessToken{
			Issuer: s.o.Issuer, Audience: s.o.Audience, Subject: subject, ID: newID(), Scopes: scopes,
			IssuedAt: now.Truncate(time.Second), Rev: rev,
		}
		a.Expiry = a.IssuedAt.Add(ttl).Truncate(time.Second)
		if raw, err = s.o.Sign(a); err != nil {
			return fmt.Errorf("sign the access token: %w", err)
		}
		return s.o.Audit.Write(ctx, audit.Event{
			Time: now, Type: audit.TokenIssued, Issuer: s.o.Issuer, Subject: subject, Actor: actor,
			Detail: map[string]string{"jti": a.ID, "scope": strings.Join(scopes, " "), "expires": a.Expiry.UTC().Format(time.RFC3339)},
		})
	})
	return raw, err
}

// Get is a session that can still be used.
func (s *Service) Get(ctx context.Context, sid string) (Session, error) {
	r, err := s.o.Store.Session(ctx, sid)
	if err == nil && !r.alive(s.now()) {
		err = ErrNotFound
	}
	if err != nil {
		return Session{}, err
	}
	return r.session(), nil
}

// List is a subject's sessions that can still be used, oldest first; with an
// empty subject the oldest thousand of all.
func (s *Service) List(ctx context.Context, subject string) ([]Session, error) {
	rs, err := s.o.Store.Sessions(ctx, subject, listed)
	if err != nil {
		return nil, err
	}
	now, out := s.now(), []Session{}
	for _, r := range rs {
		if r.alive(now) {
			out = append(out, r.session())
		}
	}
	return out, nil
}

// now is to the millisecond, as it is stored.
func (s *Service) now() time.Time { return s.o.Now().Truncate(time.Millisecond).UTC() }

// both are the scopes that are in a and in b, in a's order.
func both(a, b []string) []string {
	out := []string{}
	for _, v := range a {
		if slices.Contains(b, v) && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

func isAbsent(err error) bool { return errors.Is(err, ErrNotFound) }

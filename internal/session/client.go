package session

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/token"
)

// No account has a subject that begins with one of these: internal/account
// refuses such names, and Begin such subjects.
const (
	clientPrefix  = "client:"
	foreignPrefix = "foreign:"
)

// ClientSubject is the subject of a machine client's own tokens.
func ClientSubject(id string) string { return clientPrefix + id }

func isClient(subject string) bool { return strings.HasPrefix(subject, clientPrefix) }

// ForeignSubject is whom our tokens name for another issuer's subject: both
// names as one, so that no issuer's subject is another's, nor one of ours.
func ForeignSubject(issuer, subject string) string {
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject)) // no claim has control characters
	return foreignPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

// A ClientRequest is what a machine client, which has proved who it is, asks for.
type ClientRequest struct {
	ClientID string
	// Scopes are what the client may have, Scope is the parameter; empty: all.
	Scopes []string
	Scope  string
	// TTL is the token's life; zero: AccessTTL.
	TTL time.Duration
	// For is the verified token of whom the client acts for; nil: for itself.
	For *token.Token
}

// ClientToken issues an access token, without a session and without a refresh
// token, to a machine client: for itself, or in exchange for somebody's token
// (RFC 8693). An exchanged one has no scope that either of the two lacks, ends
// no later than the token it was exchanged for, and is revoked with it. It fails
// with ErrInvalidScope or ErrNotExchanged.
func (s *Service) ClientToken(ctx context.Context, q ClientRequest) (g Grant, err error) {
	if s.o.Sign == nil {
		return Grant{}, ErrNoIssuer
	}
	scopes := q.Scopes
	if q.For != nil {
		scopes = both(q.For.Scopes, q.Scopes)
	}
	// What rules over this program is for accounts alone.
	scopes = slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return strings.HasPrefix(s, "wsbouncer:") })
	if q.Scope != "" {
		var ok bool
		if scopes, ok = within(q.Scope, scopes); !ok {
			return Grant{}, ErrInvalidScope
		}
	}
	if q.TTL <= 0 {
		q.TTL = s.o.AccessTTL
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		rev, err := s.o.Store.Sequence(ctx)
		if err != nil {
			return err
		}
		now := s.now()
		a := token.AccessToken{
			Issuer: s.o.Issuer, Audience: s.o.Audience, Subject: ClientSubject(q.ClientID), ClientID: q.ClientID,
			ID: newID(), Scopes: scopes, IssuedAt: now.Truncate(time.Second), Rev: rev,
		}
		a.Expiry = a.IssuedAt.Add(min(q.TTL, s.o.MaxTokenLife)).Truncate(time.Second)
		event := audit.Event{Time: now, Type: audit.ClientToken}
		if q.For != nil {
			if err := exchange(&a, q.For, q.ClientID); err != nil {
				return err
			}
			event.Type, event.Actor = audit.TokenExchanged, ClientSubject(q.ClientID)
			if !q.For.Own {
				event.Detail = map[string]string{"for_issuer": q.For.Issuer, "for_subject": q.For.Subject}
			}
		}
		if !a.Expiry.After(now) {
			return fmt.Errorf("%w: less than a second is left of it", ErrNotExchanged)
		}
		raw, err := s.o.Sign(a)
		if err != nil {
			return fmt.Errorf("sign the access token: %w", err)
		}
		g = Grant{
			AccessToken: raw, ExpiresAt: a.Expiry, ExpiresIn: seconds(a.Expiry.Sub(now)),
			Scope: strings.Join(scopes, " "), SessionID: a.Session, Subject: a.Subject,
		}
		event.Issuer, event.Subject, event.Session = s.o.Issuer, a.Subject, a.Session
		return s.o.Audit.Write(ctx, event)
	})
	if err != nil {
		return Grant{}, fmt.Errorf("a token for client %s: %w", q.ClientID, err)
	}
	return g, nil
}

// notFurther are the claims that say what every token says, and whose it is.
var notFurther = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "azp", "scope", "rev", "cnf",
	"auth_time", "amr", "acr", "act", "src",
}

// mayAct: t does not say that others than the client may act for its subject
// (may_act, RFC 8693 §4.4).
func mayAct(t *token.Token, client string) bool {
	var other struct {
		Subject string `json:"sub"`
		Client  string `json:"client_id"`
	}
	there, err := t.Claims.Lookup("may_act", &other)
	if !there && err == nil {
		return true
	}
	named := func(s string) bool { return s == client || s == ClientSubject(client) }
	return err == nil && (named(other.Subject) || other.Subject == "" && named(other.Client))
}

// exchange makes a, which is the client's, a token of whom t speaks for.
func exchange(a *token.AccessToken, t *token.Token, client string) error {
	switch {
	case !t.Exchangeable():
		return fmt.Errorf("%w: it was exchanged too often", ErrNotExchanged)
	case !mayAct(t, client):
		return fmt.Errorf("%w: it says that somebody else may act", ErrNotExchanged)
	}
	a.From, a.Actor = t, &token.Actor{Subject: a.Subject}
	if t.Expiry.Before(a.Expiry) {
		a.Expiry = t.Expiry.Truncate(time.Second)
	}
	if !t.Own {
		a.Subject = ForeignSubject(t.Issuer, t.Subject)
		// RFC 9493 §3.2.3.
		a.Extra = map[string]any{"sub_id": map[string]string{"format": "iss_sub", "iss": t.Issuer, "sub": t.Subject}}
		return nil
	}
	a.Subject, a.Session = t.Subject, t.Session
	// What the subject's own token says of it is still true of it.
	var claims map[string]json.RawMessage // as they were written
	if err := json.Unmarshal(t.Claims, &claims); err != nil {
		return fmt.Errorf("claims of the token to exchange: %w", err)
	}
	a.Extra = map[string]any{}
	for name, value := range claims {
		if !slices.Contains(notFurther, name) {
			a.Extra[name] = value
		}
	}
	var authenticated float64
	for name, into := range map[string]any{"auth_time": &authenticated, "amr": &a.AMR, "acr": &a.ACR, "act": &a.Actor.Actor} {
		if _, err := t.Claims.Lookup(name, into); err != nil {
			return err
		}
	}
	if authenticated > 0 {
		a.AuthTime = time.Unix(int64(authenticated), 0)
	}
	return nil
}

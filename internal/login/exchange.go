package login

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/policy"
)

// exchangeTimeout is how long all that a callback asks of a provider may take.
const exchangeTimeout = 20 * time.Second

// clockSkew is how far a provider's clock may be from ours.
const clockSkew = 2 * time.Minute

// maxTokenClaims bounds what token_claims add to an access token, as JSON: it
// travels in a cookie.
const maxTokenClaims = 1 << 10

// ask exchanges a code and verifies whose it is. document is all the provider
// says of its user, strict JSON.
func (s *Service) ask(ctx context.Context, p *live, to *endpoints, t transaction, code string) (r *Result, document []byte, err error) {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, p.client), exchangeTimeout)
	defer cancel()
	c := oauth2.Config{ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: to.endpoint, RedirectURL: s.redirectURI(p.Name)}
	got, err := c.Exchange(ctx, code, oauth2.VerifierOption(t.Verifier))
	if err != nil {
		return nil, nil, refusedCode(err)
	}
	if p.Type == OAuth2 {
		return s.userinfo(ctx, p, got)
	}
	return s.idToken(ctx, p, to, t, got)
}

// refusedCode says why there is no token, without what the provider wrote.
func refusedCode(err error) *Failure {
	var retrieve *oauth2.RetrieveError
	if errors.As(err, &retrieve) {
		status := 0
		if retrieve.Response != nil {
			status = retrieve.Response.StatusCode
		}
		return providerFailed(fmt.Sprintf("token endpoint: status %d, error %q", status, audit.Cut(retrieve.ErrorCode, 64)), nil)
	}
	return providerFailed("token endpoint", withoutURL(err))
}

// idToken verifies an ID token by OpenID Connect Core §3.1.3.7.
func (s *Service) idToken(ctx context.Context, p *live, to *endpoints, t transaction, got *oauth2.Token) (*Result, []byte, error) {
	bad := func(reason string) (*Result, []byte, error) {
		return nil, nil, providerFailed("ID token: "+reason, nil)
	}
	raw, _ := got.Extra("id_token").(string)
	if raw == "" {
		return bad("absent")
	}
	if len(raw) > 2*maxClaims {
		return bad("too large")
	}
	now := s.o.Now()
	// Signature by a key of jwks_uri and a public-key algorithm; iss, aud, exp, nbf.
	id, err := to.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, nil, providerFailed("ID token: "+why(err), nil)
	}
	var document json.RawMessage
	if err := id.Claims(&document); err != nil {
		return bad("no claims")
	}
	if err := jsonscan.Valid(document, claimsOptions); err != nil {
		return bad(err.Error()) // a name twice, above all: which of them was verified?
	}
	var c struct {
		AZP      *string         `json:"azp"`
		IssuedAt *float64        `json:"iat"`
		AtHash   *string         `json:"at_hash"`
		AuthTime *float64        `json:"auth_time"`
		SID      json.RawMessage `json:"sid"`
		AMR      json.RawMessage `json:"amr"`
		ACR      json.RawMessage `json:"acr"`
		Email    json.RawMessage `json:"email"`
		Verified json.RawMessage `json:"email_verified"`
	}
	if err := json.Unmarshal(document, &c); err != nil {
		return bad("a claim of the wrong type")
	}
	switch {
	case id.Issuer != p.Issuer: // go-oidc takes another from Google
		return bad("iss")
	case t.Nonce == "" || subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(t.Nonce)) != 1:
		return bad("nonce")
	case c.AZP != nil && *c.AZP != p.ClientID, c.AZP == nil && len(id.Audience) > 1:
		return bad("azp")
	case c.IssuedAt == nil, id.IssuedAt.After(now.Add(clockSkew)), id.IssuedAt.Before(time.Unix(t.Begun, 0).Add(-clockSkew)):
		return bad("iat")
	case c.AtHash != nil && id.VerifyAccessToken(got.AccessToken) != nil:
		return bad("at_hash")
	case id.Subject == "" || len(id.Subject) > maxValue:
		return bad("sub")
	}
	r := &Result{Issuer: p.Issuer, Subject: id.Subject, IssuedAt: id.IssuedAt}
	if string(c.Verified) == "true" {
		_ = json.Unmarshal(c.Email, &r.Email)
		if r.Email = strings.ToLower(r.Email); len(r.Email) > maxValue {
			r.Email = ""
		}
	}
	if c.AuthTime != nil {
		if r.AuthTime = time.Unix(int64(*c.AuthTime), 0); r.AuthTime.After(now) {
			r.AuthTime = now
		}
	}
	// What these hold is advice, so what cannot be read is as if it were not there.
	_ = json.Unmarshal(c.ACR, &r.ACR)
	_ = json.Unmarshal(c.AMR, &r.AMR)
	if len(r.ACR) > maxValue {
		r.ACR = ""
	}
	if len(r.AMR) > 16 || slices.ContainsFunc(r.AMR, func(m string) bool { return m == "" || len(m) > 64 || strings.ContainsAny(m, " \t\r\n") }) {
		r.AMR = nil
	}
	if len(c.SID) > 0 {
		if err := json.Unmarshal(c.SID, &r.Session); err != nil || len(r.Session) > maxValue {
			return bad("sid")
		}
	}
	return r, document, nil
}

// why is what go-oidc found wrong, without the token's content.
func why(err error) string {
	var expired *oidc.TokenExpiredError
	text := err.Error()
	switch {
	case errors.As(err, &expired):
		return "expired"
	case strings.Contains(text, "different provider"):
		return "iss"
	case strings.Contains(text, "audience"):
		return "aud"
	case strings.Contains(text, "signature"):
		return "signature, or its keys cannot be had"
	}
	return "malformed, or not signed as this provider signs"
}

// userinfo asks who an access token is of.
func (s *Service) userinfo(ctx context.Context, p *live, got *oauth2.Token) (*Result, []byte, error) {
	bad := func(reason string, cause error) (*Result, []byte, error) {
		return nil, nil, providerFailed("user information: "+reason, cause)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, p.UserinfoURL, nil)
	if err != nil {
		return bad("address", err)
	}
	q.Header.Set("Authorization", "Bearer "+got.AccessToken)
	q.Header.Set("Accept", "application/json")
	asked := s.o.Now()
	res, err := p.client.Do(q)
	if err != nil {
		return bad("unreachable", withoutURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return bad(fmt.Sprintf("status %d", res.StatusCode), nil)
	}
	document, err := io.ReadAll(io.LimitReader(res.Body, maxClaims+1))
	if err != nil {
		return bad("unreadable", err)
	}
	raw, found, err := jsonscan.Find(document, claimsOptions, p.Subject)
	if err != nil {
		return bad(err.Error(), nil)
	}
	if !found {
		return bad(p.Subject+" is absent", nil)
	}
	subject, ok := subjectOf(raw)
	if !ok {
		return bad(p.Subject+" is neither a string nor a whole number", nil)
	}
	return &Result{Issuer: p.namespace(), Subject: subject, IssuedAt: asked}, document, nil
}

// subjectOf is a subject that is a JSON string or a whole number.
func subjectOf(raw []byte) (string, bool) {
	if len(raw) == 0 {
		return "", false
	}
	if raw[0] == '"' {
		s, err := jsonscan.String(raw)
		return s, err == nil && s != "" && len(s) <= maxValue
	}
	digits := strings.TrimPrefix(string(raw), "-")
	return string(raw), digits != "" && len(raw) <= 32 && strings.Trim(digits, "0123456789") == ""
}

// withoutURL is the error beneath a *url.Error, whose text holds the address.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// judge decides by the operator's rules who comes in, and with what.
func (s *Service) judge(ctx context.Context, p *live, r *Result, document []byte) error {
	value, err := policy.JSON(document)
	if err != nil {
		return providerFailed("claims", err)
	}
	claims, ok := value.(map[string]any)
	if !ok {
		return providerFailed("claims are no object", nil)
	}
	vars := policy.Vars{policy.Claims: claims, policy.Provider: p.Name}
	may, err := p.Allow.Allow(vars)
	switch {
	case err != nil:
		return denied("allow: " + err.Error())
	case !may:
		return denied("allow is false")
	}
	r.Scopes = append([]string{}, p.DefaultScopes...)
	for n, rule := range p.ScopesFor {
		holds, err := rule.When.Allow(vars)
		if err != nil { // then it gives nothing
			s.o.Log.DebugContext(ctx, "a rule of scopes_for does not fit a user", "provider", p.Name, "rule", n, "error", err)
		}
		if !holds {
			continue
		}
		for _, scope := range rule.Scopes {
			if !slices.Contains(r.Scopes, scope) {
				r.Scopes = append(r.Scopes, scope)
			}
		}
	}
	for name, program := range p.TokenClaims {
		v, err := program.Value(vars)
		if err != nil {
			s.o.Log.DebugContext(ctx, "a token claim has no value for a user", "provider", p.Name, "claim", name, "error", err)
			continue
		}
		if r.Claims == nil {
			r.Claims = map[string]any{}
		}
		r.Claims[name] = v
	}
	if b, err := json.Marshal(r.Claims); err != nil || len(b) > maxTokenClaims {
		return denied(fmt.Sprintf("token_claims are more than %d bytes", maxTokenClaims))
	}
	for _, name := range []string{"preferred_username", "email", "login", "name"} {
		if text, _ := claims[name].(string); text != "" {
			r.Label = audit.Cut(text, 128)
			break
		}
	}
	return nil
}

package adminapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// issueToken is POST /v1/tokens.
func (a *api) issueToken(w http.ResponseWriter, r *http.Request) error {
	var in IssueRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.Subject == "" || in.TTL < 0 || in.TTL > int64((1<<63-1)/time.Second) {
		return invalid("subject is needed, and ttl is a number of seconds.")
	}
	raw, err := a.Sessions.Mint(r.Context(), in.Subject, strings.Fields(in.Scope), time.Duration(in.TTL)*time.Second, actor)
	if errors.Is(err, session.ErrNoIssuer) {
		return err
	}
	if err != nil {
		// Whoever administers may read why.
		a.Log.ErrorContext(r.Context(), "token not issued", "error", err)
		return &httpx.Problem{Status: http.StatusBadRequest, Code: "not_issued", Detail: "The token was not issued: " + err.Error() + "."}
	}
	t, err := a.Bouncer.Verify(r.Context(), raw)
	if err != nil {
		return err
	}
	return writeJSON(w, IssuedToken{
		AccessToken: raw, TokenType: "Bearer", ExpiresIn: int(time.Until(t.Expiry).Round(time.Second) / time.Second),
		ExpiresAt: t.Expiry.UTC(), Scope: strings.Join(t.Scopes, " "),
	})
}

// verifyToken is POST /v1/tokens/verify. A token that is not valid is an answer,
// not an error.
func (a *api) verifyToken(w http.ResponseWriter, r *http.Request) error {
	var in tokenRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	t, err := a.Bouncer.Verify(r.Context(), in.Token)
	var refused *reason.Refusal
	switch {
	case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError:
		return writeJSON(w, VerifiedToken{Code: refused.Code, Detail: refused.Detail})
	case err != nil:
		return err
	}
	out := VerifiedToken{
		Valid: true, Issuer: t.Issuer, Subject: t.Subject, Session: t.Session, TokenID: t.ID, KeyID: t.KeyID,
		ClientID: t.ClientID, Scopes: t.Scopes, ExpiresAt: t.Deadline().UTC(), Claims: json.RawMessage(t.Claims),
	}
	if !t.IssuedAt.IsZero() {
		out.IssuedAt = t.IssuedAt.UTC()
	}
	return writeJSON(w, out)
}

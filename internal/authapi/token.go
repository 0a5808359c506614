package authapi

import (
	"errors"
	"net/http"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

const grantRefresh = "refresh_token"

// refreshInput is a refresh, in either form.
type refreshInput struct {
	session.RefreshRequest
	connections []string
	cookie      bool
}

// token is POST AuthPath/token: the token endpoint of RFC 6749 §3.2.
func (a *API) token(w http.ResponseWriter, r *http.Request) error {
	var in refreshInput
	var err error
	if isForm(r) {
		in, err = readRefreshForm(w, r)
	} else {
		in, err = a.readRefreshCookie(w, r)
	}
	if err != nil {
		return err
	}
	// Checked before the refresh token is spent.
	if err := checkIDs(in.connections); err != nil {
		return err
	}
	ctx, who := r.Context(), from(r.Context())
	in.IP, in.UserAgent = who.ip, who.agent
	g, err := a.o.Sessions.Refresh(ctx, in.RefreshRequest)
	switch {
	case errors.Is(err, session.ErrInvalidGrant), errors.Is(err, session.ErrInactive):
		return oauthError("invalid_grant", "The refresh token is unknown, used or expired, or its session ended. Log in again.")
	case errors.Is(err, session.ErrInvalidScope):
		return oauthError("invalid_scope", "The session does not have that scope.")
	case err != nil:
		return err
	}
	// The new tokens are the caller's whatever becomes of its connections.
	extended, err := a.o.Bouncer.Extend(ctx, g.AccessToken, in.connections...)
	if err != nil {
		a.o.Log.WarnContext(ctx, "connections were not extended", "session", g.SessionID, "error", err)
	}
	var moved []string
	if in.connections != nil || len(extended.Extended) > 0 {
		moved = append([]string{}, extended.Extended...)
	}
	return a.answer(w, g, in.cookie, moved)
}

// readRefreshForm is the form of RFC 6749 §6, and connection, repeatable.
func readRefreshForm(w http.ResponseWriter, r *http.Request) (refreshInput, error) {
	form, err := readForm(w, r, "connection")
	if err != nil {
		return refreshInput{}, err
	}
	if err := checkGrant(form.Get("grant_type")); err != nil {
		return refreshInput{}, err
	}
	in := refreshInput{
		RefreshRequest: session.RefreshRequest{Token: form.Get("refresh_token"), ClientID: form.Get("client_id"), Scope: form.Get("scope")},
		connections:    form["connection"],
	}
	if in.Token == "" {
		return refreshInput{}, invalidRequest("refresh_token is needed.")
	}
	if in.ClientID == "" {
		in.ClientID = clientID
	}
	return in, nil
}

// readRefreshCookie is the form for browsers: the refresh token is in a cookie.
func (a *API) readRefreshCookie(w http.ResponseWriter, r *http.Request) (refreshInput, error) {
	if err := a.guardCookies(r); err != nil {
		return refreshInput{}, err
	}
	var body struct {
		GrantType  string   `json:"grant_type"`
		Connection []string `json:"connection"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return refreshInput{}, err
	}
	if err := checkGrant(body.GrantType); err != nil {
		return refreshInput{}, err
	}
	raw, present, err := a.o.Cookies.Refresh(r)
	if err != nil {
		return refreshInput{}, err
	}
	if !present || raw == "" {
		return refreshInput{}, oauthError("invalid_grant", "There is no refresh cookie. Log in.")
	}
	return refreshInput{
		RefreshRequest: session.RefreshRequest{Token: raw, ClientID: clientID}, connections: body.Connection, cookie: true,
	}, nil
}

func checkGrant(grant string) error {
	switch grant {
	case grantRefresh:
		return nil
	case "":
		return invalidRequest("grant_type is needed.")
	}
	return oauthError("unsupported_grant_type", "This server takes refresh_token.")
}

// revoke is POST AuthPath/revoke (RFC 7009). For public clients the token is its
// own authentication: whoever holds it may end it, and nothing else.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r, "")
	if err != nil {
		return err
	}
	raw := form.Get("token")
	if raw == "" {
		return invalidRequest("token is needed.")
	}
	client := form.Get("client_id")
	if client == "" {
		client = clientID
	}
	// The hint only says where to look first (§2.1); the two kinds do not look alike.
	if _, _, err := token.Inspect(raw); err == nil {
		err = a.revokeAccess(r, raw)
		if err != nil {
			return err
		}
	} else if _, err := a.o.Sessions.RevokeRefresh(r.Context(), raw, client, ""); err != nil && !errors.Is(err, session.ErrInvalidGrant) {
		return err
	}
	// §2.2: 200 also for a token that was never valid.
	return httpx.WriteJSON(w, http.StatusOK, struct{}{})
}

// revokeAccess revokes one access token; the connections that live by it end.
func (a *API) revokeAccess(r *http.Request, raw string) error {
	t, err := a.o.Bouncer.Verify(r.Context(), raw)
	var refused *reason.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError:
		return nil // not valid: nothing to revoke
	default:
		return err
	}
	if !t.Own || t.ID == "" {
		return oauthError("unsupported_token_type", "This server revokes tokens of its own issuer.")
	}
	_, err = a.o.Sessions.Revoke(r.Context(), t.Subject, "revoked by its holder", revokeToken(t))
	return err
}

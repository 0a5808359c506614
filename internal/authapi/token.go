package authapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"

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
	grant       string // what was asked for instead
}

// token is POST AuthPath/token: the token endpoint of RFC 6749 §3.2.
func (a *API) token(w http.ResponseWriter, r *http.Request) error {
	if !isForm(r) {
		in, err := a.readRefreshCookie(w, r)
		if err != nil {
			return a.refused(r, in.grant, nil, err)
		}
		return a.refresh(w, r, in)
	}
	form, err := readForm(w, r, "connection")
	if err != nil {
		return err
	}
	client, err := a.clients.client(r, form)
	if err != nil {
		return err
	}
	grant := form.Get("grant_type")
	if err := a.checkGrant(grant, form.Get("response_type"), client); err != nil {
		return a.refused(r, grant, client, err)
	}
	if grant != grantRefresh && len(r.Header["Dpop"]) > 0 {
		// What it asks for is not done, so it is not left out in silence.
		return a.refused(r, grant, client, invalidRequest("Machine clients get bearer tokens here: leave the DPoP header out."))
	}
	switch grant {
	case grantRefresh:
		in, err := readRefreshForm(form)
		if err != nil {
			return err
		}
		return a.refresh(w, r, in)
	case GrantTokenExchange:
		err = a.exchange(w, r, client, form)
	default:
		err = a.clientCredentials(w, r, client, form)
	}
	return a.refused(r, grant, client, err)
}

// refresh is the one grant of public clients: our own login's sessions.
func (a *API) refresh(w http.ResponseWriter, r *http.Request, in refreshInput) error {
	// Checked before the refresh token is spent.
	if err := checkIDs(in.connections); err != nil {
		return err
	}
	proof, err := a.issueProof(r)
	switch {
	case err != nil:
		return a.proofRefused(r, session.KeyError{}, err)
	case proof != nil && in.cookie:
		return errBoundCookie
	}
	ctx, who := r.Context(), from(r.Context())
	in.IP, in.UserAgent = who.ip, who.agent
	in.Key, in.Spend = keyOf(proof), a.spending(proof)
	g, err := a.o.Sessions.Refresh(ctx, in.RefreshRequest)
	var wrongKey *session.KeyError
	switch {
	case errors.Is(err, session.ErrInvalidGrant), errors.Is(err, session.ErrInactive):
		return oauthError("invalid_grant", "The refresh token is unknown, used or expired, or its session ended. Log in again.")
	case errors.As(err, &wrongKey):
		return a.proofRefused(r, *wrongKey, errWrongKey)
	case errors.Is(err, session.ErrInvalidScope):
		return oauthError("invalid_scope", "The session does not have that scope.")
	case err != nil:
		return a.proofRefused(r, session.KeyError{}, err)
	}
	return a.answer(w, g, in.cookie, a.extendTo(ctx, g, in.connections))
}

// extendTo moves the named connections to new tokens, which are the caller's
// whatever becomes of that.
func (a *API) extendTo(ctx context.Context, g session.Grant, connections []string) []string {
	if g.Key != "" {
		ctx = token.WithProof(ctx, token.KeyBinding(g.Key)) // it was proved just now
	}
	x, err := a.o.Bouncer.Extend(ctx, g.AccessToken, connections...)
	if err != nil {
		a.o.Log.WarnContext(ctx, "connections were not extended", "session", g.SessionID, "error", err)
	}
	if connections == nil && len(x.Extended) == 0 {
		return nil
	}
	return append([]string{}, x.Extended...)
}

// readRefreshForm is the form of RFC 6749 §6, and connection, repeatable.
func readRefreshForm(form url.Values) (refreshInput, error) {
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
	if body.GrantType != grantRefresh {
		return refreshInput{grant: body.GrantType}, a.checkGrant(body.GrantType, "", nil)
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

// revoke is POST AuthPath/revoke (RFC 7009). For public clients the token is its
// own authentication: whoever holds it may end it, and nothing else. A machine
// client that says who it is may end what was issued to it.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r, "")
	if err != nil {
		return err
	}
	client, err := a.clients.client(r, form)
	if err != nil {
		return err
	}
	raw := form.Get("token")
	if raw == "" {
		return invalidRequest("token is needed.")
	}
	by := form.Get("client_id")
	switch {
	case client != nil:
		by = client.ID
	case by == "":
		by = clientID
	}
	// The hint only says where to look first (§2.1); the two kinds do not look alike.
	if _, _, err := token.Inspect(raw); err == nil {
		err = a.revokeAccess(r, raw, client)
		if err != nil {
			return err
		}
	} else if _, err := a.o.Sessions.RevokeRefresh(r.Context(), raw, by, ""); errors.Is(err, session.ErrInvalidGrant) && client != nil {
		return errNotYours
	} else if err != nil && !errors.Is(err, session.ErrInvalidGrant) {
		return err
	}
	// §2.2: 200 also for a token that was never valid.
	return httpx.WriteJSON(w, http.StatusOK, struct{}{})
}

// errNotYours is RFC 7009 §2.1: the client is told, and nothing is revoked.
var errNotYours = oauthError("invalid_grant", "The token was issued to another client.")

// revokeAccess revokes one access token; the connections that live by it end.
// client is who asks; nil: whoever holds the token.
func (a *API) revokeAccess(r *http.Request, raw string, client *Client) error {
	// Holding it is enough to end it.
	t, err := a.o.Bouncer.Verify(token.WithProof(r.Context(), token.AnyKey), raw)
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
	actor, note := t.Subject, "revoked by its holder"
	if client != nil {
		if t.ClientID != client.ID {
			return errNotYours
		}
		actor, note = session.ClientSubject(client.ID), "revoked by its client"
	}
	_, err = a.o.Sessions.Revoke(r.Context(), actor, note, revokeToken(t))
	return err
}

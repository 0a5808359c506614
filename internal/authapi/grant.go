package authapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

const accessTokenType = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // RFC 8693 §3

// grants are those that this server has just now.
func (a *API) grants() []string {
	list := []string{grantRefresh}
	for _, g := range []string{GrantClientCredentials, GrantTokenExchange} {
		if a.o.Clients.offer(g) {
			list = append(list, g)
		}
	}
	return list
}

// checkGrant refuses a grant that client, nil for a public one, does not have.
func (a *API) checkGrant(grant, response string, client *Client) error {
	switch {
	case grant == "" && response != "":
		return oauthError("unsupported_response_type", "There is no authorization endpoint: this server takes grant_type "+strings.Join(a.grants(), ", ")+".")
	case grant == "":
		return invalidRequest("grant_type is needed.")
	case !slices.Contains(a.grants(), grant):
		return oauthError("unsupported_grant_type", "This server takes "+strings.Join(a.grants(), ", ")+".")
	case grant == grantRefresh && client == nil:
		return nil
	case client == nil:
		return errInvalidClient
	case !slices.Contains(client.Grants, grant): // machine clients have no refresh tokens either
		return oauthError("unauthorized_client", "This client may not use that grant.")
	}
	return nil
}

// refused is err, with an event where the token endpoint gave nothing.
func (a *API) refused(r *http.Request, grant string, client *Client, err error) error {
	var p *httpx.Problem
	if !errors.As(err, &p) || p.Status >= http.StatusInternalServerError {
		return err
	}
	if ok, _ := a.refusals.Allow(limit.IPKey(from(r.Context()).ip), time.Now()); !ok {
		return err
	}
	if !slices.Contains(a.grants(), grant) && grant != "password" {
		grant = "unknown" // what stands there may be anything
	}
	e := audit.Event{Type: audit.GrantRefused, Issuer: a.o.Issuer, Detail: map[string]string{"grant": grant, "error": p.Code}}
	if client != nil {
		e.Subject = session.ClientSubject(client.ID)
	}
	if auditErr := a.o.Audit.Write(r.Context(), e); auditErr != nil {
		return auditErr
	}
	return err
}

// clientCredentials is RFC 6749 §4.4: a token for the client itself.
func (a *API) clientCredentials(w http.ResponseWriter, r *http.Request, client *Client, form url.Values) error {
	return a.issueToClient(w, r, client, session.ClientRequest{Scope: form.Get("scope")}, "")
}

// exchange is RFC 8693: a token for the client to use in place of whom the shown
// token speaks for.
func (a *API) exchange(w http.ResponseWriter, r *http.Request, client *Client, form url.Values) error {
	wanted := form.Get("requested_token_type")
	switch {
	case form.Get("subject_token") == "":
		return invalidRequest("subject_token is needed.")
	case form.Get("subject_token_type") != accessTokenType || wanted != "" && wanted != accessTokenType:
		return invalidRequest("Access tokens are exchanged for access tokens: subject_token_type is " + accessTokenType + ".")
	case form.Get("actor_token") != "" || form.Get("actor_token_type") != "":
		return invalidRequest("The actor is the client itself: leave actor_token out.")
	case form.Get("resource") != "":
		return oauthError("invalid_target", "Tokens here are for this service alone: leave resource out.")
	}
	if aud := form.Get("audience"); aud != "" && aud != a.o.Audience {
		return oauthError("invalid_target", "Tokens here are for this service alone: leave audience out.")
	}
	t, err := a.o.Bouncer.Verify(r.Context(), form.Get("subject_token"))
	var refused *reason.Refusal
	switch {
	case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError:
		// §2.2.2. Why is nothing that a client can act on.
		return invalidRequest("subject_token is not a good access token.")
	case err != nil:
		return err
	}
	return a.issueToClient(w, r, client, session.ClientRequest{Scope: form.Get("scope"), For: t}, accessTokenType)
}

// issueToClient is the one place where machine clients get tokens.
func (a *API) issueToClient(w http.ResponseWriter, r *http.Request, client *Client, q session.ClientRequest, issued string) error {
	q.ClientID, q.Scopes, q.TTL = client.ID, client.Scopes, client.TokenTTL
	g, err := a.o.Sessions.ClientToken(r.Context(), q)
	switch {
	case errors.Is(err, session.ErrInvalidScope):
		return oauthError("invalid_scope", "That is more than may be had.")
	case errors.Is(err, session.ErrNotExchanged):
		return invalidRequest("subject_token cannot be exchanged: it ends within a second, was exchanged too often, or names who else may act.")
	case err != nil:
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		Issued      string `json:"issued_token_type,omitempty"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
		Scope       string `json:"scope"`
	}{g.AccessToken, issued, "Bearer", g.ExpiresIn, g.Scope})
}

// told are the claims that introspection tells besides those that every token has.
var told = []string{"act", "acr", "amr", "auth_time", "cnf", "sub_id", "username"}

// introspect is POST AuthPath/introspect (RFC 7662), for clients that may ask. A
// token that may not be used now is "active": false and nothing more, whatever it
// is; so is a refresh token, which is nobody's business but ours.
func (a *API) introspect(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r, "")
	if err != nil {
		return err
	}
	client, err := a.clients.client(r, form)
	switch {
	case err != nil:
		return err
	case client == nil:
		return errInvalidClient
	case !client.Introspect:
		return &httpx.Problem{Status: http.StatusForbidden, Code: "unauthorized_client", Detail: "This client may not ask about tokens."}
	}
	raw := form.Get("token")
	if raw == "" {
		return invalidRequest("token is needed.")
	}
	// Who asks got it with a proof, and is told of what key (RFC 9449 §6.2).
	t, err := a.o.Bouncer.Verify(token.WithProof(r.Context(), token.AnyKey), raw)
	var refused *reason.Refusal
	switch {
	case errors.As(err, &refused) && refused.Status < http.StatusInternalServerError:
		return httpx.WriteJSON(w, http.StatusOK, map[string]any{"active": false})
	case err != nil:
		return err
	}
	answer, err := introspection(t)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, answer)
}

// introspectedType is token_type of a verified token (RFC 9449 §6.2).
func introspectedType(t *token.Token) string {
	return tokenType(caller{Token: t}.provedKey())
}

func introspection(t *token.Token) (map[string]any, error) {
	out := map[string]any{
		"active": true, "token_type": introspectedType(t), "iss": t.Issuer, "sub": t.Subject, "exp": t.Expiry.Unix(), "scope": joinScopes(t.Scopes),
	}
	for name, value := range map[string]string{"client_id": t.ClientID, "jti": t.ID, "sid": t.Session} {
		if value != "" {
			out[name] = value
		}
	}
	if !t.IssuedAt.IsZero() {
		out["iat"] = t.IssuedAt.Unix()
	}
	if !t.NotBefore.IsZero() {
		out["nbf"] = t.NotBefore.Unix()
	}
	for _, name := range append([]string{"aud"}, told...) {
		var value json.RawMessage
		there, err := t.Claims.Lookup(name, &value)
		if err != nil {
			return nil, err
		}
		if there {
			out[name] = value
		}
	}
	return out, nil
}

package authapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// closed is how many live connections a call ended on this node.
type closed struct {
	Closed int `json:"closed"`
}

// logout is POST AuthPath/logout: the session ends, and its connections at once.
func (a *API) logout(w http.ResponseWriter, r *http.Request) error {
	_, hasBearer, err := bearer(r.Header)
	if err != nil {
		return err
	}
	if hasBearer {
		return a.logoutBearer(w, r)
	}
	return a.logoutCookie(w, r)
}

type logoutInput struct {
	Everywhere bool `json:"everywhere"`
}

func (a *API) logoutBearer(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	var in logoutInput
	if err := readOptionalJSON(w, r, &in); err != nil {
		return err
	}
	n, err := a.end(r, c, in.Everywhere)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, closed{n})
}

// logoutCookie logs out by either cookie, because the access token's may have
// expired, and takes both from the browser.
func (a *API) logoutCookie(w http.ResponseWriter, r *http.Request) error {
	access, hasAccess, err := a.o.Cookies.Access(r)
	if err != nil {
		return err
	}
	refresh, hasRefresh, err := a.o.Cookies.Refresh(r)
	if err != nil {
		return err
	}
	if !hasAccess && !hasRefresh {
		return reason.TokenMissing
	}
	if err := a.guardCookies(r); err != nil {
		return err
	}
	var in logoutInput
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	ctx := r.Context()
	var t *token.Token
	refused := error(reason.TokenMissing)
	if hasAccess {
		t, refused = a.o.Bouncer.Verify(ctx, access)
	}
	n := 0
	switch {
	case refused == nil && (!t.Own || machine(t)):
		return reason.Forbidden // no cookie of ours
	case refused == nil:
		n, err = a.end(r, caller{t, true}, in.Everywhere)
	case in.Everywhere:
		// Whose sessions is only known by the access token. The client
		// refreshes and comes again.
		return refused
	case !hasRefresh:
		a.o.Cookies.Clear(w) // of no use to the browser
		return refused
	}
	if err != nil {
		return err
	}
	if hasRefresh {
		more, err := a.o.Sessions.RevokeRefresh(ctx, refresh, clientID, "")
		if err != nil && !errors.Is(err, session.ErrInvalidGrant) {
			return err
		}
		n += more
	}
	a.o.Cookies.Clear(w)
	return httpx.WriteJSON(w, http.StatusOK, closed{n})
}

// end ends the caller's session, or all of the caller's.
func (a *API) end(r *http.Request, c caller, everywhere bool) (int, error) {
	ctx := r.Context()
	if everywhere {
		return a.o.Sessions.EndAll(ctx, c.Subject, wsbouncer.LoggedOut, c.Subject)
	}
	if c.Session == "" {
		// A token that was issued without a session.
		res, err := a.o.Sessions.Revoke(ctx, c.Subject, "logout", revokeToken(c.Token).Because(wsbouncer.LoggedOut))
		return res.Closed, err
	}
	n, err := a.o.Sessions.End(ctx, c.Session, wsbouncer.LoggedOut, c.Subject)
	if errors.Is(err, session.ErrNotFound) {
		return 0, nil // it ended while we spoke
	}
	return n, err
}

// whoami is GET AuthPath/session.
func (a *API) whoami(w http.ResponseWriter, r *http.Request) error {
	c, err := a.identify(r)
	if err != nil {
		return err
	}
	out := struct {
		Issuer    string `json:"issuer"`
		Subject   string `json:"subject"`
		SessionID string `json:"session_id"`
		ClientID  string `json:"client_id,omitempty"`
		Scope     string `json:"scope"`
		ExpiresIn int    `json:"expires_in"`
		ExpiresAt int64  `json:"expires_at"`
		// SessionExpires is the absolute end of the session.
		SessionExpires int64 `json:"session_expires_at,omitempty"`
	}{
		Issuer: c.Issuer, Subject: c.Subject, SessionID: c.Session, ClientID: c.ClientID, Scope: joinScopes(c.Scopes),
		ExpiresIn: max(0, int(time.Until(c.Deadline()).Seconds())), ExpiresAt: c.Deadline().Unix(),
	}
	if c.Own && c.Session != "" {
		s, err := a.o.Sessions.Get(r.Context(), c.Session)
		switch {
		case errors.Is(err, session.ErrNotFound):
			// Its absolute or idle end passed while this token lived on.
			return reason.TokenRevoked401.Because("The session has ended. Log in again.")
		case err != nil:
			return err
		}
		out.SessionExpires = s.Expires.Unix()
	}
	return httpx.WriteJSON(w, http.StatusOK, out)
}

// deviceAnswer is one session, as its owner sees it.
type deviceAnswer struct {
	ID        string    `json:"id"`
	Current   bool      `json:"current"`
	Method    string    `json:"method"`
	IP        string    `json:"ip"`
	UserAgent string    `json:"user_agent"`
	Origin    string    `json:"origin"`
	Created   time.Time `json:"created"`
	LastUsed  time.Time `json:"last_used"`
	Expires   time.Time `json:"expires"`
}

// sessions is GET AuthPath/sessions: my devices. internal/session bounds how
// many a subject can have.
func (a *API) sessions(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	list, err := a.o.Sessions.List(r.Context(), c.Subject)
	if err != nil {
		return err
	}
	out := make([]deviceAnswer, len(list))
	for i, s := range list {
		out[i] = deviceAnswer{
			ID: s.ID, Current: s.ID == c.Session, Method: s.Method, IP: s.IP, UserAgent: s.UserAgent, Origin: s.Origin,
			Created: s.Created.UTC(), LastUsed: s.LastUsed.UTC(), Expires: s.Expires.UTC(),
		}
	}
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Sessions []deviceAnswer `json:"sessions"`
	}{out})
}

// endSession is DELETE AuthPath/sessions/{id}: end one of mine.
func (a *API) endSession(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if len(id) > maxID {
		return notFound
	}
	s, err := a.o.Sessions.Get(r.Context(), id)
	if errors.Is(err, session.ErrNotFound) || err == nil && s.Subject != c.Subject {
		return notFound
	}
	if err != nil {
		return err
	}
	n, err := a.o.Sessions.End(r.Context(), id, wsbouncer.LoggedOut, c.Subject)
	if errors.Is(err, session.ErrNotFound) {
		return notFound
	}
	if err != nil {
		return err
	}
	if c.cookie && id == c.Session {
		a.o.Cookies.Clear(w)
	}
	return httpx.WriteJSON(w, http.StatusOK, closed{n})
}

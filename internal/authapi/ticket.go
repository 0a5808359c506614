package authapi

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// ticket is POST AuthPath/ticket.
func (a *API) ticket(w http.ResponseWriter, r *http.Request) error {
	c, err := a.identify(r)
	if err != nil {
		return err
	}
	var in struct {
		Path   string `json:"path"`
		Origin string `json:"origin"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	origin, err := a.ticketOrigin(r, in.Origin)
	if err != nil {
		return err
	}
	if err := a.checkRoute(r, c.Token, in.Path); err != nil {
		return err
	}
	g, err := a.o.Sessions.Ticket(r.Context(), c.Token, in.Path, origin)
	if errors.Is(err, session.ErrTicketPath) {
		return invalidRequest("path is that of the connection as it will be in its URL, without a query.")
	}
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Ticket     string `json:"ticket"`
		Connection string `json:"connection"`
		ExpiresIn  int    `json:"expires_in"`
	}{g.Ticket, g.Connection, g.ExpiresIn})
}

// ticketOrigin is the Origin a ticket is bound to: the caller's own, which
// nobody but its browser chooses, or the one a caller without names, for
// backends that mint. Neither: the ticket is for clients that are no browsers.
func (a *API) ticketOrigin(r *http.Request, named string) (string, error) {
	own, present, err := httpx.RequestOrigin(r.Header)
	switch {
	case err != nil:
		return "", err
	case present && named != "" && named != own:
		return "", invalidRequest("origin is for callers that send no Origin header; leave it out.")
	case present:
		return own, nil // guard saw that it is allowed
	case named == "":
		return "", nil
	case !a.o.Origins.Allowed(named):
		return "", reason.OriginDenied
	}
	return strings.ToLower(named), nil // as browsers will send it
}

// checkRoute finds out what a handshake would refuse anyway, where a browser can
// still read the reason.
func (a *API) checkRoute(r *http.Request, t *token.Token, path string) error {
	if path == "" {
		return invalidRequest("path is needed.")
	}
	d, ok := a.o.Route(path)
	if !ok {
		return reason.NoRoute
	}
	if d.TokenFrom != nil && !slices.Contains(d.TokenFrom, "ticket") {
		return reason.Forbidden.Because("This route takes no tickets.")
	}
	d.Authorizer = nil // it judges the handshake, whose query and Origin are still to come
	_, err := a.o.Bouncer.Permit(r, t, d)
	return err
}

// extend is POST AuthPath/extend: the Bearer token is the newer one.
func (a *API) extend(w http.ResponseWriter, r *http.Request) error {
	raw, present, err := bearer(r.Header)
	if err != nil {
		return err
	}
	if !present {
		return reason.TokenMissing.Because("Send the newer access token in the Authorization header. With cookies, name the connections at the token endpoint.")
	}
	t, err := a.o.Bouncer.VerifyRequest(r, raw, false)
	if err != nil {
		return err
	}
	var in struct {
		Connections []string `json:"connections"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := checkIDs(in.Connections); err != nil {
		return err
	}
	x, err := a.o.Bouncer.Extend(token.WithProof(r.Context(), t.Binding), raw, in.Connections...)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Extended  []string `json:"extended"`
		ExpiresAt int64    `json:"expires_at"`
	}{append([]string{}, x.Extended...), x.ExpiresAt.Unix()})
}

// revokeToken revokes one token for as long as it lives.
func revokeToken(t *token.Token) wsbouncer.Revocation {
	r := wsbouncer.Token(t.ID).Of(t.Issuer)
	r.Expires = t.Deadline()
	return r
}

package authapi

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Bounds of what a request may hold.
const (
	maxBody        = 16 << 10
	maxDepth       = 4   // of JSON
	maxConnections = 256 // named in one request
	maxID          = 128 // bytes of a connection's or session's id
)

func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// guard refuses what a page of a foreign origin made its visitor's browser
// send, whatever credential it carries: browsers put Origin on every request
// that can change something (Fetch standard, "append a request Origin header").
func (a *API) guard(r *http.Request) error {
	origin, present, err := httpx.RequestOrigin(r.Header)
	if err != nil {
		return invalidRequest("More than one Origin header was sent.")
	}
	switch {
	case safe(r.Method):
		return nil
	case present && !a.o.Origins.Allowed(origin):
		return reason.OriginDenied
	case !present && foreignFetch(r.Header["Sec-Fetch-Site"]):
		return reason.OriginDenied
	}
	return nil
}

// foreignFetch: a browser says that another site's page asks.
func foreignFetch(lines []string) bool {
	for _, line := range lines {
		if line != "same-origin" && line != "none" {
			return true
		}
	}
	return false
}

// guardCookies demands what every use of a cookie needs: an Origin that is
// allowed by name, or, for what changes nothing, the browser's word that our own
// origin asks (browsers send no Origin with a same-origin GET).
func (a *API) guardCookies(r *http.Request) error {
	return a.cookiesAllowed(r.Header, safe(r.Method), "same-origin")
}

// cookiesAllowed is guardCookies for headers of a request that changes nothing
// (safe) or may. sites are the Sec-Fetch-Site that do without an Origin.
func (a *API) cookiesAllowed(h http.Header, safe bool, sites ...string) error {
	if a.o.Origins.Any() {
		return reason.OriginDenied.Because("Cookies are not used where every Origin is allowed. Use tokens, or list the origins.")
	}
	origin, present, err := httpx.RequestOrigin(h)
	switch {
	case err != nil:
		return invalidRequest("More than one Origin header was sent.")
	case present && a.o.Origins.Allowed(origin):
		return nil
	case !present && safe:
		if site := h["Sec-Fetch-Site"]; len(site) == 1 && slices.Contains(sites, site[0]) {
			return nil
		}
	}
	if !present {
		return reason.OriginDenied.Because("Cookies are for pages, whose browsers send an Origin. Other programs log in without \"cookie\" and send tokens.")
	}
	return reason.OriginDenied
}

// A caller is whoever sent a request, verified.
type caller struct {
	*token.Token
	// cookie: the token came in a cookie.
	cookie bool
}

// identify verifies the request's one access token: of the Authorization
// header, or, without one, of the cookie. A token that is revoked, or whose
// session ended, is refused by the Bouncer at once.
func (a *API) identify(r *http.Request) (caller, error) {
	raw, present, err := bearer(r.Header)
	if err != nil {
		return caller{}, err
	}
	c := caller{}
	if !present {
		if raw, c.cookie, err = a.o.Cookies.Access(r); err != nil {
			return caller{}, err
		}
		if !c.cookie {
			return caller{}, reason.TokenMissing
		}
		if err := a.guardCookies(r); err != nil {
			return caller{}, err
		}
	}
	c.Token, err = a.o.Bouncer.VerifyRequest(r, raw, c.cookie)
	return c, err
}

// bearer is the token of the Authorization header (RFC 6750 §2.1, RFC 9449 §7.1). Two lines are
// two credentials, and identities are never merged.
func bearer(h http.Header) (raw string, present bool, err error) {
	lines := h["Authorization"]
	if len(lines) > 1 {
		return "", true, reason.CredentialAmbiguous
	}
	if len(lines) == 0 {
		return "", false, nil
	}
	scheme, value, _ := strings.Cut(strings.TrimSpace(lines[0]), " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return "", false, nil // another scheme is not ours to judge
	}
	return strings.Trim(value, " "), true, nil
}

// provedKey is the thumbprint of the DPoP key that the caller proved; "" without one.
func (c caller) provedKey() string {
	if c.Binding == "" || c.BoundToCertificate() {
		return ""
	}
	_, thumbprint, _ := strings.Cut(c.Binding, ":")
	return thumbprint
}

// machine: t was issued to a machine client, be it for somebody.
func machine(t *token.Token) bool { return t.ClientID != "" && t.ClientID != clientID }

// member is identify for calls about our own sessions.
func (a *API) member(r *http.Request) (caller, error) {
	c, err := a.identify(r)
	if err == nil && !c.Own {
		err = reason.Forbidden.Because("This token is of another issuer: its sessions are managed there.")
	}
	if err == nil && machine(c.Token) {
		// A token that somebody was handed for its few scopes ends nobody's sessions.
		err = reason.Forbidden.Because("This token was issued to a machine client: sessions are managed by whoever logged in.")
	}
	return c, err
}

// readJSON reads a body that must be a JSON object which fits v exactly.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := httpx.ReadBody(w, r, maxBody, "application/json")
	if err != nil {
		return err
	}
	return decode(body, v)
}

func decode(body []byte, v any) error {
	// encoding/json takes null for any struct.
	if first := strings.TrimLeft(string(body[:min(len(body), 64)]), " \t\r\n"); !strings.HasPrefix(first, "{") {
		return invalidRequest("The body must be a JSON object.")
	}
	err := jsonscan.Decode(body, jsonscan.Options{MaxDepth: maxDepth, MaxBytes: maxBody, FoldKeys: true}, v)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jsonscan.ErrDuplicate):
		return invalidRequest("The body has a member twice.")
	case errors.Is(err, jsonscan.ErrUnknown):
		return invalidRequest("The body has a member this call does not take.")
	}
	return invalidRequest("The body is not the JSON this call takes.")
}

// readOptionalJSON is readJSON where a caller who uses no cookie may leave the
// body out.
func readOptionalJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if r.ContentLength == 0 && len(r.Header["Content-Type"]) == 0 {
		return nil
	}
	return readJSON(w, r, v)
}

func invalidRequest(detail string) *httpx.Problem {
	return &httpx.Problem{Status: http.StatusBadRequest, Code: "invalid_request", Detail: detail}
}

var notFound = &httpx.Problem{
	Status: http.StatusNotFound, Code: "not_found",
	Detail: "There is no such thing, or it is not yours.",
}

// checkIDs bounds a list of connection ids.
func checkIDs(ids []string) error {
	if len(ids) > maxConnections {
		return invalidRequest("Too many connections are named at once.")
	}
	for _, id := range ids {
		if id == "" || len(id) > maxID {
			return invalidRequest("That is no connection id.")
		}
	}
	return nil
}

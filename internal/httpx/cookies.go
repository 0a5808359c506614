package httpx

import (
	"errors"
	"net/http"
	"net/url"
	"time"
)

// maxCookie is what browsers keep of one cookie, name, value and attributes
// (RFC 6265bis §5.6); a larger one is dropped in silence.
const maxCookie = 4096

// ErrCookieSize says that a token is too long for a cookie.
var ErrCookieSize = errors.New("the cookie would be larger than the 4096 bytes browsers keep")

// Cookies are the two session cookies: the access token, sent with every
// request, and the refresh token, sent below the authentication path only.
// Both are HttpOnly. Over https they have the prefixes that browsers enforce
// (RFC 6265bis §4.1.3): __Host- keeps other hosts of the domain from planting
// one.
type Cookies struct {
	// AccessName and RefreshName are what the cookies are called.
	AccessName, RefreshName string
	// LoginName is the cookie of a browser that is logging in at a provider.
	LoginName string

	path     string
	secure   bool
	sameSite http.SameSite
}

// NewCookies names the cookies after the public URL, whatever the listener
// speaks. authPath is the prefix of the authentication API ("/auth").
func NewCookies(public *url.URL, authPath string, sameSite http.SameSite) Cookies {
	c := Cookies{AccessName: "wsbouncer", RefreshName: "wsbouncer-refresh", LoginName: "wsbouncer-login", path: authPath, sameSite: sameSite}
	if c.path == "" {
		c.path = "/"
	}
	if public.Scheme == "https" {
		c.secure = true
		c.AccessName = "__Host-" + c.AccessName
		c.RefreshName = "__Secure-" + c.RefreshName
		c.LoginName = "__Host-" + c.LoginName
	}
	return c
}

// SetAccess gives the browser the access token for its life, in whole seconds.
func (c Cookies) SetAccess(w http.ResponseWriter, token string, life time.Duration) error {
	return c.set(w, c.AccessName, "/", token, life)
}

// SetRefresh gives the browser the refresh token for its life, in whole seconds.
func (c Cookies) SetRefresh(w http.ResponseWriter, token string, life time.Duration) error {
	return c.set(w, c.RefreshName, c.path, token, life)
}

// SetLogin marks the browser that began a login at a provider. It comes back with
// a navigation from another site, which Strict would keep it from.
func (c Cookies) SetLogin(w http.ResponseWriter, value string, life time.Duration) error {
	if c.sameSite != http.SameSiteNoneMode {
		c.sameSite = http.SameSiteLaxMode
	}
	return c.set(w, c.LoginName, "/", value, life)
}

// Login is the value of that cookie, like Access.
func (c Cookies) Login(r *http.Request) (value string, present bool, err error) {
	return one(r, c.LoginName)
}

// Clear takes both cookies from the browser.
func (c Cookies) Clear(w http.ResponseWriter) {
	_ = c.set(w, c.AccessName, "/", "", 0)
	_ = c.set(w, c.RefreshName, c.path, "", 0)
}

func (c Cookies) set(w http.ResponseWriter, name, path, value string, life time.Duration) error {
	cookie := &http.Cookie{ //nolint:gosec // Secure follows the public URL, SameSite the configuration
		Name: name, Value: value, Path: path, MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: c.secure, SameSite: c.sameSite,
	}
	if cookie.MaxAge <= 0 {
		cookie.MaxAge = -1
	}
	line := cookie.String()
	if len(line) > maxCookie {
		return ErrCookieSize
	}
	w.Header().Add("Set-Cookie", line)
	return nil
}

// errCookies: two cookies of one name are two identities.
var errCookies = &Problem{
	Status: http.StatusBadRequest, Code: "credential_ambiguous",
	Detail: "The same session cookie was sent twice. Delete this site's cookies and log in again.",
}

// Access is the access token of the request's cookie, and whether there is one.
// The cookie sent twice is an error: somebody planted one.
func (c Cookies) Access(r *http.Request) (token string, present bool, err error) {
	return one(r, c.AccessName)
}

// Refresh is the refresh token of the request's cookie, like Access.
func (c Cookies) Refresh(r *http.Request) (token string, present bool, err error) {
	return one(r, c.RefreshName)
}

func one(r *http.Request, name string) (string, bool, error) {
	switch found := r.CookiesNamed(name); len(found) {
	case 0:
		return "", false, nil
	case 1:
		return found[0].Value, true, nil
	default:
		return "", true, errCookies
	}
}

package authapi

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// loginWith is GET AuthPath/login/{provider}: off to the provider.
func (a *API) loginWith(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if len(query["return_to"]) > 1 {
		return a.loginProblem(w, r, "", invalidRequest("return_to was sent twice."))
	}
	browser, present, err := a.o.Cookies.Login(r)
	if err != nil || !present || !login.IsBrowser(browser) {
		browser = login.NewBrowser() // two of them: one was planted
	}
	address, err := a.o.Login.Begin(r.Context(), login.Request{
		Provider: r.PathValue("provider"), ReturnTo: query.Get("return_to"), Browser: browser, Replaces: a.replaced(r),
	})
	if err != nil {
		return a.loginFailed(w, r, err, a.kept(r))
	}
	if err := a.o.Cookies.SetLogin(w, browser, login.StateLife); err != nil {
		return err
	}
	return seeOther(w, address)
}

// replaced is the session that this browser has now. It is asked here, where the
// cookie comes along: to the callback another site leads, and a strict cookie
// stays away.
func (a *API) replaced(r *http.Request) string {
	old, present, err := a.o.Cookies.Refresh(r)
	if err != nil || !present || old == "" {
		return ""
	}
	sid, err := a.o.Sessions.SessionOfRefresh(r.Context(), old)
	if err != nil {
		a.o.Log.ErrorContext(r.Context(), "looking up the session that a login replaces", "error", err)
	}
	return sid
}

// callback is GET AuthPath/callback/{provider}: back from the provider.
func (a *API) callback(w http.ResponseWriter, r *http.Request) error {
	ctx, who := r.Context(), from(r.Context())
	// A page of somebody else could use up its visitor's allowance by pictures.
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
		return reason.OriginDenied
	}
	key := limit.IPKey(who.ip)
	// Only failures count: what is spent here comes back when it succeeds.
	if ok, retry := a.logins.Allow(key, time.Now()); !ok {
		return a.loginThrottled(w, r, retry)
	}
	browser, _, err := a.o.Cookies.Login(r)
	if err != nil {
		browser = ""
	}
	result, err := a.o.Login.Finish(ctx, r.PathValue("provider"), r.URL.Query(), browser)
	if err != nil {
		return a.loginFailed(w, r, err, true) // limits.logins bounds them
	}
	a.logins.Forgive(key)
	var g session.Grant
	err = a.o.Tx(ctx, func(ctx context.Context) error {
		subject, err := a.o.Login.Identity(ctx, result)
		if err != nil {
			return err
		}
		g, err = a.o.Sessions.Begin(ctx, session.Start{
			Subject: subject, ClientID: clientID, Scopes: result.Scopes, Method: result.Type,
			Proof:    session.Proof{Time: result.AuthTime, AMR: result.AMR, ACR: result.ACR},
			Claims:   result.Claims,
			External: session.External{Provider: result.Provider, Issuer: result.Issuer, Subject: result.Subject, Session: result.Session, Email: result.Email, IssuedAt: result.IssuedAt},
			IP:       who.ip, UserAgent: who.agent, Origin: who.origin, TTL: result.TTL,
		})
		return err
	})
	switch {
	case errors.Is(err, session.ErrEndedElsewhere):
		return a.loginFailed(w, r, &login.Failure{Problem: *loginEnded, Reason: "the provider ended the login meanwhile"}, true)
	case errors.Is(err, session.ErrInactive):
		return a.loginFailed(w, r, &login.Failure{Problem: *loginDisabled, Reason: "the identity is disabled"}, true)
	case err != nil:
		return a.loginProblem(w, r, "", err)
	}
	a.endReplaced(r)
	if result.Replaces != "" && result.Replaces != g.SessionID {
		if _, err := a.o.Sessions.End(ctx, result.Replaces, wsbouncer.LoggedOut, g.Subject); err != nil && !errors.Is(err, session.ErrNotFound) {
			a.o.Log.ErrorContext(ctx, "ending the session that a login replaces", "error", err)
		}
	}
	if err := a.setCookies(w, g); err != nil {
		_, endErr := a.o.Sessions.End(ctx, g.SessionID, wsbouncer.LoggedOut, g.Subject)
		return a.loginProblem(w, r, "", errors.Join(err, endErr))
	}
	return seeOther(w, result.ReturnTo)
}

var loginEnded = &httpx.Problem{
	Status: http.StatusForbidden, Code: "login_denied",
	Detail: "The provider has ended that login. Log in again.",
}

var loginDisabled = &httpx.Problem{
	Status: http.StatusForbidden, Code: "login_denied",
	Detail: "You may not log in here any more. The operator decides who may.",
}

// seeOther leads on with a GET, whatever it was (RFC 9700 §4.12). The body is
// empty: the address may hold a state that is nobody else's business.
func seeOther(w http.ResponseWriter, address string) error {
	w.Header().Set("Location", address)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// kept bounds the events that an address can cause at no cost.
func (a *API) kept(r *http.Request) bool {
	ok, _ := a.refusals.Allow(limit.IPKey(from(r.Context()).ip), time.Now())
	return ok
}

// loginFailed tells the browser and, with keep, the log and the audit trail.
func (a *API) loginFailed(w http.ResponseWriter, r *http.Request, err error, keep bool) error {
	var f *login.Failure
	if !errors.As(err, &f) {
		return a.loginProblem(w, r, "", err)
	}
	name := r.PathValue("provider")
	if keep {
		if f.Status >= http.StatusInternalServerError {
			a.o.Log.WarnContext(r.Context(), "a login provider failed", "provider", audit.Cut(name, 32), "reason", f.Reason, "error", f.Cause)
		}
		e := audit.Event{Type: audit.LoginFailed, Issuer: a.o.Issuer, Detail: map[string]string{"provider": audit.Cut(name, 64), "reason": f.Reason, "code": f.Code}}
		if err := a.o.Audit.Write(r.Context(), e); err != nil {
			return a.loginProblem(w, r, "", err)
		}
	}
	return a.loginProblem(w, r, name, &f.Problem)
}

func (a *API) loginThrottled(w http.ResponseWriter, r *http.Request, retry time.Duration) error {
	if a.kept(r) {
		e := audit.Event{Type: audit.LoginThrottled, Issuer: a.o.Issuer, Detail: map[string]string{"provider": audit.Cut(r.PathValue("provider"), 64)}}
		if err := a.o.Audit.Write(r.Context(), e); err != nil {
			return err
		}
	}
	return a.loginProblem(w, r, "", tooMany(failedLogins, retry))
}

// loginProblem shows a refusal to a person: a plain page, or JSON to those who
// ask for it. again names the provider to try anew.
func (a *API) loginProblem(w http.ResponseWriter, r *http.Request, again string, err error) error {
	var p *httpx.Problem
	if !errors.As(err, &p) || asksJSON(r) {
		return err
	}
	page := struct {
		*httpx.Problem
		Again string
	}{p, ""}
	if again != "" && p.Status != http.StatusNotFound && p.Code != "return_to_denied" {
		page.Again = a.o.AuthPath + "/login/" + again
	}
	var b strings.Builder
	if err := loginPage.Execute(&b, page); err != nil {
		return err
	}
	h := w.Header()
	p.ProblemHeader(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(p.Status)
	_, _ = w.Write([]byte(b.String()))
	return nil
}

// asksJSON: the caller is a program that wants application/problem+json.
func asksJSON(r *http.Request) bool {
	accept := strings.ToLower(strings.Join(r.Header["Accept"], ","))
	return strings.Contains(accept, "json") && !strings.Contains(accept, "text/html")
}

// loginPage has no script and no style, which the policy of httpx.Secure forbids.
var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Login failed</title>
<h1>Login failed</h1>
<p>{{.Detail}}</p>
<p>Code: <code>{{.Code}}</code></p>
{{if .Again}}<p><a href="{{.Again}}">Log in again</a></p>
{{end}}</html>
`))
